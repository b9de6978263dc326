"""A coordinator that shows a silo other records than the log's is stopped by that silo, and nothing is answered."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from audit.errors import InvalidRecord
from coordinator.service import Service
from crypto.identity import SigningKey, sign_bytes
from protos import canonical
from protos.codec import decode, encode, pack, unpack
from protos.records import (
    Challenge,
    Decision,
    Head,
    Judgement,
    Openings,
    Outcome,
    Plan,
    Record,
    Roster,
    SignedHead,
    Sum,
    body_class,
)
from protos.rounds import Phase
from tests.integration.bench import Bench, WatchedLink, bench, in_phase, outcomes, where_drawn
from tests.integration.federation import SILOS

VICTIM = "bob"
OTHERS = tuple(name for name in SILOS if name != VICTIM)


class ForgingLink(WatchedLink):
    """Shows its silo other records than the log's: `forge` gives what stands in place of a record (or after it)."""

    def __init__(self, service: Service, peer: str, key: Callable[[], SigningKey], forge: Any) -> None:
        super().__init__(service, peer)
        self._key, self._forge, self.forged = key, forge, False

    def tail(self, size: int, wait_s: float) -> tuple[list[bytes], bytes]:
        batch, head = super().tail(size, wait_s)
        if self.forged:
            return batch, head
        for place, data in enumerate(batch):
            record = unpack(Record, data)
            bodies = self._forge(decode(body_class(record.body), record.body))
            if bodies is not None:
                self.forged = True
                shown = batch[:place] + _chained(record, bodies)
                return shown, pack(_head(self._key(), size + len(shown), shown[-1]))
        return batch, head


def _chained(record: Record, bodies: Iterable[Any]) -> list[bytes]:
    shown, previous = [], record.previous
    for offset, body in enumerate(bodies):
        shown.append(pack(Record(record.sequence + offset, previous, record.time_ms, encode(body))))
        previous = canonical.digest(shown[-1])
    return shown


def _head(key: SigningKey, size: int, last: bytes) -> SignedHead:
    head = Head("simulated", size, canonical.digest(last))
    return SignedHead(head, sign_bytes(key, pack(head)))


def _shown(directory: Path, forge: Any, **rules: Any) -> Bench:
    """A federation whose coordinator shows the victim what `forge` makes of each record."""
    holder: list[Bench] = []

    def link(service: Service, peer: str) -> ForgingLink:
        return ForgingLink(service, peer, lambda: holder[0].log_key, forge)

    holder.append(bench(directory, {VICTIM: {"link": link}}, **({"rounds": 1} | rules)))
    return holder[0]


def only(cls: Any, change: Callable[[Any], Any]) -> Any:
    return lambda body: [change(body)] if type(body) is cls else None


def test_another_plan_for_one_silo_gets_no_usable_commitment_and_halts_it(tmp_path: Path) -> None:
    forge = only(Plan, lambda plan: dataclasses.replace(plan, nonce_hash="7" * 64))
    federation = _shown(tmp_path, forge)
    history = federation.run()
    assert history.round.challenge is not None
    assert history.round.challenge.late == (VICTIM,)
    assert "changed or forked" in federation.said(VICTIM)
    assert set(history.round.weights) == set(OTHERS)


@pytest.mark.parametrize(
    "change",
    [
        {"quorum": 3},
        {"privacy_minimum": 2},
        {"silos": SILOS[:4]},
        {"evaluation_noise_micro": 1},
        {"model": "0" * 64},
        {"round": 2},
        {"folds": 8},
        {"step_log2": -20},
        {"adopted": 3},
    ],
    ids=lambda change: next(iter(change)),
)
def test_plan_that_does_not_follow_from_task_policy_and_log_is_not_trained_for(tmp_path: Path, change: Any) -> None:
    federation = _shown(tmp_path, only(Plan, lambda plan: dataclasses.replace(plan, **change)))
    federation.until(lambda history: history.round.plan is not None if history.rounds else False)
    federation.turn()
    assert "not the one that task, policy and log give" in federation.said(VICTIM)
    assert "commit" not in federation.link(VICTIM).kinds()
    assert [entry.key for entry in federation.sessions[VICTIM].desk.ledger.entries()] == ["counts"]


def test_another_list_of_commitments_gets_no_usable_opening_and_halts_the_silo(tmp_path: Path) -> None:
    def without_dan(body: Challenge) -> Challenge:
        rest = tuple(signed for signed in body.commitments if signed.signer != "dan")
        return dataclasses.replace(body, commitments=rest, late=("dan",))

    federation = _shown(tmp_path, only(Challenge, without_dan))
    history = federation.run()
    assert VICTIM not in history.round.openings
    assert "changed or forked" in federation.said(VICTIM)
    assert history.round.withdrawn == (VICTIM,)


def _without_victim(body: Any, field: str, named: str | None = None) -> Any:
    rest = tuple(signed for signed in getattr(body, field) if signed.signer != VICTIM)
    return dataclasses.replace(body, **{field: rest, **({named: (VICTIM,)} if named else {})})


@pytest.mark.parametrize(
    ("cls", "field", "named"),
    [
        (Challenge, "commitments", "late"),
        (Openings, "openings", "withdrawn"),
        (Decision, "checks", None),
        (Outcome, "adoptions", "late"),
    ],
)
def test_silo_whose_taken_message_is_left_out_halts(tmp_path: Path, cls: Any, field: str, named: str | None) -> None:
    forge = only(cls, lambda body: _without_victim(body, field, named))
    if cls is Decision:
        federation = where_drawn(tmp_path, lambda directory: _shown(directory, forge), VICTIM)
    else:
        federation = _shown(tmp_path, forge)
    federation.until(lambda history: federation.link(VICTIM).forged or history.phase is Phase.FINISHED)
    federation.turn()
    assert federation.link(VICTIM).forged
    assert "Halted: our answer" in federation.said(VICTIM)
    assert "left out" in federation.said(VICTIM)
    sent = len(federation.link(VICTIM).sent)
    federation.turns(2)
    assert len(federation.link(VICTIM).sent) == sent


def test_silo_named_late_in_a_void_round_although_its_commitment_was_taken_halts(tmp_path: Path) -> None:
    def blamed(body: Challenge) -> Outcome:
        return Outcome(1, "void", "0" * 64, (), (), (), tuple(SILOS[:2]), (), "none", "too few")

    federation = _shown(
        tmp_path,
        only(Challenge, lambda body: dataclasses.replace(blamed(body), model=federation.task.initial_model)),
    )
    federation.until(lambda history: federation.link(VICTIM).forged)
    federation.turn()
    assert "Halted: our answer in phase committing" in federation.said(VICTIM)


def _judged(change: Callable[[Judgement], Judgement], place: int = 0) -> Callable[[Decision], Decision]:
    def forge(body: Decision) -> Decision:
        judgements = list(body.judgements)
        judgements[place] = change(judgements[place])
        return dataclasses.replace(body, judgements=tuple(judgements))

    return forge


def _moved(body: Decision) -> Decision:
    first, second, *rest = body.judgements
    first = dataclasses.replace(first, weight=first.weight + 1)
    return dataclasses.replace(body, judgements=(first, dataclasses.replace(second, weight=second.weight - 1), *rest))


@pytest.mark.parametrize(
    "forge",
    [_moved, _judged(lambda one: dataclasses.replace(one, verdict="excluded", weight=0))],
    ids=["weights moved", "one excluded"],
)
def test_decision_that_does_not_follow_is_refused_and_nothing_is_answered(tmp_path: Path, forge: Any) -> None:
    federation = _shown(tmp_path, only(Decision, forge))
    federation.until(lambda history: federation.link(VICTIM).forged)
    federation.turn()
    assert "do not adopt the sum" in federation.said(VICTIM)
    assert not {"adoption", "refusal"} & set(federation.link(VICTIM).kinds())


def test_second_sum_in_a_round_halts_and_gets_no_answer(tmp_path: Path) -> None:
    federation = _shown(
        tmp_path, lambda body: [body, dataclasses.replace(body, root="5" * 64)] if type(body) is Sum else None
    )
    federation.until(lambda history: federation.link(VICTIM).forged)
    federation.turn()
    assert "sum/v1 cannot follow in phase verifying" in federation.said(VICTIM)
    assert not {"adoption", "refusal"} & set(federation.link(VICTIM).kinds())


def test_coordinator_cannot_write_a_second_sum_or_a_plan_out_of_turn(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=1)
    history = federation.until(in_phase(Phase.VERIFYING))
    digest = history.chain.digest
    assert history.round.sum is not None
    for body in (history.round.sum, history.round.plan, history.round.challenge, history.round.decision):
        with pytest.raises(InvalidRecord, match="cannot follow"):
            federation.service._append(body)
    assert federation.history.chain.digest == digest
    assert outcomes(federation.run())[0].result == "adopted"


def test_log_rolled_back_halts_the_silo(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=1)
    federation.until(in_phase(Phase.OPENING))
    old = federation.service.tail(VICTIM, 0)[1]
    federation.until(in_phase(Phase.VERIFYING))
    federation.link(VICTIM).tail = lambda size, wait_s: ([], old)
    sent = len(federation.link(VICTIM).sent)
    federation.turn()
    assert "rolled back" in federation.said(VICTIM)
    assert len(federation.link(VICTIM).sent) == sent
    federation.restart(VICTIM)
    federation.turn()
    assert "run `resume`" in federation.errors[VICTIM][-1]


@pytest.mark.parametrize("size", [0, 1000])
def test_records_that_no_signed_head_covers_are_not_answered(tmp_path: Path, size: int) -> None:
    federation = bench(tmp_path, rounds=1)
    federation.until(in_phase(Phase.COMMITTING))
    session, real = federation.sessions[VICTIM], federation.link(VICTIM).tail

    def tail(have: int, wait_s: float) -> tuple[list[bytes], bytes]:
        batch = real(have, wait_s)[0]
        if not size:
            return batch, pack(_head(SigningKey.generate(), have + len(batch), batch[-1]))
        return batch, pack(_head(federation.log_key, size, batch[-1] if batch else b""))

    federation.link(VICTIM).tail = tail
    federation._step(VICTIM)
    assert "commit" not in federation.link(VICTIM).kinds()
    assert ("not signed by the log key" in federation.said(VICTIM)) == (size == 0)
    assert session.history.chain.size <= federation.history.chain.size


def test_genesis_with_another_log_key_than_the_invitations_halts(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=1)
    stranger = dataclasses.replace(federation.identities[VICTIM], log_key=SigningKey.generate().public)
    federation.sessions[VICTIM].identity = stranger
    federation.turn()
    assert "Halted" in federation.said(VICTIM)
    assert federation.sessions[VICTIM].history.phase is Phase.EMPTY


def test_roster_with_a_silo_that_did_not_enrol_is_refused(tmp_path: Path) -> None:
    federation = _shown(tmp_path, only(Roster, lambda body: dataclasses.replace(body, members=(*body.members, "zoe"))))
    federation.service.start()
    federation.turns(2)
    assert "only enrolled, unconvicted silos" in federation.said(VICTIM)
    assert federation.link(VICTIM).sent == []
