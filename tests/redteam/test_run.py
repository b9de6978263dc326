"""One tiny scenario from its file to its row, against what the simulation's own log says."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from audit import history as audit_history
from audit.history import History
from crypto.packing import Packing
from crypto.scheme import Protected
from crypto.secure_sum import SiloSum
from defenses import registry
from defenses.errors import NeedsArgument
from redteam import run as module
from redteam.errors import BadScenario, RedTeamError
from redteam.measured import Row
from redteam.plain import PlainSum
from redteam.run import run
from redteam.scenario import parse
from redteam.shared import Reader
from redteam.simulator import Endless, Simulation
from redteam.world import build
from silo.entropy import OsEntropy
from silo.trainer import trainer_for

pytestmark = pytest.mark.integration

NOWHERE = Path("no directory is needed for digits")
TINY: dict[str, Any] = {
    "model": {"kind": "linear"},
    "data": {"test": 200, "ratio": 4.0},
    "training": {"rounds": 3, "steps": 5, "sample_rate": 0.3, "learning_rate": 2.0, "clip": 5.0},
    "federation": {"silos": 5, "folds": 2},
    "attack": {"name": "badnets", "share": 0.4},
}


def with_defense(name: str, **changes: Any) -> dict[str, Any]:
    return TINY | changes | {"federation": TINY["federation"] | {"defense": name}}


@pytest.fixture(autouse=True)
def _equal_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round's seed hashes fresh nonces and salts; the step of the next round follows from what its folds show."""
    monkeypatch.setattr(audit_history.sketch, "seed_of", lambda nonce, commitments: hashlib.sha256(b"fixed").digest())


@cache
def row(defense: str) -> Row:
    return run(parse(with_defense(defense)), NOWHERE)


def test_a_backdoor_shows_in_the_row_of_plain_averaging() -> None:
    result = row("plain")
    assert (result.rounds, result.void) == (3, 0)
    assert result.accuracy > 0.7
    assert result.success is not None
    assert result.success > 0.5
    assert len(result.accuracies) == len(result.successes) == 3
    assert result.metrics["success_max"] == max(result.successes)
    assert result.metrics["attackers_weight"] == pytest.approx(
        sum(one.effective for one in result.silos if one.attacks)
    )


@pytest.mark.parametrize(
    ("search", "clean", "released"),
    [(None, (), None), (2, (), 0), (2, (False, False), 0), (2, (True, True, False), 3), (2, (True, False, False), 1)],
)
def test_released_is_the_newest_model_whose_search_was_clean(
    search: int | None, clean: tuple[bool, ...], released: int | None
) -> None:
    views = [SimpleNamespace(search=SimpleNamespace(round=1 + 2 * place), clean=one) for place, one in enumerate(clean)]
    task = SimpleNamespace(search=search)
    history = SimpleNamespace(genesis=SimpleNamespace(task=task), searches=views)
    assert module._released(history) == released  # type: ignore[arg-type]


def test_plain_averaging_weighs_by_count_and_excludes_nobody() -> None:
    silos = row("plain").silos
    counts = np.array([one.count for one in silos], dtype=float)
    for number in range(3):
        weights = [one.weights[number] for one in silos]
        assert weights == pytest.approx(counts / counts.sum(), abs=1 / 1024)
    assert not any(one.excluded or one.convicted for one in silos)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_excluded_rounds_are_those_without_weight() -> None:
    """FLAB always removes somebody; it reads an output layer that is small enough to be opened."""
    silos = run(parse(with_defense("flab", model={"kind": "mlp", "hidden": [16]})), NOWHERE).silos
    assert any(one.excluded for one in silos)
    for one in silos:
        assert one.excluded == tuple(n for n, weight in enumerate(one.weights, start=1) if weight == 0)
        assert one.effective == pytest.approx(sum(one.weights) / 3)


def test_the_same_seed_gives_the_same_row_and_another_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    again, other = (run(parse(with_defense("plain", seed=seed)), NOWHERE) for seed in (0, 1))
    assert again.accuracies == row("plain").accuracies
    assert again.successes == row("plain").successes
    assert other.accuracies != again.accuracies


def test_numbers_of_the_row_are_those_of_the_log_and_the_final_model(tmp_path: Path) -> None:
    world = build(parse(with_defense("guard")), NOWHERE)
    simulation = Simulation(
        tmp_path, world.task, world.model, world.policy, world.seats, world.entropy, new_history=Reader()
    )
    history: History = simulation.run()
    size, model = world.task.layout.size, None
    for session in simulation.sessions.values():
        model = session.workspace.load_model(size, history.model)
    simulation.close()
    assert model is not None
    result = row("guard")
    correct, total = trainer_for(world.task, world.test, OsEntropy()).evaluate(model)
    assert result.accuracy == correct / total
    for one in result.silos:
        assert one.weights == tuple(view.weights.get(one.name, 0) / 1024 for view in history.rounds)
        correct, total = trainer_for(world.task, world.records[one.name], OsEntropy()).evaluate(model)
        assert one.accuracy == correct / total


def test_a_closed_simulation_leaves_no_file_open(tmp_path: Path) -> None:
    """A sweep's process runs hundreds."""
    world = build(parse(with_defense("plain")), NOWHERE)
    simulation = Simulation(tmp_path, world.task, world.model, world.policy, world.seats, world.entropy)
    simulation.run_rounds(1)
    assert open_below(tmp_path)
    simulation.close()
    assert open_below(tmp_path) == []


def open_below(directory: Path) -> list[str]:
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [name for name in map(os.readlink, links) if name.startswith(str(directory))]


def test_fairness_numbers_are_of_honest_silos_only() -> None:
    result = row("plain")
    honest = [one.accuracy for one in result.silos if not one.attacks]
    assert result.metrics["worst_silo"] == min(honest)
    assert result.metrics["gap"] == max(honest) - min(honest)
    assert result.metrics["variance"] == pytest.approx(np.var(honest))


def test_q_fedavg_weighs_by_the_logged_errors_of_the_round_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights against counts times losses, which are read from the log's adoptions here on their own."""
    seen: list[History] = []
    close = Simulation.close
    monkeypatch.setattr(Simulation, "close", lambda self: (seen.append(self.history), close(self))[1])
    silos = run(parse(with_defense("q-fedavg")), NOWHERE).silos
    counts = np.array([one.count for one in silos], dtype=float)
    for number, view in enumerate(seen[0].rounds):
        wanted = counts.copy()
        if number:
            outcome = seen[0].rounds[number - 1].outcome
            assert outcome is not None
            said = {signed.signer: signed.body["evaluation"] for signed in outcome.adoptions}
            wanted *= [1 - said[one.name]["correct"] / said[one.name]["total"] for one in silos]
        assert [one.weights[number] for one in silos] == pytest.approx(wanted / wanted.sum(), abs=1.5 / 1024)
        assert view.decision is not None
    with pytest.raises(NeedsArgument):
        registry.get("q-fedavg")


def test_a_defence_that_cannot_judge_the_model_is_an_error_and_no_row() -> None:
    with pytest.raises(BadScenario, match=r"every round is void.*flab reads the exact output layer"):
        row("flab")


def test_an_untargeted_attack_has_no_success() -> None:
    result = run(parse(with_defense("plain", attack={"name": "sign-flip", "share": 0.4})), NOWHERE)
    assert result.success is None
    assert "success" not in result.metrics
    assert result.accuracy < row("plain").accuracy


def test_stores_go_where_fsync_is_cheap_and_leave_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "MEMORY", tmp_path)
    run(parse(with_defense("plain", training=TINY["training"] | {"rounds": 1})), NOWHERE)
    assert list(tmp_path.iterdir()) == []


def test_under_dp_the_noise_is_what_the_budget_needs() -> None:
    training = {"rounds": 4, "sample_rate": 0.2, "epsilon": 3.0, "clip": 1.0}
    task = build(parse(with_defense("plain", training=training)), NOWHERE).task
    assert task.training.noise_micro > 500_000
    assert task.budget.epsilon_micro == 3_000_000
    without = build(parse(with_defense("plain", training=training | {"epsilon": 0.0})), NOWHERE).task
    assert without.training.noise_micro == 1


class OtherTags(PlainSum):
    """Tags another update than it sends, which convicts."""

    def join(self, secret: bytes) -> SiloSum:
        keys = super().join(secret)
        honest = keys.protect

        def protect(fields: Any, packing: Packing, *, plan: str, silo: str) -> Protected:
            sent, other = (honest(one, packing, plan=plan, silo=silo) for one in (fields, np.zeros_like(fields)))
            return Protected(sent.chunks, other.tags)

        keys.protect = protect  # type: ignore[method-assign]
        return keys


def test_a_federation_that_convicts_itself_below_its_quorum_keeps_what_it_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lying(scenario: Any, directory: Path) -> Any:
        world = build(scenario, directory)
        liars = {name: replace(world.seats[name], scheme=OtherTags) for name in ("s000", "s001", "s002")}
        return replace(world, seats={**world.seats, **liars})

    monkeypatch.setattr(module, "build", lying)
    monkeypatch.setattr(module, "_TURNS_A_ROUND", 10)
    result = run(parse(with_defense("guard", attack={"name": "none"})), NOWHERE)
    assert (result.rounds, result.void) == (1, 1)
    assert result.metrics["finished"] == pytest.approx(1 / 3)
    assert result.metrics["honest_convicted"] == pytest.approx(3 / 5)
    assert [one.convicted for one in result.silos] == [1, 1, 1, None, None]


def test_a_federation_that_closes_no_round_is_an_error_that_says_what_to_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unmeetable(scenario: Any, directory: Path) -> Any:
        world = build(scenario, directory)
        return replace(world, policy=replace(world.policy, privacy_minimum=6))

    monkeypatch.setattr(module, "build", unmeetable)
    monkeypatch.setattr(module, "_TURNS_A_ROUND", 1)
    with pytest.raises(Endless, match=r"does not end: .* more silos, or a lower privacy minimum") as caught:
        run(parse(with_defense("plain")), NOWHERE)
    assert isinstance(caught.value, RedTeamError)


def test_a_defect_after_the_first_round_is_never_taken_for_an_early_end(monkeypatch: pytest.MonkeyPatch) -> None:
    measure, seen = module._Runner._measure, []

    def failing(self: Any, history: History) -> tuple[float, ...]:
        seen.append(history)
        if len(seen) > 1:
            raise RuntimeError("a defect")
        return measure(self, history)

    monkeypatch.setattr(module._Runner, "_measure", failing)
    with pytest.raises(RuntimeError, match="a defect"):
        run(parse(with_defense("plain")), NOWHERE)
