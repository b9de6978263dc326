"""Key epochs under attack and after accidents: nobody trains under keys that not all members agree on."""

from __future__ import annotations

import dataclasses
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.errors import RejectedMessage
from coordinator.service import Service
from crypto import ring, sealing
from crypto.errors import CheckFailed, SealBroken
from crypto.identity import ExchangeKey, SigningKey, sign
from crypto.secure_sum import SiloSum
from protos.codec import decode, pack, unpack
from protos.messages import Deal, KeyCheck, Signed
from protos.records import DealRecord
from protos.rounds import Phase
from silo.identity import SiloIdentity
from tests.integration.bench import Bench, bench, closed, outcomes, seat
from tests.integration.federation import SILOS
from tests.integration.test_forged_records import _shown, only

VICTIM = "eve"
OTHERS = tuple(name for name in SILOS if name != VICTIM)
ROUND = (Phase.COMMITTING, Phase.OPENING, Phase.CHECKING, Phase.VERIFYING)


def in_phase(phase: Phase, epoch: int = 0) -> Any:
    return lambda history: history.phase is phase and history.epoch >= epoch


def sent(federation: Bench, name: str, cls: Any) -> list[Signed]:
    messages = [unpack(Signed, message) for message in federation.link(name).sent]
    return [message for message in messages if message.body["kind"] == cls.KIND]


def notes(federation: Bench) -> str:
    return " | ".join(step.note or "" for steps in federation.progress.values() for step in steps)


# Who gets the secrets


class Substituting(Service):
    """Puts keys of its own on record under a member's name; `half` says which of the two."""

    exchange, signing = ExchangeKey.generate(), SigningKey.generate()
    half = "exchange"

    def enrol(self, name: str, signing_key: str, exchange_key: str) -> None:
        if name == VICTIM:
            own = self.exchange.public if self.half == "exchange" else exchange_key
            signing_key, exchange_key = (signing_key if self.half == "exchange" else self.signing.public), own
        super().enrol(name, signing_key, exchange_key)


@pytest.mark.parametrize("half", ["exchange", "signing"])
def test_substituted_public_key_gets_no_secret_because_its_fingerprint_is_not_the_approved_one(
    tmp_path: Path, half: str
) -> None:
    federation = bench(tmp_path, rounds=1, service=type("Substituting_", (Substituting,), {"half": half}))
    federation.service.start()
    federation.turns(12)
    assert federation.history.phase is Phase.DEALING
    assert not any(sent(federation, name, Deal) for name in OTHERS)
    assert f"waiting for approval of {VICTIM}: another fingerprint is approved" in notes(federation)
    assert not any(list((tmp_path / name).glob("epoch-*.key")) for name in SILOS)


def test_deal_that_was_sealed_for_an_own_key_of_the_coordinator_is_not_confirmed(tmp_path: Path) -> None:
    """A steward in league with the coordinator seals for it: every honest member sees the fingerprint in the deal."""

    def change(body: DealRecord) -> DealRecord:
        deal = decode(Deal, body.deal.body)
        forged = [
            dataclasses.replace(one, fingerprint="ab" * 32) if one.silo == VICTIM else one for one in deal.secrets
        ]
        return DealRecord(sign(dataclasses.replace(deal, secrets=tuple(forged)), body.deal.signer, holder[0]))

    federation = _shown(tmp_path, only(DealRecord, change))
    federation.service.start()
    federation._tick()
    roster = federation.history.roster
    assert roster is not None
    holder = [federation.identities[roster.steward].signing]
    federation.turns(3)
    assert not list((tmp_path / "bob").glob("epoch-*.key"))


def test_newcomer_that_nobody_approved_stops_the_rotation_until_it_is_approved(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=3)
    everybody = dict(federation._approved())
    federation.until(closed(1))
    fay = SiloIdentity("fay", "simulated", federation.log_key.public, SigningKey.generate(), ExchangeKey.generate())
    federation.seats["fay"], federation.identities["fay"] = seat(9), fay
    federation.service.enrol("fay", fay.signing.public, fay.exchange.public)
    federation.sessions["fay"] = federation.open_session("fay")
    for name in SILOS:
        federation.sessions[name].desk.approved = lambda: everybody
    federation.service.start()
    federation.until(in_phase(Phase.DEALING))
    federation.turns(15)
    assert federation.history.phase is Phase.DEALING
    assert federation.history.epoch == 1
    assert "waiting for approval of fay: it is not approved" in notes(federation)
    for name in SILOS:
        federation.sessions[name].desk.approved = federation._approved
    history = federation.run()
    assert history.epoch == 2
    assert "fay" in history.round.weights


# Deals


def test_deal_of_an_older_epoch_is_refused_whoever_sends_it_again(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=3)
    federation.until(closed(1))
    first = federation.history.roster
    assert first is not None
    (old,) = sent(federation, first.steward, Deal)
    federation.service.start()
    for name in SILOS:
        federation.link(name).down = True
    federation.until(in_phase(Phase.DEALING))
    now = federation.history.roster
    assert now is not None
    assert now.epoch == 2
    with pytest.raises(RejectedMessage):
        federation.service.submit(first.steward, pack(old))
    replayed = sign(decode(Deal, old.body), now.steward, federation.identities[now.steward].signing)
    with pytest.raises(RejectedMessage, match="answers another roster"):
        federation.service.submit(now.steward, pack(replayed))
    for change in ({"roster": federation.history.roster_digest}, {"epoch": 2}):
        half = sign(
            dataclasses.replace(decode(Deal, old.body), **change), now.steward,
            federation.identities[now.steward].signing,
        )  # fmt: skip
        with pytest.raises(RejectedMessage, match=r"another roster|another key epoch"):
            federation.service.submit(now.steward, pack(half))


@pytest.mark.parametrize("kind", ["sealed for the older epoch", "secrets of the older epoch", "sealed for a neighbour"])
def test_steward_that_deals_old_secrets_again_is_followed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    federation = bench(tmp_path, rounds=3)
    federation.until(closed(1))
    old = federation.sessions["ada"].workspace.load_secret(1)
    assert old is not None
    real, done = sealing.seal, set[str]()

    def lying(secret: bytes, key: str, *, federation: str, epoch: int, silo: str) -> bytes:
        if silo in done:
            return real(secret, key, federation=federation, epoch=epoch, silo=silo)
        done.add(silo)
        if kind == "secrets of the older epoch":
            return real(old, key, federation=federation, epoch=epoch, silo=silo)
        if kind == "sealed for a neighbour":
            return real(secret, key, federation=federation, epoch=epoch, silo="neighbour")
        return real(secret, key, federation=federation, epoch=epoch - 1, silo=silo)

    monkeypatch.setattr(sealing, "seal", lying)
    federation.service.start()
    history = federation.until(lambda state: state.epoch == 2)
    assert history.roster is not None
    assert (history.roster.attempt, history.roster.members) == (2, SILOS)
    assert history.convicted == {}
    new = {session.workspace.load_secret(2) for session in federation.sessions.values()}
    assert len(new) == 1
    assert old not in new
    assert outcomes(federation.run())[-1].result == "adopted"


@pytest.mark.parametrize("kind", ["unsigned", "signed by the coordinator", "signed by another member"])
def test_deal_that_the_steward_did_not_sign_is_taken_by_nobody(tmp_path: Path, kind: str) -> None:
    holder: list[Bench] = []

    def forged(deal: Deal, steward: str) -> Signed:
        if kind == "unsigned":
            return dataclasses.replace(sign(deal, steward, holder[0].log_key), signature="0" * 128)
        if kind == "signed by the coordinator":
            return sign(deal, steward, holder[0].log_key)
        other = next(name for name in SILOS if name != steward)
        return sign(deal, other, holder[0].identities[other].signing)

    def change(body: DealRecord) -> DealRecord:
        return DealRecord(forged(decode(Deal, body.deal.body), body.deal.signer))

    federation = _shown(tmp_path, only(DealRecord, change))
    holder.append(federation)
    federation.service.start()
    federation._tick()
    assert federation.history.roster is not None
    steward = federation.history.roster.steward
    federation.turns(3)
    # The silo to which it was shown stops; the coordinator itself takes no such message either.
    assert "Halted" in federation.said("bob")
    assert not sent(federation, "bob", KeyCheck)
    assert not list((tmp_path / "bob").glob("epoch-*.key"))
    fresh = bench(tmp_path / "fresh", rounds=1)
    fresh.service.start()
    fresh._tick()
    assert fresh.history.roster is not None
    deal = Deal("simulated", fresh.history.roster_digest, 1, "ckks", ())
    holder[0] = fresh
    with pytest.raises(RejectedMessage):
        fresh.service.submit(steward, pack(forged(deal, steward)))
    assert fresh.history.phase is Phase.DEALING


def test_steward_that_vanishes_after_its_deal_is_left_out_and_another_deals(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=1)
    federation.service.start()
    federation._tick()
    assert federation.history.roster is not None
    gone = federation.history.roster.steward
    federation._step(gone)
    federation._tick()
    assert federation.history.phase is Phase.CONFIRMING
    federation.link(gone).down = True
    history = federation.until(lambda state: bool(state.rounds))
    assert history.roster is not None
    assert gone not in history.epoch_members
    assert history.roster.steward != gone
    kept = {federation.sessions[name].workspace.load_secret(1) for name in history.epoch_members}
    assert len(kept) == 1
    # The vanished steward knows only the secrets that nobody uses.
    assert federation.sessions[gone].workspace.load_secret(1) not in kept


def test_member_that_confirms_another_value_changes_the_steward_and_no_epoch_begins(tmp_path: Path) -> None:
    """A liar can hold an epoch up; it can neither convict the steward nor start one without agreement."""
    federation = bench(tmp_path, rounds=1)
    federation.service.start()
    federation._tick()
    assert federation.history.roster is not None
    federation._step(federation.history.roster.steward)
    federation._tick()
    deal, roster = federation.history.deal_digest, federation.history.roster
    assert roster is not None
    false = KeyCheck("simulated", deal, roster.epoch, "5" * 64, None)
    federation.service.submit(VICTIM, pack(sign(false, VICTIM, federation.identities[VICTIM].signing)))
    history = federation.until(lambda state: state.roster is not None and state.roster.attempt == 2)
    assert history.convicted == {}
    assert federation.run().epoch == 1


# Rotation


@pytest.mark.parametrize("phase", ROUND, ids=lambda phase: phase.value)
def test_rotation_asked_for_while_a_round_runs_waits_for_its_end_and_loses_nothing(
    tmp_path: Path, phase: Phase
) -> None:
    federation = bench(tmp_path, rounds=3)
    federation.until(in_phase(phase))
    before = federation.sessions["ada"].workspace.load_secret(1)
    federation.service.start()
    history = federation.run()
    assert [(one.result, one.late) for one in outcomes(history)] == [("adopted", ())] * 3
    assert [view.plan.epoch for view in history.rounds] == [1, 2, 2]
    for session in federation.sessions.values():
        assert [path.name for path in session.workspace.directory.glob("epoch-*.key")] == ["epoch-2.key"]
        assert session.workspace.load_secret(2) not in (None, before)
    assert federation.errors == {}


def test_update_of_an_older_epoch_opens_under_no_newer_keys(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=2)
    federation.until(in_phase(Phase.OPENING))
    packing, view = federation.history.packing, federation.history.round
    chunks = list(federation.sessions["ada"].workspace.ciphertext(1))
    update = federation.sessions["ada"].workspace.load_update(1)
    assert update is not None
    federation.service.start()
    federation.until(lambda state: state.epoch == 2)
    secret = federation.sessions["bob"].workspace.load_secret(2)
    assert secret is not None
    rows = np.zeros((1, packing.chunks), np.int8)
    rows[0, 0] = 1
    with pytest.raises(CheckFailed, match=r"^whole$"):
        SiloSum(secret).check_folded(
            [ring.to_bytes(ring.parse_fresh(chunks[0]))],
            rows,
            packing,
            plan=view.plan_digest,
            silo="ada",
            tags=update.tags,
            sketch=None,
        )
    deal = federation.history.deal
    assert deal is not None
    (own,) = [item for item in decode(Deal, deal.deal.body).secrets if item.silo == "bob"]
    with pytest.raises(SealBroken):
        sealing.unseal(own.sealed, federation.identities["bob"].exchange, federation="simulated", epoch=1, silo="bob")


# Accidents


@pytest.mark.parametrize("accident", ["lost", "empty", "garbage"])
def test_silo_without_its_key_file_sits_out_and_comes_back_with_the_next_epoch(tmp_path: Path, accident: str) -> None:
    federation = bench(tmp_path, rounds=4)
    federation.until(closed(1))
    path = tmp_path / VICTIM / "epoch-1.key"
    path.unlink() if accident == "lost" else path.write_bytes(b"" if accident == "empty" else b'{"ckks":"AAAA"}')
    federation.restart(VICTIM)
    history = federation.until(closed(2))
    assert outcomes(history)[1].result == "adopted"
    assert VICTIM not in history.rounds[1].weights
    assert history.convicted == {}
    said = notes(federation) + federation.said(VICTIM)
    assert "ask the coordinator to start a new epoch" in said or "ask the steward for a new deal" in said
    federation.service.start()
    history = federation.run()
    assert history.epoch == 2
    assert VICTIM in history.rounds[-1].weights
    assert federation.sessions[VICTIM].workspace.has_model(history.model)


def test_snapshot_of_an_older_epoch_has_no_use_for_its_keys_and_rejoins_with_the_next(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=5)
    federation.until(closed(1))
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / VICTIM, copy)
    federation.service.start()
    federation.until(lambda state: state.epoch == 2 and len(outcomes(state)) == 2)
    federation.sessions[VICTIM].close()
    ledger = {path.name: path.read_bytes() for path in (tmp_path / VICTIM).glob("ledger.db*")}
    shutil.rmtree(tmp_path / VICTIM)
    shutil.copytree(copy, tmp_path / VICTIM)
    for path in (tmp_path / VICTIM).glob("ledger.db*"):
        path.unlink()
    for name, data in ledger.items():
        (tmp_path / VICTIM / name).write_bytes(data)
    federation.sessions[VICTIM] = federation.open_session(VICTIM)
    history = federation.until(closed(3))
    assert VICTIM not in history.rounds[2].weights
    assert history.convicted == {}
    federation.service.start()
    history = federation.run()
    assert history.epoch == 3
    assert VICTIM in history.rounds[-1].weights
    assert [path.name for path in (tmp_path / VICTIM).glob("epoch-*.key")] == ["epoch-3.key"]


def test_coordinator_restored_to_an_older_epoch_is_not_followed(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=3)
    federation.until(closed(1))
    with sqlite3.connect(tmp_path / "coordinator.db") as now, sqlite3.connect(tmp_path / "old.db") as old:
        now.backup(old)
    federation.service.start()
    federation.until(lambda state: state.epoch == 2)
    with sqlite3.connect(tmp_path / "old.db") as old, sqlite3.connect(tmp_path / "coordinator.db") as now:
        old.backup(now)
    (tmp_path / "log.jsonl").unlink()
    federation.restart_service()
    assert federation.history.epoch == 1
    federation.turns(3)
    for name in SILOS:
        assert "rolled back" in federation.said(name)
        assert federation.sessions[name].workspace.load_secret(2) is not None
