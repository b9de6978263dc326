"""Who taught a trigger: every silo's logged sketches, projected on the directions that would have taught it.

*Projection.* In round r let `d` be a unit direction (`silo.searcher.Searcher.directions`), `f = S d` its folds under
the round's signs S and `o` its part in the exact output layer; a silo showed `y = S u` and `w` of its update u. Then

    c = (<y, f> + K <w, o>) / sqrt(|S^T f|^2 + K^2 |o|^2)

is `<u, v>` for the *unit* vector v along (S^T f, K o), K the chunks: the matched filter for the folds' covariance
`S S^T ~ K I`. A coordinate under the folds thus counts as its noise deserves, K/F times less than an exact one.
Numerator and denominator are sums of integers: directions are rounded to 2^-20.

*Null law.* v is fixed by model, trigger and signs. Noise is drawn before the signs are known, so the noise part of c is
Gaussian with exactly the variance `s^2` of one coordinate, whatever the sketch: the factor (1 + d/k), by which a sketch
of k numbers blurs an inner product of d, is divided out of both. What the signs draw in from the rest of an honest
*signal* is as large as the signal in a random direction, so `s_i^2` is the greater of the law's noise power and the
measured power of the silo's folds per degree of freedom. Both are bounded by what the norm law lets pass.

*Rounds* add up to `x_i = m_i^-1/2 sum_r c_ri` over the m_i rounds in which the silo opened, of variance mean_r s_ri^2.

*Signal.* Honest gradients may well have a part along d: it is orthogonal to the mean clean gradients of public records,
not to those of a silo's own. What it is shows in the directions of the other classes, which nobody was found to teach
and along which nothing pushes that teaches the target. There who unlearns the trigger may push nearly all of them, and
who teaches it may pull them down. So a silo's *habit* h_i is what it pushes whatever the class: the upper quartile of
its own controls, beyond that of their noise, or 0. All that silos share beside it is the median, and what they differ
by is tau^2, such that the 0.9 quantile of `(x_ic - h_i - max(0, median_c)) / sqrt(s_i^2 + tau^2)` over silos i and
classes c is that of a normal variable. (Upper quantiles, since who pushes one class pushes the others down; higher ones
are for attackers to inflate: an attacker that pushes a quarter of the other classes as well raises its habit, which is
taken off and divides nothing.)

    before:  z_i = (x_i - h_i - max(0, median_i x_i)) / sqrt(s_i^2 + tau^2)
    after:   z_i = (x_i - h_i) / sqrt(s_i^2 + tau^2)

*After* is over the rounds in which silos already inoculate against this very trigger. There an honest silo *unlearns*
it: its x is below zero in the mean, no majority is needed to say so, and the trigger was chosen before. The first GRACE
such rounds count for nothing, and it takes TOLD more until *after* is judged. *Before* needs more honest silos than
others.

*Blind models.* Everything moves a model that is hardly right about clean records, and honest silos move it in all ways:
its directions are zero, and a round on whose directions all projections are zero is left out, and not counted either.
(`audit.searches.tells_blind` says of which triggers such a round tells all the same.)

*Witnesses.* That honest silos unlearn is checked and not assumed: nobody is found unless the *after* of at least
WITNESSES silos is well below zero. A model that learns fast may move towards a trigger by every silo's hand.

*Flips.* There the controls are the flips of other classes to the same target, which nobody was found to teach, and the
honest push against it is that of public records of its source class (`silo.inoculation`).

*Level.* A find is chosen by looking at a model that holds all silos' noise, it is tested again in every search that
follows, and tau, one number for all, does not know a silo that is unusual in one class only. So each p-value is
multiplied by a number of TESTS, and discoveries are made by Benjamini and Hochberg at the plan's rate. That number is
measured and not derived: it keeps honest silos well below. Evidence *before* inoculation needs more than evidence after
it, since a model that has hardly learned has triggers that honest data push, and counts only against who does not
unlearn the trigger once it is told. Of a flip it counts against nobody: it is a natural confusion of two classes more
often than not, and who owns most of one of them teaches it by honest data (z of 12.5 on MNIST) until it is told.

*Repeating it.* From logged signs, sketches and projections an auditor without torch repeats x and z in floats, to be
compared within a tolerance, and from the recorded evidence who is found, to the bit. The projections need the models,
and torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from crypto import sketch
from crypto.packing import Packing
from defenses.errors import MalformedExhibit
from defenses.evidence import Exhibit, Integers, Setting, fact, scaled, verify_exhibit
from defenses.fdr import discoveries, threshold
from defenses.laws import blocks_of, counts_of, noise_of
from protos.records import Score
from protos.search import Trigger
from protos.task import MICRO

DIRECTION_SCALE = 2**20
"""Integer units of a unit direction's coordinate: 2^20 of them in a fold of 4,096 chunks stay within int32."""
TESTS, FLIP_TESTS, BEFORE_TESTS = 10**8, 10**12, 10**16
"""Of evidence after inoculation against a trigger, the same of a flip, and before it. At ten silos and a rate of 0.01 a
silo is found from z = 6.7, 7.9 and 9.0. The greatest of an honest one after inoculation against a trigger was 3.7 in 15
federations and 12.3 in one of 18 later runs, before it 10.6 once, with -3.0 after."""
GRACE, TOLD = 1, 3
"""Rounds of inoculation that count for nothing, and in how many more a silo took part until there is an *after* for it.
In the first two, of a model that had hardly learned, honest silos came to z = 12 once, which the next two took back."""
WITNESSES, UNLEARNS_MICRO = 2, -2_326_348
"""Silos whose z after inoculation is at most this (the 0.01 quantile of a normal variable), without whom nobody is
found: as many as a find needs to be confirmed. Who is at the opposite of it or above does not unlearn the trigger."""
QUANTILE, NORMAL = 0.9, 1.2816
"""Of all silos' controls, and of a standard normal variable."""
HABIT, NORMAL_HABIT = 0.75, 0.6745
"""The same of one silo's. Among ten classes two may be pushed beside the target without raising it."""
BEFORE, AFTER = "before", "after"

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Directions:
    """Sketched directions of all classes, in units of 1 / DIRECTION_SCALE.

    Attributes:
        folds: int64[classes, F, width].
        output: int64[classes, output_size].
    """

    folds: Integers
    output: Integers


@dataclass(frozen=True, eq=False)
class Past:
    """A closed round, seen from a find.

    Attributes:
        number: the round.
        setting, exhibits: as its decision read them, excluded silos included.
        directions: of the find at this round's model, under this round's signs.
        told: of how many rounds in which silos trained against the find this one is the last; 0 if they did not in it.
    """

    number: int
    setting: Setting
    exhibits: Sequence[Exhibit]
    directions: Directions
    told: int


@dataclass(frozen=True, eq=False)
class Projected:
    """As `Past`, with the projections c in model units (float64[n, classes]) in place of the directions.

    Projections are what a log holds: they are as many as silos times classes, and no model is needed from here on.
    """

    number: int
    setting: Setting
    exhibits: Sequence[Exhibit]
    projections: Floats
    told: int


@dataclass(frozen=True)
class Attribution:
    """What the rounds say of one silo.

    Attributes:
        scores: for `before` and `after`, where the silo took part: `x` in model units and `z` with its evidence,
            `-log10 p` scaled and rounded down.
        contributions: by round, in millionths of the deviation of the silo's own noise; honest ones are a standard
            normal draw, plus what honest data add.
    """

    silo: str
    scores: tuple[Score, ...]
    contributions: Mapping[int, int]

    def evidence_micro(self, name: str) -> int:
        """The evidence of `before` or `after`, 0 where there is none."""
        return next((one.evidence_micro or 0 for one in self.scores if one.name == f"{name}-z"), 0)

    def z_micro(self, name: str) -> int:
        """z of `before` or `after` in millionths, 0 where there is none."""
        return next((one.value_micro for one in self.scores if one.name == f"{name}-z"), 0)


def sketched(directions: Floats, packing: Packing, signs: NDArray[np.int8]) -> Directions:
    """Fold unit directions, float64[classes, d] in the model's layout, as a round's updates were folded."""
    rows = np.rint(directions * DIRECTION_SCALE).astype(np.int64)
    pairs = [sketch.sketch(packing.to_fields(row), packing, signs) for row in rows]
    folds, outputs = (np.stack(parts).astype(np.int64) for parts in zip(*pairs, strict=True))
    return Directions(folds, outputs)


def attribute(rounds: Sequence[Past | Projected], find: Trigger) -> tuple[Attribution, ...]:
    """Judge every silo that opened in one of the rounds, sorted by silo.

    Args:
        rounds: closed rounds, in any order.
        find: whose directions the rounds hold; those in other rows than its target's are the controls.

    Raises:
        MalformedExhibit: an exhibit or a direction does not fit its round.
    """
    target = find.target
    seen = {one.number: _seen(one if isinstance(one, Projected) else project(one)) for one in rounds}
    told = _told(rounds, [number for number, one in seen.items() if not one.projections.any()])
    parts = [
        (BEFORE, _Table.of([seen[number] for number, count in told.items() if not count]), True),
        (AFTER, _Table.of([seen[number] for number, count in told.items() if count > GRACE]), False),
    ]
    scores: dict[str, tuple[Score, ...]] = {silo: () for one in seen.values() for silo in one.silos}
    for name, table, centred in parts:
        for silo, made, rounds_of in zip(table.silos, _scores(name, table, target, centred), table.counts, strict=True):
            if name == BEFORE or rounds_of >= TOLD:
                scores[silo] += made
    return tuple(Attribution(silo, scores[silo], _contributions(silo, seen, target)) for silo in sorted(scores))


def _told(rounds: Sequence[Past | Projected], blind: Sequence[int]) -> dict[int, int]:
    """`told` of each round but the blind ones, which count in nobody's."""
    told = {past.number: past.told for past in rounds}
    return {
        number: count - sum(told[one] > 0 for one in blind if one < number) if count else 0
        for number, count in told.items()
        if number not in blind
    }


def guilty(attributions: Sequence[Attribution], find: Trigger, fdr_micro: int) -> frozenset[str]:
    """Silos found to have taught the find at that false discovery rate, from recorded integers alone.

    Evidence from before inoculation counts against those alone who had to unlearn the trigger and did not: a large
    honest silo may lean towards a trigger by its data, and unlearns it as soon as it is told. It counts against nobody
    of a flip. Nothing counts without witnesses that the find is unlearnt.
    """
    if sum(one.z_micro(AFTER) <= UNLEARNS_MICRO for one in attributions) < WITNESSES:
        return frozenset()
    unmoved = {one.silo for one in attributions if one.z_micro(AFTER) >= -UNLEARNS_MICRO and not find.flip}
    before = _found(attributions, BEFORE, BEFORE_TESTS, fdr_micro) & unmoved
    return before | _found(attributions, AFTER, FLIP_TESTS if find.flip else TESTS, fdr_micro)


def least_z(silos: int, find: Trigger, fdr_micro: int) -> tuple[Score, ...]:
    """From which z `guilty` finds one of that many silos if it is the only one; beside others less will do."""
    tests = {f"{AFTER}-z": FLIP_TESTS} if find.flip else {f"{AFTER}-z": TESTS, f"{BEFORE}-z": BEFORE_TESTS}
    evidence = {name: threshold(1, silos, number, fdr_micro) for name, number in tests.items()}
    z = {name: -float(special.ndtri(10 ** (-one / MICRO))) for name, one in evidence.items()}
    return tuple(Score(name, scaled(value), None) for name, value in z.items())


def _found(attributions: Sequence[Attribution], name: str, tests: int, fdr_micro: int) -> frozenset[str]:
    return discoveries({one.silo: one.evidence_micro(name) for one in attributions}, tests, fdr_micro)


@dataclass(frozen=True, eq=False)
class _Seen:
    """A round's projections float64[n, classes] in model units, and variances of the noise in them, float64[n]."""

    silos: tuple[str, ...]
    projections: Floats
    variances: Floats


@dataclass(frozen=True, eq=False)
class _Table:
    """Rounds added up: x float64[n, classes], s^2 and how many rounds, float64[n], by silo."""

    silos: tuple[str, ...]
    sums: Floats
    variances: Floats
    counts: Floats

    @classmethod
    def of(cls, rounds: Sequence[_Seen]) -> _Table:
        silos = sorted({silo for one in rounds for silo in one.silos})
        place = {silo: index for index, silo in enumerate(silos)}
        sums = np.zeros((len(silos), rounds[0].projections.shape[1] if rounds else 0))
        variances, counts = np.zeros(len(silos)), np.zeros(len(silos))
        for one in rounds:
            rows = [place[silo] for silo in one.silos]  # a silo stands once in a round
            sums[rows] += one.projections
            variances[rows] += one.variances
            counts[rows] += 1
        return cls(tuple(silos), sums / np.sqrt(counts)[:, None], variances / counts, counts)


def project(past: Past) -> Projected:
    """The projections of a round's exhibits on the directions.

    Raises:
        MalformedExhibit: an exhibit or a direction does not fit its round.
    """
    setting, folds = past.setting, past.directions.folds.astype(np.float64)
    output = past.directions.output.astype(np.float64)
    if folds.shape[1:] != (setting.folds, setting.width) or output.shape[1:] != (setting.output_size,):
        raise MalformedExhibit(f"directions of round {past.number} do not fit its plan; sketch them with its signs")
    for exhibit in past.exhibits:
        verify_exhibit(setting, exhibit)
    products = _stack([one.folds.ravel() for one in past.exhibits]) @ folds.reshape(len(folds), -1).T
    products += setting.chunks * _stack([one.output for one in past.exhibits]) @ output.T
    lengths = np.sqrt(_squares(setting, folds) + setting.chunks**2 * (output**2).sum(axis=1))
    units = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return Projected(past.number, setting, past.exhibits, units * setting.step, past.told)


def _seen(past: Projected) -> _Seen:
    return _Seen(tuple(one.silo for one in past.exhibits), past.projections, _variances(past.setting, past.exhibits))


def _squares(setting: Setting, folds: Floats) -> Floats:
    """`|S^T f|^2` of each direction, float64[classes]; columns of different lengths meet different signs."""
    total = np.zeros(len(folds))
    for length in np.unique(setting.column_counts):
        columns = folds[:, :, setting.column_counts == length]
        signs = setting.signs[:, :length].astype(np.float64)
        total += np.einsum("cfw,fg,cgw->c", columns, signs @ signs.T, columns, optimize=True)
    return total


def _variances(setting: Setting, exhibits: Sequence[Exhibit]) -> Floats:
    """s^2 of each silo in squared model units: the law's, or what its folds show of it if that is more."""
    if not exhibits:
        return np.zeros(0)
    body = blocks_of(setting, exhibits)[-1]
    most = noise_of(setting, counts_of(exhibits)).most
    variances: Floats = np.maximum(most, body.energy / max(1, body.degrees)) * setting.step**2
    return variances


def _scores(name: str, table: _Table, target: int, centred: bool) -> list[tuple[Score, ...]]:
    if not table.silos:
        return []
    centre = max(0.0, float(np.median(table.sums[:, target]))) if centred else 0.0
    controls = np.delete(table.sums, target, axis=1)
    habits = _habits(controls, table.variances)
    deviations = np.sqrt(table.variances + _spread(controls - habits[:, None], table.variances))
    z = (table.sums[:, target] - habits - centre) / deviations
    return [
        (fact(f"{name}-x", float(x)), Score(f"{name}-z", scaled(float(one)), _evidence(float(one))))
        for x, one in zip(table.sums[:, target], z, strict=True)
    ]


def _habits(controls: Floats, variances: Floats) -> Floats:
    """What each silo pushes whatever the class, float64[n]; of noise alone hardly more than 0."""
    quartiles: Floats = np.quantile(controls, HABIT, axis=1)
    return np.maximum(0.0, quartiles - NORMAL_HABIT * np.sqrt(variances))


def _spread(controls: Floats, variances: Floats) -> float:
    """tau^2: what honest silos differ by beyond their noise; 0 where the controls vary no more than that."""
    errors = controls - np.maximum(0.0, np.median(controls, axis=0))

    def excess(tau_squared: float) -> bool:
        ratios = errors / np.sqrt(variances + tau_squared)[:, None]
        return bool(np.quantile(ratios, QUANTILE) > NORMAL)

    if not excess(0.0):
        return 0.0
    low, high = 0.0, float(np.square(errors).max()) / NORMAL**2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) else (low, middle)
    return high


def _contributions(silo: str, seen: Mapping[int, _Seen], target: int) -> dict[int, int]:
    found = {}
    for number, one in sorted(seen.items()):
        if silo in one.silos:
            place = one.silos.index(silo)
            found[number] = scaled(float(one.projections[place, target] / math.sqrt(one.variances[place])))
    return found


def _evidence(z: float) -> int:
    """`-log10 P(Z >= z)`, scaled and rounded down, towards not convicting."""
    return max(0, math.floor(-1e6 * float(special.log_ndtr(-z)) / math.log(10)))


def _stack(rows: Sequence[Integers]) -> Floats:
    return np.stack(rows).astype(np.float64)
