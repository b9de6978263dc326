"""A federation under a cosine schedule, on fixed features: plans shrink the rate, and all agree on every model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from protos.records import Plan
from redteam.simulator import Seat, Simulation
from silo.data import Records
from silo.errors import BadData
from tests.integration.federation import SILOS, policy, records, task

pytestmark = pytest.mark.integration
FEATURES = "ab" * 32


def simulation(directory: Path, extractor: str | None) -> Simulation:
    toy, model = task()
    toy = replace(toy, schedule="cosine", model=replace(toy.model, features=FEATURES))
    seats = {name: Seat(_through(records(index), extractor)) for index, name in enumerate(SILOS)}
    return Simulation(directory, toy, model, policy(), seats)


def test_every_round_is_adopted_with_its_own_rate_and_step(tmp_path: Path) -> None:
    federation = simulation(tmp_path, FEATURES)
    history = federation.run()
    plans: list[Plan] = [view.plan for view in history.rounds]
    assert [plan.training.learning_rate_micro for plan in plans] == [1_000_000, 750_000, 250_000]
    steps = [plan.step_log2 for plan in plans]
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] < steps[0] == federation.task.step_log2
    assert [view.outcome.result for view in history.rounds if view.outcome] == ["adopted"] * 3
    assert {session.history.model for session in federation.sessions.values()} == {history.model}
    federation.close()


def test_silo_with_other_features_cannot_take_part(tmp_path: Path) -> None:
    federation = simulation(tmp_path, None)
    with pytest.raises(BadData, match=f"give the file with SHA-256 {FEATURES}"):
        federation.run()
    federation.close()


def _through(found: Records, extractor: str | None) -> Records:
    return replace(found, extractor=extractor)
