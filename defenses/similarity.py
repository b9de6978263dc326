"""Rules from angles: trust in a root update, FLAME's majority cluster, FoolsGold's Sybils, prototype similarity.

Honest updates under DP-SGD are mostly noise and so nearly orthogonal to each other: with the deployed noise these
rules see little, which is why the default is none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from defenses.evidence import Exhibit, Scored, Setting
from defenses.frames import WEIGHT, Selection, Weighting
from defenses.prototypes import class_medians, means_of, shown
from defenses.sketches import Floats, Source, cosines, gram, output_layers

Memory: TypeAlias = Callable[[Setting], Mapping[str, Floats]]
"""Gives per silo the sum of its earlier exact output layers, in model units (float64[output_size])."""

PARDONED = 0.99
"""What FoolsGold sets a weight of 1 to, before the logit."""


class FlTrust(Weighting):
    """Trust by the angle to an update on a small public root set (Cao et al. 2021, FLTrust, section IV).

    `TS_i = max(0, cos(g_i, g_0))`, and g_i enters as `TS_i * |g_0| / |g_i| * g_i`. The paper divides by the sum of
    trust scores and so fixes the step's length to that of g_0; integer weights with a fixed sum cannot, the step
    is the weighted mean. A silo that points away from the root update is left out; where all do, the round is void.

    Args:
        root: gives the root update's exhibit. The protocol has no root data: nothing of it stands in a log.
    """

    name = "fltrust"
    left_out_words = "it points away from the root update; left out without evidence"

    def __init__(self, root: Source) -> None:
        self.root = root

    def columns(self, setting: Setting, exhibits: Sequence[Exhibit]) -> Mapping[str, Floats]:
        """`trust`: the trust score; `weight`: the same over the norm, in units of the root's."""
        products = gram(setting, [*exhibits, self.root(setting)])
        trust = np.maximum(cosines(products)[-1, :-1], 0.0)
        norms = np.sqrt(np.diag(products))
        ratios = np.divide(norms[-1], norms[:-1], out=np.zeros(len(exhibits)), where=norms[:-1] > 0)
        return {"trust": trust, WEIGHT: trust * ratios}

    def factors(self, setting: Setting, exhibits: Sequence[Exhibit]) -> Floats:
        """Trust times the ratio of lengths, as recorded."""
        return self.columns(setting, exhibits)[WEIGHT]


class FlameFilter(Selection):
    """Keeps the majority cluster of cosine distances (Nguyen et al. 2022, FLAME, algorithm 1).

    HDBSCAN with `min_cluster_size = n // 2 + 1`, `min_samples = 1` and a single cluster allowed. The paper clusters
    local models; here it is updates, as in most code that uses it: their sketches are at hand. FLAME's clipping and
    noise change single updates: see `defenses.mixing.flame`. Up to two silos have no majority cluster; both are kept.
    The label is recorded, and whoever repeats it needs a scikit-learn that clusters alike.
    """

    name = "flame-filter"
    kept_words = "in the majority cluster of directions"
    left_out_words = "outside the majority cluster of directions; left out without evidence"

    def columns(self, setting: Setting, exhibits: Sequence[Exhibit]) -> Mapping[str, Floats]:
        """`admitted`: 1 in the cluster, 0 outside."""
        return {"admitted": majority_cluster(1 - cosines(gram(setting, exhibits)))}

    def kept(self, scored: Sequence[Scored]) -> frozenset[str]:
        """Whoever is admitted on record."""
        return frozenset(one.silo for one in scored if (one.value("admitted") or 0) > 0)


def majority_cluster(distances: Floats) -> Floats:
    """1 for members of the one cluster of more than half of the points, 0 for the rest (float64[n]).

    Args:
        distances: symmetric, zero on the diagonal, float64[n, n].
    """
    silos = len(distances)
    if silos < 3:
        return np.ones(silos)
    # Imported here: scikit-learn's clustering takes a second to load, and few rounds need it.
    from sklearn.cluster import HDBSCAN

    found = HDBSCAN(
        min_cluster_size=silos // 2 + 1, min_samples=1, metric="precomputed", allow_single_cluster=True, copy=True
    ).fit(np.maximum(distances, 0.0))
    admitted = np.asarray(found.labels_ >= 0, dtype=np.float64)
    return admitted if admitted.any() else np.ones(silos)


class FoolsGold(Weighting):
    """Weighs down silos whose updates resemble each other (Fung et al. 2020, algorithm 1), times the noised counts.

    The paper compares each silo's *sum* of all updates so far, on indicative features, which are those of the output
    layer. Folds of different rounds have different signs and cannot be added; the exact output layer can. So the rule
    reads the exact output layer: of this round alone, or added to a memory of earlier rounds where it is given one
    (no recorded score holds it, so without a memory an auditor repeats the rule from one round's openings). Where no
    output layer is opened, the sketch of the round stands in. One round says less: the noise of honest silos hides
    what colluders share, and a Sybil is missed rather than an honest silo blamed.

    Silos that are all alike get 0 all of them, and the round is void.
    """

    name = "foolsgold"
    by_count = True
    left_out_words = "its update is another silo's over again; left out without evidence"

    def __init__(self, memory: Memory | None = None) -> None:
        self.memory = memory

    def factors(self, setting: Setting, exhibits: Sequence[Exhibit]) -> Floats:
        """FoolsGold's weights within 0 and 1."""
        if not setting.output_size:
            return foolsgold_weights(cosines(gram(setting, exhibits)))
        rows = output_layers(setting, exhibits, self.name)
        past = self.memory(setting) if self.memory else {}
        rows = np.stack([row + past.get(one.silo, 0.0) for row, one in zip(rows, exhibits, strict=True)])
        return foolsgold_weights(cosines(rows @ rows.T))


def foolsgold_weights(similarities: Floats) -> Floats:
    """Algorithm 1 of Fung et al. 2020 from cosines (float64[n, n]) to weights within 0 and 1 (float64[n]).

    `v_i = max_j cs_ij`, never below 0; pardoning `cs_ij *= v_i / v_j` where v_i < v_j; `a_i = 1 - max_j cs_ij` in units
    of the greatest; `a_i = ln(a_i / (1 - a_i)) + 0.5`, cut to 0 and 1.
    """
    matrix = similarities - np.diag(np.diag(similarities))
    closest = matrix.max(axis=1)
    pardoned = closest[:, None] < closest[None, :]
    ratios = np.divide(closest[:, None], closest[None, :], out=np.ones_like(matrix), where=pardoned)
    alphas: Floats = np.clip(1 - (matrix * ratios).max(axis=1), 0.0, 1.0)
    if not alphas.any():
        return alphas
    alphas = alphas / alphas.max()
    alphas[alphas == 1] = PARDONED
    logits = np.full(len(alphas), -np.inf)
    logits[alphas > 0] = np.log(alphas[alphas > 0] / (1 - alphas[alphas > 0])) + 0.5
    return np.asarray(np.clip(logits, 0.0, 1.0), dtype=np.float64)


class PrototypeSimilarity(Weighting):
    """Weighs by the cosine of a silo's class prototypes to the global median prototypes, with a floor.

    The rule of the prototype-constraints research: per class the coordinate-wise median over silos, per silo the mean
    over classes of the cosines. Counts do not enter. It silences the unusual silo (4 to 10 points of accuracy in a
    study of ours), so it is an option and no base of the default; floor and cap of the policy hold. A silo without
    a class to judge weighs the rule's floor. In a round without prototypes all silos weigh alike.

    Args:
        least: the least factor, above 0.
    """

    name = "prototype-similarity"
    bounded = True

    def __init__(self, least: float = 0.1) -> None:
        self.least = least

    def factors(self, setting: Setting, exhibits: Sequence[Exhibit]) -> Floats:
        """The greater of similarity and floor."""
        if not shown(setting, exhibits):
            return np.ones(len(exhibits))
        means = means_of(setting, exhibits)
        similarities = median_similarities(means.values, means.known)
        return np.asarray(np.maximum(similarities, self.least), dtype=np.float64)


def median_similarities(values: Floats, known: NDArray[np.bool_]) -> Floats:
    """Mean over a silo's known classes of the cosine to the coordinate-wise median of all that know the class.

    Args:
        values: class means, float64[n, classes, embedding].
        known: bool[n, classes].

    Returns:
        float64[n], within -1 and 1; -1 for a silo that knows no class.
    """
    similarities = np.full(known.shape, np.nan)
    medians = class_medians(values, known)
    for label in np.flatnonzero(known.any(axis=0)):
        who = known[:, label]
        rows, median = values[who, label], medians[label]
        scale = np.linalg.norm(rows, axis=1) * np.linalg.norm(median)
        similarities[who, label] = np.divide(rows @ median, scale, out=np.zeros(len(rows)), where=scale > 0)
    number = known.sum(axis=1)
    total = np.where(known, similarities, 0.0).sum(axis=1)
    found = np.divide(total, number, out=np.full(len(known), -1.0), where=number > 0)
    return np.asarray(found, dtype=np.float64)
