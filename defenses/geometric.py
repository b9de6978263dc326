"""Rules from distances between whole updates: Krum, Multi-Krum, geometric median, nearest neighbours of a pivot.

Distances are of sketches, so all of them run under encryption. Krum alone keeps one silo: a sum of one update is an
opened update, and the privacy minimum of every silo refuses it outside the simulator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from defenses.errors import MissingEvidence, TooFewSilos
from defenses.evidence import Exhibit, Scored, Setting
from defenses.frames import Selection, Weighting, lowest
from defenses.sketches import Floats, Source, points, squared_distances
from protos.task import MICRO

ITERATIONS = 4
SMOOTHING = 1e-5


def tolerated(silos: int) -> int:
    """The most liars f that Krum's theorem allows among n silos: `2f + 2 < n`."""
    return max(0, (silos - 3) // 2)


def krum_scores(distances: Floats, liars: int) -> Floats:
    """Krum's score of every vector (Blanchard et al. 2017, section 4): `s(i) = sum_{i -> j} |x_i - x_j|²`.

    Args:
        distances: squared distances, float64[n, n].
        liars: f; the sum is over the n - f - 2 *other* vectors nearest to x_i, and over at least one where there is
            another.

    Returns:
        float64[n]; the lowest is the best.
    """
    silos = len(distances)
    neighbours = min(max(1, silos - liars - 2), silos - 1)
    others = distances[~np.eye(silos, dtype=bool)].reshape(silos, silos - 1)
    return np.asarray(np.sort(others, axis=1)[:, :neighbours].sum(axis=1), dtype=np.float64)


def weiszfeld_weights(rows: Floats, masses: Floats) -> Floats:
    """Weights with which the smoothed Weiszfeld algorithm averages (Pillutla et al. 2022, RFA, algorithm 2).

    From the mean, four times `b_k = a_k / max(v, |z - x_k|)` and `z = sum b_k x_k / sum b_k`; returned are the last
    `b`, which make the fourth z, normalised to sum 1.

    Args:
        rows: float64[n, d].
        masses: a_k > 0, float64[n], such as record counts.
    """
    weights = masses / masses.sum()
    centre = weights @ rows
    for _ in range(ITERATIONS):
        raw = masses / np.maximum(SMOOTHING, np.linalg.norm(rows - centre, axis=1))
        weights = raw / raw.sum()
        centre = weights @ rows
    return np.asarray(weights, dtype=np.float64)


class MultiKrum(Selection):
    """Keeps the n - f silos with the best Krum scores (Blanchard et al. 2017, Multi-Krum with m = n - f).

    Args:
        liars: f, or None for the most that the theorem allows in the round, `(n - 3) // 2`.
    """

    kept_words = "its Krum score is among the best"
    left_out_words = "its Krum score is not among the best; left out without evidence"

    def __init__(self, liars: int | None = None) -> None:
        self.liars = liars
        self.name = self.title if liars is None else f"{self.title}-f{liars}"

    title = "multi-krum"

    def columns(self, setting: Setting, exhibits: Sequence[Exhibit]) -> Mapping[str, Floats]:
        """`krum`: the score, in squared model units.

        Raises:
            TooFewSilos: where a given f breaks `2f + 2 < n`.
        """
        liars = self._assumed(len(exhibits))
        return {"krum": krum_scores(squared_distances(setting, exhibits), liars)}

    def kept(self, scored: Sequence[Scored]) -> frozenset[str]:
        """The n - f best."""
        return lowest(scored, "krum", len(scored) - self._assumed(len(scored)))

    def _assumed(self, silos: int) -> int:
        if self.liars is None:
            return tolerated(silos)
        if silos <= 2 * self.liars + 2:
            raise TooFewSilos(
                f"{self.name} needs at least {2 * self.liars + 3} silos, {silos} take part; assume fewer liars"
            )
        return self.liars


class Krum(MultiKrum):
    """Keeps the one silo with the best Krum score (Blanchard et al. 2017, section 4)."""

    title = "krum"
    kept_words = "its Krum score is the best"
    left_out_words = "its Krum score is not the best; left out without evidence"

    def kept(self, scored: Sequence[Scored]) -> frozenset[str]:
        """The best."""
        return lowest(scored, "krum", 1)


class GeometricMedian(Weighting):
    """Weights of the smoothed Weiszfeld algorithm, masses by noised count (Pillutla et al. 2022, RFA).

    Nobody is left out. The median is of the sketches; its weights then average the updates.
    """

    name = "geometric-median"

    def factors(self, setting: Setting, exhibits: Sequence[Exhibit]) -> Floats:
        """Weiszfeld weights in units of the greatest, at least a millionth, which is what a record can hold."""
        masses = np.array([one.count for one in exhibits], dtype=np.float64)
        weights = weiszfeld_weights(points(setting, exhibits), masses)
        return np.asarray(np.maximum(weights / weights.max(), 1 / MICRO), dtype=np.float64)


class Monna(Selection):
    """Keeps the n - f silos nearest to a trusted pivot (Farhadkhani et al. 2023, MoNNA, nearest-neighbour averaging).

    In the paper every node is its own pivot. A coordinator has no update of its own, so somebody must be trusted:
    with a pivot that lies the rule keeps the liars.

    Args:
        pivot: name of a trusted silo, or a source of a trusted exhibit such as an update on public data.
        liars: f, or None for `(n - 1) // 5`.
    """

    name = "monna"
    kept_words = "near the trusted pivot"
    left_out_words = "far from the trusted pivot; left out without evidence"

    def __init__(self, pivot: str | Source, liars: int | None = None) -> None:
        self.pivot = pivot
        self.liars = liars

    def columns(self, setting: Setting, exhibits: Sequence[Exhibit]) -> Mapping[str, Floats]:
        """`pivot-distance`: squared distance from the pivot, in squared model units.

        Raises:
            MissingEvidence: where the trusted silo is not among the exhibits.
        """
        pivot = self._pivot(setting, exhibits)
        return {"pivot-distance": squared_distances(setting, [*exhibits, pivot])[-1, :-1]}

    def kept(self, scored: Sequence[Scored]) -> frozenset[str]:
        """The n - f nearest; a pivot among the silos is nearest to itself."""
        liars = (len(scored) - 1) // 5 if self.liars is None else self.liars
        return lowest(scored, "pivot-distance", max(1, len(scored) - liars))

    def _pivot(self, setting: Setting, exhibits: Sequence[Exhibit]) -> Exhibit:
        if not isinstance(self.pivot, str):
            return self.pivot(setting)
        found = next((one for one in exhibits if one.silo == self.pivot), None)
        if found is None:
            raise MissingEvidence(f"monna trusts {self.pivot}, which is not in this round; choose another pivot")
        return found
