"""Aggregation rules in rounds of production: what they make of the model, and who they stand against."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.verify import verify_log
from redteam import aggregated
from redteam.errors import BadScenario
from redteam.run import run
from redteam.scenario import Scenario, parse
from redteam.simulator import Simulation
from redteam.world import build

pytestmark = pytest.mark.integration

NOWHERE = Path("no directory is needed for digits")


def scenario(defense: str, **attack: Any) -> Scenario:
    """Eleven silos of 130 digits each, alike; two attack if any."""
    return parse(
        {
            "model": {"kind": "linear"},
            "data": {"test": 300, "alpha": 10.0},
            "training": {"rounds": 6, "steps": 5, "sample_rate": 0.3, "learning_rate": 2.0, "clip": 5.0},
            "federation": {"silos": 11, "folds": 2, "defense": defense},
            "attack": attack,
        }
    )


@cache
def accuracy(defense: str, attack: str) -> float:
    return run(scenario(defense, name=attack, share=2 / 11), NOWHERE).accuracy


def test_the_model_moves_by_the_median_of_the_updates_and_the_log_verifies(tmp_path: Path) -> None:
    world = build(scenario("median", name="none"), NOWHERE)
    assert world.aggregation is not None
    simulation = Simulation(
        tmp_path, world.task, world.model, world.policy, world.seats, world.entropy, aggregation=world.aggregation
    )
    simulation.run_rounds(1)
    history, size = simulation.history, world.task.layout.size
    view, someone = history.rounds[0], next(iter(simulation.sessions.values()))
    before, after = (someone.workspace.load_model(size, digest) for digest in (view.plan.model, history.model))
    assert before is not None
    assert after is not None
    updates = []
    for name, session in simulation.sessions.items():
        kept = session.workspace.load_update(1)
        assert kept is not None, name
        updates.append(kept.values.astype(np.float64))
    step = 2.0**view.plan.step_log2
    np.testing.assert_allclose(after - before, step * np.median(updates, axis=0), atol=1e-6)
    assert np.abs(after - before - step * np.mean(updates, axis=0)).max() > step / 4
    simulation.close()
    verified = verify_log(tmp_path / "log.jsonl", simulation.log_key.public)
    assert verified.model == history.model


@pytest.mark.parametrize("defense", aggregated.names())
def test_two_of_eleven_ruin_averaging_and_no_rule(defense: str) -> None:
    """Inner product manipulation by a hundred times the mean (Xie et al. 2020)."""
    assert accuracy("plain", "ipm-100") < 0.3
    assert accuracy(defense, "ipm-100") > 0.8


def test_more_attackers_than_a_rule_stands_against_are_refused() -> None:
    with pytest.raises(BadScenario, match=r"bulyan needs at least 15 silos against 3 attackers.*lower attack\.share"):
        build(scenario("bulyan", name="sign-flip", share=3 / 11), NOWHERE)
