"""What a defence sees and what it says: the public numbers of a round, one exhibit per silo, one opinion per silo.

All of an exhibit is post-processing of a differentially private release. Scores are integers from here on, so that
whoever holds the log repeats every verdict and weight exactly (see `defenses.decide`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from defenses.errors import MalformedExhibit
from protos.canonical import MAX_INTEGER
from protos.records import Judgement, Score
from protos.task import MICRO

Integers: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Setting:
    """Everything public about the round, as numbers.

    Attributes:
        learning_rate, clip, noise_multiplier, sample_rate, steps: DP-SGD of the round.
        step: quantisation step `2**step_log2`; folds and outputs are integers in this unit.
        column_counts: int64[width]; column c of a fold sums one coordinate of each of the first
            `column_counts[c]` chunks.
        folds: F, the number of signed folds.
        signs: int8[F, chunks] of ±1, the signs that the challenge drew.
        body_size, output_size: coordinates under the folds, and coordinates opened exactly (0 for none).
        embedding, classes: the output layer is weight `[classes, embedding]` row-major, then bias `[classes]`.
        prototype_clip: L2 clip norm of one embedding; PROTOTYPE_GRID integer units stand for it.
        prototype_noise: noise multiplier of the prototypes; 0 in a round without.
        floor, cap: least and greatest weight in units of the equal share.
        total_weight: W, the sum of all integer weights.
        fdr: false discovery rate of exclusions.
        count_noise: standard deviation of the noise in a released record count; the same in a class count.
    """

    learning_rate: float
    clip: float
    noise_multiplier: float
    sample_rate: float
    steps: int
    step: float
    column_counts: Integers
    folds: int
    signs: NDArray[np.int8]
    body_size: int
    output_size: int
    embedding: int
    classes: int
    prototype_clip: float
    prototype_noise: float
    floor: float
    cap: float
    total_weight: int
    fdr: float
    count_noise: float = 0.0

    @property
    def width(self) -> int:
        """Columns of a fold."""
        return int(self.column_counts.size)

    @property
    def chunks(self) -> int:
        """Chunks that a fold adds or subtracts."""
        return int(self.signs.shape[1])

    @property
    def signal_bound(self) -> float:
        """`lr * C * steps`: the L2 norm that clipping leaves to a signal at the expected batch size."""
        return self.learning_rate * self.clip * self.steps


@dataclass(frozen=True, eq=False)
class Exhibit:
    """What one silo showed.

    Attributes:
        count: noised record count, at least 1.
        classes: int64[classes], noised.
        folds: int64[F, width]; `folds[f, c]` is the sum over chunks k of `signs[f, k] * q[k, c]`.
        output: int64[output_size], exact.
        prototypes: int64[classes, embedding], noised class sums, or None in a round without.
    """

    silo: str
    count: int
    classes: Integers
    folds: Integers
    output: Integers
    prototypes: Integers | None


@dataclass(frozen=True, eq=False)
class Earlier:
    """What an earlier round showed that can be compared with another; folds cannot, their signs differ.

    Attributes:
        setting: what was public about it.
        judgements: what was decided in it, sorted by silo.
        outputs: the exact output layers, int32 or int64[output_size], of the silos that had a weight, sorted by silo.
    """

    setting: Setting
    judgements: tuple[Judgement, ...]
    outputs: Mapping[str, NDArray[np.int32] | Integers]


History: TypeAlias = Sequence[Earlier]
"""Earlier rounds, oldest first: at least the last `defenses.drift.WINDOW` that were decided."""


def earlier_of(setting: Setting, exhibits: Sequence[Exhibit], judgements: Sequence[Judgement]) -> Earlier:
    """A judged round as the past of later ones; exhibits in any order."""
    weighed = {one.silo for one in judgements if one.weight > 0}
    outputs = {one.silo: one.output for one in sorted(exhibits, key=lambda one: one.silo) if one.silo in weighed}
    return Earlier(setting, tuple(judgements), outputs)


@dataclass(frozen=True)
class Scored:
    """One silo's noised count and recorded scores: all that verdict and weight depend on."""

    silo: str
    count: int
    scores: tuple[Score, ...]

    def value(self, name: str) -> int | None:
        """`value_micro` of the score called `name`, or None where there is none."""
        return next((score.value_micro for score in self.scores if score.name == name), None)


@dataclass(frozen=True)
class Opinion:
    """What a defence says of one silo. `suspicion` lies within 0 and 1 and only ever lowers a weight."""

    silo: str
    scores: tuple[Score, ...]
    excluded: bool
    suspicion: Fraction
    reason: str = field(default="")


@dataclass(frozen=True)
class Rules:
    """The policy's numbers as the scaled integers that stand in the log."""

    fdr_micro: int
    floor_micro: int
    cap_micro: int
    total_weight: int


def rules_of(setting: Setting) -> Rules:
    """The integer rules of a setting."""
    return Rules(micro(setting.fdr), micro(setting.floor), micro(setting.cap), setting.total_weight)


def micro(value: float | Fraction) -> int:
    """The nearest scaled integer."""
    return round(value * MICRO)


def scaled(value: float) -> int:
    """`micro`, cut to what a record holds; a hostile exhibit may show any numbers."""
    return max(-MAX_INTEGER, min(MAX_INTEGER, micro(value)))


def all_scaled(values: NDArray[np.float64]) -> list[int]:
    """`scaled` of each number (float64[n])."""
    return np.clip(np.rint(values * MICRO), -MAX_INTEGER, MAX_INTEGER).astype(np.int64).tolist()  # type: ignore[no-any-return]


def fact(name: str, value: float) -> Score:
    """A score without a null law."""
    return Score(name, scaled(value), None)


def facts(name: str, values: NDArray[np.float64]) -> list[Score]:
    """`fact` of each number (float64[n])."""
    return [Score(name, value, None) for value in all_scaled(values)]


def verify_exhibit(setting: Setting, exhibit: Exhibit) -> None:
    """Check the shapes of an exhibit.

    Raises:
        MalformedExhibit: names the silo and the array that does not fit.
    """
    expected = {
        "folds": (exhibit.folds, (setting.folds, setting.width)),
        "output": (exhibit.output, (setting.output_size,)),
        "class counts": (exhibit.classes, (setting.classes,)),
    }
    if setting.prototype_noise > 0 and exhibit.prototypes is not None:
        expected["prototypes"] = (exhibit.prototypes, (setting.classes, setting.embedding))
    for name, (array, shape) in expected.items():
        if array.shape != shape:
            raise MalformedExhibit(f"{exhibit.silo}: {name} have shape {array.shape}, the plan asks for {shape}")
    if exhibit.count < 1:
        raise MalformedExhibit(f"{exhibit.silo}: a noised record count is at least 1, not {exhibit.count}")
