"""The learning rate of each round against the cosine of the library."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.schedule import training_in_round
from protos import codec
from protos.errors import MalformedMessage
from protos.task import Task
from tests.audit.builders import task


def test_constant_rate_is_the_tasks_own() -> None:
    made = task()
    assert all(training_in_round(made, number) == made.training for number in (1, 17, 40))


@given(st.integers(1, 3000), st.integers(1, 10**9), st.data())
def test_cosine_rate_is_half_a_wave_from_the_tasks_rate_towards_zero(
    rounds: int, rate_micro: int, data: st.DataObject
) -> None:
    number = data.draw(st.integers(1, rounds))
    base = task()
    made = replace(
        base, rounds=rounds, schedule="cosine", training=replace(base.training, learning_rate_micro=rate_micro)
    )
    training = training_in_round(made, number)
    expected = rate_micro * (1 + math.cos(math.pi * (number - 1) / rounds)) / 2
    assert training.learning_rate_micro == pytest.approx(max(1.0, expected), abs=0.51)
    assert training == replace(made.training, learning_rate_micro=training.learning_rate_micro)
    assert number > 1 or training == made.training


def test_unknown_schedule_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="schedule"):
        codec.unpack(Task, codec.pack(replace(task(), schedule="linear")))
