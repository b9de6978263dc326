"""The quantisation step of a round, from public numbers: the noise law, and what the last adopted round showed.

A coordinate of an update is sent as an integer within ±127 steps. The step is the smallest power of two for which
±127 steps hold each of

- eight deviations of the noise that DP-SGD gives the silo with the smallest released count,
- eight root mean squares of the body of each retained update of the last adopted round, as its folds tell it,
- twice the largest coordinate of their exact output layers,

and never larger than the task's, which alone holds before a first adoption. So noise alone leaves the range with
probability 2 Q(8) < 2^-49 a coordinate, and noise on a signal of up to three deviations with less than 2^-20. What lies
beyond is cut to ±127 (`crypto.quantise`): a coordinate moves by at most 127 steps a round, and where output layers were
cut the range doubles. The largest of the retained counts, not their mean, so that an unusual honest silo keeps its
signal; a liar gains by it no more than the task's own range.

All of it is in the log and was released under differential privacy, so a plan costs no privacy and everybody repeats
it. Arithmetic is of integers and fractions: one bit of difference between machines would be another plan.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crypto import sketch
from crypto.packing import LEVELS
from protos.task import LEAST_STEP_LOG2, MICRO, Training

if TYPE_CHECKING:
    from audit.history import History

DEVIATIONS = 8
OUTPUT_MARGIN = 2
_MOST = 2**18
"""Above any number of an honest sketch; larger ones count as this, so that squares add up within 64 bits."""

Sketch = tuple[NDArray[np.int32], NDArray[np.int32]]
"""Folds, int32[F, width], and exact output layer, int32[output_size]."""


def step_of(history: History, training: Training) -> int:
    """log2 of the step of the next round's plan, whose DP-SGD is `training`."""
    task, packing = history.genesis.task, history.packing
    last = next((view for view in reversed(history.rounds) if view.adopted), None)
    if last is None:
        return task.step_log2
    opened = (last.openings[silo] for silo in last.weights)
    sketches = (sketch.from_bytes(one.folds, one.output, packing, packing.folds) for one in opened)
    body = packing.size - packing.output_size
    smallest = min(history.counts[silo].total for silo in history.active)
    needed = max(squared_noise(training, smallest), squared_signal(sketches, body, last.plan.step_log2))
    return min(task.step_log2, smallest_step(needed))


def squared_noise(training: Training, count: int) -> Fraction:
    """Square of the range that the noise of a silo with the released `count` needs, in units of the update."""
    product = training.learning_rate_micro * training.noise_micro * training.clip_micro
    one_step = Fraction(product, training.sample_rate_micro * count * MICRO**2)
    return DEVIATIONS**2 * one_step**2 * training.steps


def squared_signal(sketches: Iterable[Sketch], body: int, step_log2: int) -> Fraction:
    """Square of the range that updates like these need: sketches in steps of `2**step_log2`, `body` coordinates."""
    energy, peak = Fraction(0), 0
    for folds, output in sketches:
        seen = np.minimum(np.abs(folds.astype(np.int64)), _MOST)
        energy = max(energy, Fraction(int((seen**2).sum()), folds.shape[0] * body))
        peak = max(peak, int(np.abs(output.astype(np.int64)).max(initial=0)))
    return max(DEVIATIONS**2 * energy, Fraction(OUTPUT_MARGIN * peak) ** 2) * Fraction(4) ** step_log2


def smallest_step(squared: Fraction, levels: int = LEVELS) -> int:
    """The smallest k, from -60 on, for which `(levels * 2**k)**2` is at least `squared`."""
    ratio = squared / levels**2
    below = (ratio.numerator.bit_length() - ratio.denominator.bit_length()) // 2 - 1
    step = max(LEAST_STEP_LOG2, below) if ratio else LEAST_STEP_LOG2
    while Fraction(4) ** step < ratio:
        step += 1
    return step
