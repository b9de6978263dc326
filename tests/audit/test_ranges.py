"""The step of a round: against plain floats, against Gaussian noise, and in a real run."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from audit.history import History
from audit.ranges import smallest_step, squared_noise, squared_signal, step_of
from crypto import sketch
from crypto.packing import LEVELS, Packing
from protos.task import LEAST_STEP_LOG2, MICRO, Training
from tests.crypto.conftest import make_layout
from tests.integration.bench import bench
from tests.integration.federation import SILOS

TRAINING = Training(MICRO // 2, 4, 5 * MICRO // 2, MICRO, 3 * MICRO // 2)


def range_of(squared: Fraction) -> float:
    return math.sqrt(squared)


@given(st.floats(1e-12, 1e6), st.sampled_from([7, 31, 127]))
def test_step_is_the_smallest_power_of_two_whose_levels_hold_the_range(largest: float, levels: int) -> None:
    step = smallest_step(Fraction(largest) ** 2, levels)
    assert levels * Fraction(2) ** step >= Fraction(largest) > levels * Fraction(2) ** (step - 1)


def test_step_has_a_least_value() -> None:
    assert smallest_step(Fraction(0)) == LEAST_STEP_LOG2
    assert smallest_step(Fraction(1, 10**60)) == LEAST_STEP_LOG2


def test_noise_alone_leaves_the_range_less_than_once_in_2_to_the_40_and_with_signal_in_2_to_the_20() -> None:
    # lr σ C sqrt(steps) / (q count) by hand: 2.5 * 1.5 * 1 * 2 / (0.5 * 60).
    deviation = 2.5 * 1.5 * 2 / 30
    reach = range_of(squared_noise(TRAINING, 60)) / deviation
    assert 2 * stats.norm.sf(reach) < 2.0**-40
    assert stats.norm.sf(reach - 3) + stats.norm.sf(reach + 3) < 2.0**-20


def test_fewer_records_need_more_range() -> None:
    assert squared_noise(TRAINING, 30) == 4 * squared_noise(TRAINING, 60)


@pytest.mark.parametrize("step", [-9, 0, 3])
def test_range_of_what_was_seen_follows_the_largest_update(step: int) -> None:
    packing = Packing.of(make_layout(4000, 3500, 500), folds=8)
    rng = np.random.default_rng(3)
    drawn = sketch.signs(bytes(32), packing.folds, packing.body_chunks)
    updates = [np.rint(rng.normal(0, deviation, packing.size)).astype(np.int64) for deviation in (5, 12, 8)]
    seen = squared_signal([sketch.sketch(packing.to_fields(u), packing, drawn) for u in updates], 3500, step)
    # 28,000 squares of Gaussians: within 5 % of the deviation is six standard errors.
    assert range_of(seen) == pytest.approx(8 * 12 * 2.0**step, rel=0.05)


def test_output_layer_at_the_limit_doubles_the_range() -> None:
    folds, output = np.zeros((2, 10), np.int32), np.array([3, -LEVELS, 5], np.int32)
    before = -5
    needed = squared_signal([(folds, output)], 10, before)
    assert smallest_step(needed) == before + 1


def test_absurd_numbers_of_liars_do_not_overflow() -> None:
    largest = np.full((8, 8192), 2**31 - 1, np.int32)
    assert smallest_step(squared_signal([(largest, largest[0]), (-largest, -largest[0])], 8, 0)) > 10
    lowest = np.full((1, 1), -(2**31), np.int32)
    assert squared_signal([(lowest, lowest[0])], 1, 0) == Fraction(2 * 2**31) ** 2


@pytest.mark.integration
def test_first_plans_have_the_range_of_the_task_and_later_ones_that_of_noise_and_the_last_adopted_round(
    tmp_path: Path,
) -> None:
    federation = bench(tmp_path, rounds=4)
    history = federation.run()
    limit, steps = federation.task.step_log2, [view.plan.step_log2 for view in history.rounds]
    assert steps[0] == limit
    assert min(steps[1:]) < limit
    assert max(steps) <= limit
    noise = _noise(history)
    for view in history.rounds[1:]:
        assert LEVELS * 2.0**view.plan.step_log2 > 8 * noise
    kept = [session.workspace.load_update(4) for session in federation.sessions.values()]
    assert [int((np.abs(update.values) == LEVELS).sum()) for update in kept if update] == [0] * len(SILOS)

    _voided(history, 4)
    assert step_of(history, history.genesis.task.training) == steps[3]
    _voided(history, 1, 2, 3)
    assert step_of(history, history.genesis.task.training) == limit


def _voided(history: History, *numbers: int) -> None:
    """As if these rounds had been adopted by nobody: their openings say nothing then."""
    for number in numbers:
        view = history.rounds[number - 1]
        assert view.outcome is not None
        view.outcome = dataclasses.replace(view.outcome, result="void")


def _noise(history: History) -> float:
    training = history.genesis.task.training
    count = min(history.counts[name].total for name in SILOS)
    rate = training.learning_rate_micro / training.sample_rate_micro
    return rate * training.noise_micro / MICRO * training.clip_micro / MICRO * math.sqrt(training.steps) / count
