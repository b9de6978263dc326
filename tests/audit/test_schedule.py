"""The learning rate of each round against the cosine of the library, and the step that follows it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.schedule import training_in_round
from protos import codec
from protos.errors import MalformedMessage
from protos.task import LEAST_STEP_LOG2, Task
from tests.audit.builders import task


def test_constant_rate_is_the_tasks_own() -> None:
    made = task()
    assert all(training_in_round(made, number) == (made.training, made.step_log2) for number in (1, 17, 40))


@given(st.integers(1, 3000), st.integers(1, 10**9), st.data())
def test_cosine_rate_is_half_a_wave_from_the_tasks_rate_towards_zero(
    rounds: int, rate_micro: int, data: st.DataObject
) -> None:
    number = data.draw(st.integers(1, rounds))
    base = task()
    made = replace(
        base, rounds=rounds, schedule="cosine", training=replace(base.training, learning_rate_micro=rate_micro)
    )
    training, step_log2 = training_in_round(made, number)
    expected = rate_micro * (1 + math.cos(math.pi * (number - 1) / rounds)) / 2
    assert training.learning_rate_micro == pytest.approx(max(1.0, expected), abs=0.51)
    assert training == replace(made.training, learning_rate_micro=training.learning_rate_micro)
    # Noise keeps its size in steps, within a factor of two.
    assert 1 <= rate_micro / training.learning_rate_micro / 2.0 ** (made.step_log2 - step_log2) < 2
    assert number > 1 or training == made.training


def test_step_stays_within_what_a_plan_can_say() -> None:
    made = replace(task(), schedule="cosine", rounds=100_000, step_log2=LEAST_STEP_LOG2 + 1)
    assert training_in_round(made, 100_000)[1] == LEAST_STEP_LOG2


def test_unknown_schedule_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="schedule"):
        codec.unpack(Task, codec.pack(replace(task(), schedule="linear")))
