"""Rules that trust somebody, in the simulator: FLTrust's root update and MoNNA's pivot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crypto.quantise import model_digest
from defenses import registry
from defenses.errors import MissingEvidence, NeedsArgument
from protos.task import MICRO, Training
from redteam.attacks.data import holdout
from redteam.measured import Row
from redteam.run import run
from redteam.scenario import parse
from redteam.simulator import Simulation
from redteam.trusted import RootUpdates, pivot_of, root_of
from redteam.world import World, build

pytestmark = pytest.mark.integration

NOWHERE = Path("no directory is needed for digits")
ROUNDS, SILOS = 3, 6
TINY: dict[str, Any] = {
    "model": {"kind": "linear"},
    "data": {"test": 200, "ratio": 4.0},
    "training": {
        "rounds": ROUNDS, "steps": 5, "sample_rate": 0.3, "learning_rate": 2.0, "clip": 5.0, "schedule": "cosine"
    },
    "attack": {"name": "sign-flip", "share": 0.34},
}  # fmt: skip


def scenario(defense: str) -> Any:
    return parse(TINY | {"federation": {"silos": SILOS, "folds": 2, "defense": defense}})


@cache
def row(defense: str) -> Row:
    return run(scenario(defense), NOWHERE)


def world() -> World:
    return build(scenario("fltrust"), NOWHERE)


def test_fltrust_gives_sign_flippers_no_weight_in_any_round() -> None:
    silos = row("fltrust").silos
    assert sum(one.attacks for one in silos) == 2
    for one in silos:
        assert len(one.weights) == ROUNDS
        assert (max(one.weights) == 0) == one.attacks
    assert row("fltrust").accuracy > row("plain").accuracy + 0.2


def test_monna_keeps_its_pivot_and_leaves_out_as_many_as_attack() -> None:
    silos = row("monna").silos
    assert [sum(one.weights[number] > 0 for one in silos) for number in range(ROUNDS)] == [SILOS - 2] * ROUNDS
    pivot = max((one for one in silos if not one.attacks), key=lambda one: one.records)
    assert min(pivot.weights) > 0
    assert row("monna").accuracy > row("plain").accuracy + 0.2


def test_nobody_trusts_by_name_outside_a_run() -> None:
    row("fltrust")
    for name in ("fltrust", "monna"):
        with pytest.raises(NeedsArgument):
            registry.get(name)


def test_the_pivot_is_honest_even_where_an_attacker_has_more_records() -> None:
    def own(count: int) -> Any:
        return holdout(np.zeros((count, 2), np.float32), np.zeros(count, np.int64))

    records = {"a": own(3), "b": own(9), "eve": own(50), "c": own(9)}
    assert pivot_of(records, {"eve": None}) == "b"


def test_the_root_set_is_public_balanced_and_no_test_record() -> None:
    features, labels = np.arange(90, dtype=np.float32)[:, None], np.arange(90) % 3
    assert np.bincount(root_of(features, labels).labels).tolist() == [30, 30, 30]
    own = world()
    assert len(own.trusted.labels) == 100
    assert np.bincount(own.trusted.labels).tolist() == [10] * 10
    public = {row.tobytes() for row in own.trusted.features}
    for records in (own.test, *own.records.values()):
        assert not public & {row.tobytes() for row in records.holdout_features}
        assert not public & {row.tobytes() for row in records.features}


def naive(model: NDArray[np.float32], features: Any, labels: Any, clip: float, rate: float, steps: int) -> Any:
    """Full-batch softmax regression, each record's gradient clipped, record by record."""
    weights = model.astype(np.float64).copy()
    for _ in range(steps):
        total = np.zeros_like(weights)
        for x, label in zip(features.astype(np.float64), labels, strict=True):
            scores = weights[:-10].reshape(10, -1) @ x + weights[-10:]
            residual = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
            residual[label] -= 1
            gradient = np.concatenate([np.outer(residual, x).ravel(), residual])
            total += gradient * min(1.0, clip / np.linalg.norm(gradient))
        weights -= rate * total / len(labels)
    return weights - model


def test_the_root_update_is_clipped_descent_on_the_whole_root_set_without_noise() -> None:
    own = world()
    rule = RootUpdates(own.task, own.trusted, lambda: None)
    model = np.random.default_rng(0).normal(0, 0.3, own.task.layout.size).astype(np.float32)
    training = Training(300_000, 4, 2 * MICRO, MICRO // 2, 3 * MICRO)
    wanted = naive(model, own.trusted.features, own.trusted.labels, 0.5, 2.0, 4)
    assert rule.update(model, training) == pytest.approx(wanted, abs=1e-4 * np.abs(wanted).max())


def test_the_root_update_starts_from_the_model_and_rate_of_each_round(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []
    plans: list[Any] = []
    update, close = RootUpdates.update, Simulation.close

    def watched(self: RootUpdates, model: NDArray[np.float32], training: Training) -> Any:
        asked.append((model_digest(model), training.learning_rate_micro))
        return update(self, model, training)

    def closing(self: Simulation) -> None:
        plans.extend(view.plan for view in self.history.rounds)
        close(self)

    monkeypatch.setattr(RootUpdates, "update", watched)
    monkeypatch.setattr(Simulation, "close", closing)
    run(scenario("fltrust"), NOWHERE)
    assert asked == [(plan.model, plan.training.learning_rate_micro) for plan in plans]
    assert len(set(asked)) == ROUNDS


def test_signs_that_no_round_drew_are_refused(tmp_path: Path) -> None:
    """Before the run, and for a round of another federation."""
    own = world()
    rules: list[Callable[..., Any]] = [RootUpdates(own.task, own.trusted, lambda: None)]
    simulation = Simulation(tmp_path, own.task, own.model, replace(own.policy, defense="plain"), own.seats)
    simulation.run_rounds(1)
    rules.append(RootUpdates(own.task, own.trusted, lambda: simulation))  # type: ignore[arg-type, return-value]
    packing = simulation.history.packing
    setting: Any = type("Signs", (), {"signs": np.zeros((packing.folds, packing.body_chunks), np.int8)})
    for rule in rules:
        with pytest.raises(MissingEvidence, match="no round has drawn"):
            rule(setting)
    simulation.close()
