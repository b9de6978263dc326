"""A federation under a cosine schedule, on fixed features: plans shrink the rate, and all agree on every model."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from crypto import sketch
from crypto.packing import LEVELS
from protos.records import Plan
from protos.task import MICRO
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
    limit = federation.task.step_log2
    assert plans[0].step_log2 == limit
    for last, plan in pairwise(plans):
        assert plan.step_log2 == min(limit, math.ceil(math.log2(_range(federation, last, plan) / LEVELS)))
    assert [view.outcome.result for view in history.rounds if view.outcome] == ["adopted"] * 3
    assert {session.history.model for session in federation.sessions.values()} == {history.model}
    federation.close()


def test_silo_with_other_features_cannot_take_part(tmp_path: Path) -> None:
    federation = simulation(tmp_path, None)
    with pytest.raises(BadData, match=f"give the file with SHA-256 {FEATURES}"):
        federation.run()
    federation.close()


def _range(federation: Simulation, last: Plan, plan: Plan) -> float:
    """What the round of `plan` must hold, in floats: eight deviations of noise, or of what `last` showed."""
    history, packing = federation.history, federation.history.packing
    opened = history.rounds[last.round - 1].openings.values()
    folds = [sketch.from_bytes(one.folds, one.output, packing, packing.folds)[0] * 1.0 for one in opened]
    body = max(np.linalg.norm(fold) for fold in folds) / math.sqrt(packing.folds * packing.size) * 2.0**last.step_log2
    training, smallest = plan.training, min(count.total for count in history.counts.values())
    rate = training.learning_rate_micro / training.sample_rate_micro / smallest
    noise = rate * training.noise_micro / MICRO * training.clip_micro / MICRO * math.sqrt(training.steps)
    return 8 * max(noise, float(body))


def _through(found: Records, extractor: str | None) -> Records:
    return replace(found, extractor=extractor)
