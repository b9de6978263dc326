"""Suspicion from a silo's own past: its output layer strays from the others' otherwise than it used to.

Folds of two rounds have different signs and say nothing of each other; exact output layers can be compared. A silo's
*deviation* is its output layer less the coordinate-wise median of the others', in units of the signal `lr*C*steps` that
clipping allows. An honest silo with unusual data deviates too, but from round to round alike; drift is a change. So the
mean deviation of the latest rounds (of one, and of RECENT) is held against the mean of those before, each round weighed
by its precision. One round shows a sudden change; several show what stands where noise should average out.

Deviations shrink as a model learns, those of unusual silos the most, and who comes closer to the others does not drift.
So the past's mean p is held against the latest one l by the part of it that fits best, `a = <l, p> / |p|^2` between 0
and 1, and what counts is `l - a p`: what is new, and whatever exceeds the past.

*Null.* A silo that deviates by a constant, or by less and less of it, leaves Gaussian noise in the difference, of
variance `v = 1/sum(1/V_recent) + a^2/sum(1/V_past)` per coordinate, with V the noise of the silo and of the others'
median in one round. So energy over v is chi-square with d degrees, one for each coordinate, less what a is fitted to.
The score is the greater of both `(energy / (v + u) - d) / sqrt(2 d)`.

*What honest silos do besides.* Signals move as the model learns, by a variance u per coordinate, the greater of two:
the most that an earlier round of the same silo was off its other ones beyond its noise, and the median of the other
silos' movement now. Where rounds are exchangeable the first is exceeded in one of (earlier rounds + 1), whatever the
law of the movement, and exceeding it a little is not yet a suspicion. Adding u errs on the low side.

The past is of rounds in which the silo was plainly retained, and in those that their mean went into: what led up to
a suspicion is nobody's habit. So a silo that changes stays suspect while the window holds enough of what it was.
Whoever lies from the first round has no other past, and whoever turns slowly takes its past along; neither drifts.
Nothing here ever excludes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defenses.consistency import excess
from defenses.evidence import Earlier, Exhibit, History, Integers, Setting
from defenses.laws import counts_of, noise_of
from defenses.prototypes import FEWEST_OTHERS

Floats = NDArray[np.float64]

RECENT = 4
"""Rounds, this one among them, whose mean is held against the past."""
PAST = 12
"""Rounds before those, of which the past is made up."""
WINDOW = PAST + RECENT - 1
"""Earlier rounds that are read."""
FEWEST_ROUNDS = 4
"""A past of fewer rounds says nothing: the greatest of three is exceeded too often."""
MARGIN = 2.0
"""Standard deviations by which an earlier round must be off the others before it counts as more than noise."""


@dataclass(frozen=True)
class Deviations:
    """Deviations of n silos, `rows` float64[n, d], and what their noise adds to a coordinate, `precisions` float64[n].

    In units of `lr*C*steps` and of its square's inverse. The precision 0 tells that nothing is known of the silo.
    """

    rows: Floats
    precisions: Floats

    def of(self, silos: Integers) -> Deviations:
        """Those of some silos only, in order."""
        if len(silos) == len(self.precisions):
            return self
        return Deviations(self.rows[silos], self.precisions[silos])


def drifts(setting: Setting, exhibits: Sequence[Exhibit], history: History | None) -> Floats:
    """Per silo the z-score of its output layer's way off its own past (float64[n]); NaN for a silo without a past."""
    found = np.full(len(exhibits), np.nan)
    earlier = [one for one in (history or ())[-WINDOW:] if len(one.outputs) > FEWEST_OTHERS]
    if not setting.output_size or len(exhibits) <= FEWEST_OTHERS or len(earlier) < RECENT + FEWEST_ROUNDS - 1:
        return found
    outputs = np.stack([one.output for one in exhibits])
    rounds = [*(_present(one, exhibits) for one in earlier), _deviations(setting, outputs, counts_of(exhibits))]
    past = _habits(rounds, _doubted(earlier, exhibits))
    judged = np.flatnonzero(np.sum([one.precisions > 0 for one in past], axis=0) >= FEWEST_ROUNDS)
    if judged.size:
        found[judged] = scores([one.of(judged) for one in rounds[-RECENT:]], [one.of(judged) for one in past])
    return found


def scores(recent: Sequence[Deviations], past: Sequence[Deviations]) -> Floats:
    """The greater z-score of the ways from the past's mean to the last round and to the recent mean (float64[n]).

    Args:
        recent: oldest first, the last one is this round, where every silo is known.
        past: where every silo is known twice at least.
    """
    before = mean(past)
    own = restlessness(past, before)
    return np.maximum(*(_score(mean(rounds), before, own) for rounds in (recent[-1:], recent)))


def mean(rounds: Sequence[Deviations]) -> Deviations:
    """The mean by precision."""
    total = np.sum([one.precisions for one in rounds], axis=0)
    heap = np.zeros_like(rounds[0].rows)
    for one in rounds:
        heap += one.precisions[:, None] * one.rows
    return Deviations(heap / total[:, None], total)


def restlessness(rounds: Sequence[Deviations], middle: Deviations) -> Floats:
    """Per silo the greatest variance per coordinate, beyond noise, of one round about the mean of its others.

    `middle` is the mean of the rounds. Float64[n].
    """
    greatest = np.zeros(len(middle.rows))
    for one in rounds:
        known = np.flatnonzero(one.precisions > 0)
        whole, own = middle.precisions[known], one.precisions[known]
        # From the mean of the others the way is longer by this than from the mean of all.
        stretch = whole / (whole - own)
        ways = _energies(one.rows[known] - middle.rows[known]) * stretch**2
        noise = (1 / own + 1 / (whole - own)) * (1 + MARGIN * math.sqrt(2 / one.rows.shape[1]))
        greatest[known] = np.maximum(greatest[known], ways / one.rows.shape[1] - noise)
    return greatest


def others_medians(values: Integers) -> Floats:
    """Coordinate-wise median of all rows but one, for each row: float64[n, d] from int64[n, d], n at least 2."""
    others = len(values) - 1
    places = (others - 1) // 2, others // 2
    if np.abs(values).max(initial=0) < 2**14:
        # What honest silos send fits, and short numbers are sorted in a tenth of the time. Sums of two fit as well.
        values = values.astype(np.int16)
    ranked = np.sort(np.ascontiguousarray(values.T), axis=1)
    found = np.zeros_like(values)
    for place in places:
        here, after = np.ascontiguousarray(ranked[:, place : place + 2].T)
        # Whoever is at or below a place moves the next one there by leaving.
        found += here + (values <= here) * (after - here)
    return np.asarray(found / 2, dtype=np.float64)


def _score(now: Deviations, before: Deviations, own: Floats) -> Floats:
    degrees = now.rows.shape[1]
    lengths = _energies(before.rows)
    along = np.einsum("nd,nd->n", now.rows, before.rows)
    kept = np.clip(np.divide(along, lengths, out=np.zeros_like(along), where=lengths > 0), 0.0, 1.0)
    variances = 1 / now.precisions + kept**2 / before.precisions
    energies = _energies(now.rows - kept[:, None] * before.rows)
    moved = np.maximum(energies / degrees - variances, 0.0)
    usual = np.maximum(own, moved - excess(moved))
    return np.asarray((energies / (variances + usual) - degrees) / math.sqrt(2 * degrees), dtype=np.float64)


def _deviations(setting: Setting, outputs: Integers, counts: Integers) -> Deviations:
    """Deviations from the others' median, from outputs int64[n, output_size] and released counts int64[n]."""
    unit = setting.step / setting.signal_bound
    noise = noise_of(setting, counts).most
    density = 1 / np.sqrt(noise)
    # Asymptotic variance of the median of normals with different deviations.
    shared = math.pi / 2 * (len(counts) - 1) / np.square(density.sum() - density)
    rows = outputs - others_medians(outputs)
    rows *= unit
    return Deviations(rows, 1 / ((noise + shared) * unit**2))


def _present(earlier: Earlier, exhibits: Sequence[Exhibit]) -> Deviations:
    """Deviations of an earlier round in the order of `exhibits`."""
    counts = {one.silo: one.count for one in earlier.judgements}
    places = {silo: place for place, silo in enumerate(earlier.outputs)}
    released = np.array([counts[silo] for silo in places], dtype=np.int64)
    whole = _deviations(earlier.setting, np.stack(list(earlier.outputs.values())), released)
    if list(places) == [one.silo for one in exhibits]:
        return whole
    here = [row for row, one in enumerate(exhibits) if one.silo in places]
    there = [places[exhibits[row].silo] for row in here]
    rows, precisions = np.zeros((len(exhibits), whole.rows.shape[1])), np.zeros(len(exhibits))
    rows[here], precisions[here] = whole.rows[there], whole.precisions[there]
    return Deviations(rows, precisions)


def _doubted(earlier: Sequence[Earlier], exhibits: Sequence[Exhibit]) -> NDArray[np.bool_]:
    """Whether a round judged a silo and did not plainly retain it: bool[rounds, n]."""
    doubts = [{one.silo for one in past.judgements if one.verdict != "retained"} for past in earlier]
    return np.array([[one.silo in names for one in exhibits] for names in doubts])


def _habits(rounds: Sequence[Deviations], doubted: NDArray[np.bool_]) -> list[Deviations]:
    """The rounds before the recent ones; nothing is known of a silo where it, or what came of it, was doubted."""
    number = len(rounds) - RECENT
    clean = ~np.any([doubted[later : later + number] for later in range(RECENT)], axis=0)
    return [Deviations(one.rows, one.precisions * row) for one, row in zip(rounds, clean, strict=False)]


def _energies(rows: Floats) -> Floats:
    return np.asarray(np.einsum("nd,nd->n", rows, rows), dtype=np.float64)
