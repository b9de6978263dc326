"""Five silos that keep the protocol, some of them late, new or choosy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.history import History
from crypto.identity import ExchangeKey, SigningKey
from crypto.packing import LEVELS
from defenses.weights import bounds
from protos.codec import unpack
from protos.messages import Charge
from protos.records import SignedHead
from protos.rounds import Phase
from silo.desk import LocalPolicy
from silo.errors import BudgetExhausted
from silo.identity import SiloIdentity
from silo.ledger import Ledger
from tests.integration.bench import OneKey, bench, closed, outcomes, replay, seat
from tests.integration.federation import SILOS


def in_phase(phase: Phase, rounds: int = 0) -> Any:
    return lambda history: history.phase is phase and len(history.rounds) >= rounds


def test_all_rounds_are_adopted_and_every_silo_holds_the_released_model(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=3)
    history = federation.run()
    assert [(one.result, one.late, one.refusals) for one in outcomes(history)] == [("adopted", (), ())] * 3
    assert len({one.model for one in outcomes(history)}) == 3
    for name, session in federation.sessions.items():
        model = session.workspace.load_model(federation.task.layout.size, history.model)
        assert model is not None, name
        assert session.step(0.0).finished
        assert [entry.key for entry in session.desk.ledger.entries()] == ["counts", "round-1", "round-2", "round-3"]
    assert federation.errors == {}
    assert not list((tmp_path / "blobs").glob("*")) or {path.name for path in (tmp_path / "blobs").iterdir()} == {
        history.genesis.task.initial_model,
        history.sealed,
    }


def test_the_new_model_is_the_weighted_sum_of_what_the_silos_made(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=1)
    history = federation.until(in_phase(Phase.VERIFYING))
    updates = {name: session.workspace.load_update(1) for name, session in federation.sessions.items()}
    weights = history.round.weights
    federation.run()
    total, step = sum(weights.values()), 2.0**federation.task.step_log2
    expected = sum(weight * updates[name].values.astype(np.int64) for name, weight in weights.items())
    for session in federation.sessions.values():
        model = session.workspace.load_model(federation.task.layout.size, history.model)
        assert model is not None
        assert np.array_equal(model, (step * expected / total).astype(np.float32))
    assert np.abs(expected).max() <= LEVELS * total


def test_weights_lie_within_floor_and_cap(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=1, floor_micro=900_000, cap_micro=1_050_000)
    weights = federation.run().round.weights
    least, greatest = bounds(5, 900_000, 1_050_000, 1024)
    assert (least, greatest) == (185, 215)
    assert sum(weights.values()) == 1024
    assert all(least <= weight <= greatest for weight in weights.values())


def test_the_log_file_verifies_from_nothing_and_its_head_is_of_it(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=1)
    history = federation.run()
    fresh = replay(federation)
    head = unpack(SignedHead, federation.service.tail("ada", 0)[1])
    fresh.chain.verify_head(head)
    assert (fresh.phase, fresh.model, fresh.chain.digest) == (Phase.FINISHED, history.model, history.chain.digest)
    for name in SILOS:
        assert federation.sessions[name].history.chain.digest == history.chain.digest


def test_silo_cut_off_while_committing_is_named_late_and_rejoins_by_itself(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=2)
    federation.until(lambda history: bool(history.rounds))
    federation.link("cyd").down = True
    federation.until(lambda history: history.round.challenge is not None)
    federation.link("cyd").down = False
    history = federation.run()
    first, second = history.rounds
    assert first.challenge is not None
    assert first.challenge.late == ("cyd",)
    assert "cyd" not in first.weights
    assert {signed.signer for signed in outcomes(history)[0].adoptions} == set(SILOS)
    assert "cyd" in second.weights
    assert federation.sessions["cyd"].workspace.has_model(history.model)


def test_silo_cut_off_for_a_whole_round_fetches_the_sealed_model_and_rejoins(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=2)
    federation.until(lambda history: bool(history.rounds))
    federation.link("cyd").down = True
    history = federation.until(closed(1))
    assert outcomes(history)[0].late == ("cyd",)
    first = history.model
    assert not federation.sessions["cyd"].workspace.has_model(first)
    federation.link("cyd").down = False
    federation.turn()
    assert federation.sessions["cyd"].workspace.has_model(first)
    assert "cyd" in federation.run().rounds[1].weights


def test_silo_that_vanishes_after_its_commitment_is_named_withdrawn(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=1)
    federation.until(in_phase(Phase.OPENING))
    federation.link("bob").down = True
    history = federation.run()
    assert history.round.withdrawn == ("bob",)
    assert "bob" not in history.round.weights
    assert outcomes(history)[0].result == "adopted"
    assert outcomes(history)[0].late == ("bob",)
    assert history.convicted == {}


@pytest.mark.parametrize("phase", [Phase.COMMITTING, Phase.OPENING])
def test_without_quorum_the_round_is_void_names_the_late_and_leaves_the_model(tmp_path: Path, phase: Phase) -> None:
    federation = bench(tmp_path, rounds=2)
    federation.until(in_phase(phase))
    for name in ("bob", "cyd"):
        federation.link(name).down = True
    history = federation.until(closed(1))
    void = outcomes(history)[0]
    assert (void.result, void.fault, void.late, void.convicted) == ("void", "none", ("bob", "cyd"), ())
    assert history.model == federation.task.initial_model
    for name in ("bob", "cyd"):
        federation.link(name).down = False
    federation.run()
    assert outcomes(federation.history)[1].result == "adopted"


def test_too_few_verifiers_void_the_round(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=2)
    federation.until(in_phase(Phase.VERIFYING))
    for name in ("ada", "bob", "cyd"):
        federation.link(name).down = True
    history = federation.until(closed(1))
    assert outcomes(history)[0].late == ("ada", "bob", "cyd")
    assert history.model == federation.task.initial_model
    for name in ("ada", "bob", "cyd"):
        federation.link(name).down = False
    assert outcomes(federation.run())[1].result == "adopted"


def test_newcomer_joins_by_a_new_key_epoch_and_finds_the_model_sealed(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=3)
    federation.until(closed(1))
    federation.seats["fay"] = seat(9)
    fay = SiloIdentity("fay", "simulated", federation.log_key.public, SigningKey.generate(), ExchangeKey.generate())
    federation.identities["fay"] = fay
    federation.service.enrol("fay", fay.signing.public, fay.exchange.public)
    federation.sessions["fay"] = federation.open_session("fay")
    federation.service.start()
    history = federation.until(lambda state: state.epoch == 2 and state.phase is Phase.COMMITTING)
    assert history.round.plan.silos == (*SILOS, "fay")
    assert history.round.plan.model == outcomes(history)[1].model
    federation.turn()
    assert federation.sessions["fay"].workspace.has_model(history.round.plan.model)
    history = federation.run()
    assert "fay" in history.round.weights
    assert outcomes(history)[-1].result == "adopted"
    for session in federation.sessions.values():
        assert [path.name for path in session.workspace.directory.glob("epoch-*.key")] == ["epoch-2.key"]


def test_steward_that_vanishes_is_followed_by_the_next(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=1)
    federation.service.start()
    federation._tick()
    assert federation.history.roster is not None
    gone = federation.history.roster.steward
    federation.link(gone).down = True
    history = federation.until(lambda state: bool(state.rounds))
    assert history.roster is not None
    assert history.roster.steward != gone
    assert gone not in history.epoch_members
    assert history.convicted == {}


def _deals(monkeypatch: pytest.MonkeyPatch, secret_for: Any) -> None:
    """In attempt 1 each member gets what `secret_for` makes of the dealt secret."""
    from crypto import sealing

    seal = sealing.seal
    done: set[str] = set()

    def lying(secret: bytes, key: str, *, federation: str, epoch: int, silo: str) -> bytes:
        first = silo not in done
        done.add(silo)
        return seal(secret_for(secret, silo) if first else secret, key, federation=federation, epoch=epoch, silo=silo)

    monkeypatch.setattr(sealing, "seal", lying)


@pytest.mark.parametrize("kind", ["another key", "garbage", "garbage for all"])
def test_steward_that_deals_different_keys_is_followed_by_the_next_and_nobody_trains_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    other = OneKey().deal("simulated", 1)
    victims = SILOS if kind == "garbage for all" else ("dan",)
    _deals(monkeypatch, lambda secret, silo: (other if kind == "another key" else b"{}") if silo in victims else secret)
    federation = bench(tmp_path, rounds=1)
    history = federation.until(lambda state: bool(state.rounds))
    assert history.roster is not None
    assert history.roster.attempt == 2
    assert history.roster.members == SILOS
    assert history.convicted == {}
    first_plan = history.round.plan_digest
    for session in federation.sessions.values():
        assert [entry.key for entry in session.desk.ledger.entries()] in (["counts"], ["counts", "round-1"])
    assert first_plan
    assert outcomes(federation.run())[0].result == "adopted"


def test_member_that_nobody_approved_gets_no_key_and_nobody_trains(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=1)
    everybody = federation._approved()
    federation._approved = lambda: {name: mark for name, mark in everybody.items() if name != "eve"}  # type: ignore[method-assign]
    federation.service.start()
    federation.turns(12)
    assert federation.history.phase is Phase.DEALING
    notes = [step.note for name in SILOS for step in federation.progress[name] if step.note]
    assert notes
    assert all("waiting for approval of eve" in note for note in notes)
    assert not federation.history.rounds


def test_one_silo_that_does_not_approve_stops_the_epoch_for_itself_only_until_it_does(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=1)
    everybody = federation._approved()
    choosy: Mapping[str, str] = {name: mark for name, mark in everybody.items() if name != "eve"}
    federation.service.start()
    federation.turn()
    federation.sessions["bob"].desk.approved = lambda: choosy
    history = federation.until(lambda state: bool(state.rounds))
    assert "bob" not in history.round.plan.silos
    assert "bob" not in history.convicted


def test_plan_below_a_local_floor_is_not_trained_for(tmp_path: Path) -> None:
    federation = bench(tmp_path, {"dan": {"local": LocalPolicy(quorum=5, privacy_minimum=2)}}, rounds=1)
    history = federation.run()
    assert history.round.challenge is not None
    assert history.round.challenge.late == ("dan",)
    assert [entry.key for entry in federation.sessions["dan"].desk.ledger.entries()][:1] == ["counts"]
    notes = [step.note for step in federation.progress["dan"] if step.note]
    assert "below the local policy" in notes[0]
    assert "commit" not in federation.link("dan").kinds()


def _spend(ledger: Ledger, charges: tuple[Charge, ...]) -> None:
    for number in range(1000):
        ledger.charge(f"elsewhere-{number}", charges)


def test_exhausted_budget_ends_participation_and_survives_a_restart(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=2)
    federation.until(closed(1))
    ledger = federation.sessions["eve"].desk.ledger
    charges = ledger.entries()[-1].receipt.charges
    with pytest.raises(BudgetExhausted, match="budget exhausted"):
        _spend(ledger, charges)
    federation.restart("eve")
    history: History = federation.run()
    assert history.round.challenge is not None
    assert history.round.challenge.late == ("eve",)
    assert "privacy budget exhausted" in federation.said("eve")
    assert outcomes(history)[-1].result == "adopted"
