"""Every coordinator that lies is stopped by the silos, and learns a refusal's name and never a number."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.errors import InvalidRecord
from coordinator.service import CHUNK_BYTES, Service
from crypto import merkle, ring
from crypto.identity import SigningKey, sign_bytes
from protos import canonical
from protos.codec import decode, encode, pack, unpack
from protos.messages import CHECKS, Signed
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
from tests.integration.bench import Bench, WatchedLink, bench, closed, outcomes
from tests.integration.federation import SILOS

Words = list[Any]
VICTIM = "bob"
OTHERS = tuple(name for name in SILOS if name != VICTIM)


def in_phase(phase: Phase) -> Any:
    return lambda history: history.phase is phase


class FalseSum(Service):
    """Publishes what `lie` makes of the ciphertexts and weights, in the first round."""

    lie: Callable[[list[list[Any]], list[int]], list[Any]]

    def _sum(self) -> str | None:
        if len(self.history.rounds) > 1:
            return super()._sum()
        view = self.history.round
        parts = [list(self._words(view.commits[silo].ciphertext)) for silo in view.weights]
        chunks = [ring.to_bytes(words) for words in type(self).lie(parts, list(view.weights.values()))]
        root = merkle.root(chunks)
        self._blobs.write(root, chunks, merkle=True, limit=len(chunks) * CHUNK_BYTES)
        return root


def add_up(parts: list[list[Any]], weights: list[int]) -> list[Any]:
    return list(ring.weighted_sum(parts, weights))


def drops_one(parts: list[list[Any]], weights: list[int]) -> list[Any]:
    return add_up(parts[1:], weights[1:])


def doubles_one(parts: list[list[Any]], weights: list[int]) -> list[Any]:
    return add_up(parts, [2 * weights[0], *weights[1:]])


def swaps_two_weights(parts: list[list[Any]], weights: list[int]) -> list[Any]:
    return add_up(parts, [weights[0] + 1, weights[1] - 1, *weights[2:]])


def adds_an_offset(parts: list[list[Any]], weights: list[int]) -> list[Any]:
    """2^22 is one unit of a slot at our scale: as a constant polynomial in every place, it moves all slots."""
    offset = np.zeros(ring.WORDS, dtype=np.uint64)
    offset[: ring.WORDS // 2] = 2**22
    first, *rest = add_up(parts, weights)
    return [ring.add(first, offset), *rest]


def asks_for_the_key(parts: list[list[Any]], weights: list[int]) -> list[Any]:
    """(0, 2^38): decrypts to the secret key, scaled."""
    crafted = np.zeros(ring.WORDS, dtype=np.uint64)
    crafted[ring.WORDS // 2 :] = 2**38
    return [crafted] * len(parts[0])


def asks_for_one_update(parts: list[list[Any]], weights: list[int]) -> list[Any]:
    return parts[0]


def sums_chunks_out_of_order(parts: list[list[Any]], weights: list[int]) -> list[Any]:
    first, second, *rest = add_up(parts, weights)
    return [second, first, *rest]


def sends_a_chunk_too_few(parts: list[list[Any]], weights: list[int]) -> list[Any]:
    return add_up(parts, weights)[:-1]


def sends_nothing_but_zeros(parts: list[list[Any]], weights: list[int]) -> list[Any]:
    return [np.zeros(ring.WORDS, dtype=np.uint64)] * len(parts[0])


LIES = [
    drops_one, doubles_one, swaps_two_weights, adds_an_offset, asks_for_the_key, asks_for_one_update,
    sums_chunks_out_of_order, sends_a_chunk_too_few, sends_nothing_but_zeros,
]  # fmt: skip


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_false_sum_is_refused_by_name_only_laid_to_the_coordinator_and_halts_the_silos(
    tmp_path: Path, lie: Any
) -> None:
    false = type("False_", (FalseSum,), {"lie": staticmethod(lie)})
    federation = bench(tmp_path, rounds=2, service=false)
    history = federation.until(in_phase(Phase.VERIFYING))
    before = {name: len(federation.link(name).sent) for name in SILOS}
    federation.until(closed(1))
    (void,) = outcomes(history)
    assert (void.result, void.fault, void.convicted) == ("void", "sum", ())
    assert history.model == federation.task.initial_model
    for name in SILOS:
        refusal = unpack(Signed, federation.link(name).sent[before[name]]).body
        assert set(refusal) == {"check", "federation", "kind", "sum"}
        assert refusal["check"] in CHECKS
        assert federation.link(name).kinds()[before[name] :] == ["refusal", "trace-opening", "answers"]
    federation.turns(3)
    assert history.phase is Phase.IDLE
    for name in SILOS:
        assert "Halted: the sum of round 1 was false" in federation.said(name)


def test_after_a_false_sum_nothing_is_trained_until_operators_act(tmp_path: Path) -> None:
    false = type("False_", (FalseSum,), {"lie": staticmethod(drops_one)})
    federation = bench(tmp_path, rounds=2, service=false)
    federation.until(closed(1))
    federation.turns(2)
    federation.service.start()
    federation.turns(3)
    assert federation.history.phase is Phase.DEALING
    for name in SILOS:
        federation.restart(name)
    federation.turn()
    assert federation.history.phase is Phase.DEALING
    for session in federation.sessions.values():
        session.resume()
    history = federation.run()
    assert [one.result for one in outcomes(history)] == ["void", "adopted"]
    for session in federation.sessions.values():
        assert [entry.key for entry in session.desk.ledger.entries()] == ["counts", "round-1", "round-2"]


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
    federation = _shown(tmp_path, only(cls, lambda body: _without_victim(body, field, named)))
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
        batch, head = real(have, wait_s)
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


@pytest.mark.parametrize("what", ["fold", "sum"])
def test_bytes_other_than_the_signed_ones_are_not_decrypted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    federation = bench(tmp_path, rounds=1)
    federation.until(in_phase(Phase.CHECKING if what == "fold" else Phase.VERIFYING))
    crafted = np.zeros(ring.WORDS, dtype=np.uint64)
    crafted[ring.WORDS // 2 :] = 2**38
    desk, decrypted = federation.sessions[VICTIM].desk, list[Any]()
    with monkeypatch.context() as patch:
        patch.setattr(desk.link, "download", lambda digest: iter([ring.to_bytes(crafted)] * 16))
        patch.setattr(desk, "scheme", _Watching(decrypted))
        patch.setattr(desk, "_joined", None)
        sent = len(federation.link(VICTIM).sent)
        federation._step(VICTIM)
    assert len(federation.link(VICTIM).sent) == sent
    assert decrypted == []
    assert federation.progress[VICTIM][-1].note is not None
    assert "nothing was decrypted" in federation.progress[VICTIM][-1].note
    history = federation.run()
    assert outcomes(history)[0].result == "adopted"
    assert history.convicted == {}


class _Watching:
    """A scheme that notes every ciphertext that it is asked to open."""

    name = "watching"

    def __init__(self, decrypted: list[Any]) -> None:
        self._decrypted = decrypted

    def deal(self, federation: str, epoch: int) -> bytes:
        raise AssertionError("nothing is dealt here")

    def join(self, secret: bytes) -> Any:
        return self

    def check_folded(self, chunks: Any, *arguments: Any, **rest: Any) -> None:
        self._decrypted.append(chunks)

    def open_sum(self, chunks: Any, *arguments: Any, **rest: Any) -> Any:
        self._decrypted.append(chunks)
        raise AssertionError("it was opened")


def test_whole_update_is_never_handed_out(tmp_path: Path) -> None:
    from coordinator.errors import NoSuchBlob

    federation = bench(tmp_path, rounds=1)
    federation.until(in_phase(Phase.CHECKING))
    for commit in federation.history.round.commits.values():
        assert federation.service._blobs.has(commit.ciphertext)
        with pytest.raises(NoSuchBlob):
            federation.service.download(VICTIM, commit.ciphertext)


def test_no_answer_but_an_adoption_depends_on_what_was_decrypted(tmp_path: Path) -> None:
    """A checker's words are a yes or a no about each drawn silo."""
    federation = bench(tmp_path, rounds=1)
    federation.run()
    answers: Iterator[Any] = (
        unpack(Signed, message).body
        for name in SILOS
        for message in federation.link(name).sent
        if unpack(Signed, message).body["kind"].startswith("concordat/answers")
    )
    for body in answers:
        assert set(body) == {"answers", "federation", "kind", "record"}
        assert all(set(one) == {"ok", "silo"} and one["ok"] is True for one in body["answers"])
