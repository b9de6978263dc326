"""Rules from the exact output layer: FLSec's GradScore and FLAB's anomaly bias. Both always remove somebody.

That is no slip: FLSec keeps a fixed share, and FLAB removes whoever bears the most anomalous class, attack or none
(11 to 13 % of honest silos by its authors' own tables). Neither paper's full text was at hand: the rules follow
their published descriptions, and what those leave open is said where it was chosen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from defenses.errors import MissingEvidence
from defenses.evidence import Exhibit, Scored, Setting
from defenses.frames import Selection, lowest
from defenses.sketches import Floats, output_layers
from protos.task import MICRO


class FlSec(Selection):
    """Keeps the share of silos with the lowest GradScore (FLSec, whose measure is GradScore).

    GradScore is the L2 norm of the loss gradient (Paul et al. 2021); the update of the last layer over `lr * steps`
    stands for it. With DP noise the norm is that of the noise, greatest in the smallest silo, and it is removed.
    Chosen here: the last layer, the share.

    Args:
        share: part of the silos that is kept, rounded up; at least one is removed of two or more, and one is kept.
    """

    name = "flsec"
    kept_words = "its GradScore is among the lowest"
    left_out_words = "its GradScore is among the highest; left out without evidence"

    def __init__(self, share: Fraction = Fraction(3, 5)) -> None:
        self.share = share

    def columns(self, setting: Setting, exhibits: Sequence[Exhibit]) -> Mapping[str, Floats]:
        """`grad-score`; raises MissingEvidence where the output layer is not opened."""
        rows = output_layers(setting, exhibits, self.name)
        return {"grad-score": np.linalg.norm(rows, axis=1) / (setting.learning_rate * setting.steps)}

    def kept(self, scored: Sequence[Scored]) -> frozenset[str]:
        """The lowest share."""
        number = min(-(-len(scored) * self.share.numerator // self.share.denominator), len(scored) - 1)
        return lowest(scored, "grad-score", max(1, number))


@dataclass(frozen=True)
class AnomalyBias:
    """The class that an update pushes most, and how far its bias stands above the mean of all (scaled)."""

    label: int
    degree: int


class Flab(Selection):
    """Removes whoever bears the most anomalous bias (Wang et al. 2026, FLAB: exploring anomaly bias).

    The anomaly bias of an update is the class whose bias in the output layer it raises most; its degree is that rise
    over the mean of all classes. The degrees are clustered in two, the higher cluster is kept and clustered again
    until one class holds more than half of it; all updates with that class are removed, however anomalous. No
    majority of honest silos is assumed. Where all silos bear one class nobody is told apart and nobody removed.
    Chosen here: the degree, and where the clustering stops.
    """

    name = "flab"
    kept_words = "its anomaly bias is another class than the most anomalous"
    left_out_words = "its anomaly bias is the most anomalous class; left out without evidence"

    def columns(self, setting: Setting, exhibits: Sequence[Exhibit]) -> Mapping[str, Floats]:
        """`bias-class` and `bias-degree`, the latter in model units.

        Raises:
            MissingEvidence: where the output layer is not opened or has no bias.
        """
        rows = output_layers(setting, exhibits, self.name)
        if setting.output_size < setting.classes * (setting.embedding + 1):
            raise MissingEvidence("flab reads the biases of the output layer, and it has none; choose another defence")
        biases = rows[:, -setting.classes :]
        return {"bias-class": biases.argmax(axis=1) * 1.0, "bias-degree": biases.max(axis=1) - biases.mean(axis=1)}

    def kept(self, scored: Sequence[Scored]) -> frozenset[str]:
        """All but the bearers of the most anomalous class."""
        biases = {
            one.silo: AnomalyBias((one.value("bias-class") or 0) // MICRO, one.value("bias-degree") or 0)
            for one in scored
        }
        accused = most_anomalous(list(biases.values()))
        kept = frozenset(silo for silo, bias in biases.items() if bias.label != accused)
        return kept or frozenset(biases)


def most_anomalous(biases: Sequence[AnomalyBias]) -> int | None:
    """The class that holds more than half of the highest cluster, or its mode where that cluster falls no further.

    Ties go to the class with the greater sum of degrees, then to the lower number. None where there is nobody.
    """
    cluster = list(biases)
    if not cluster:
        return None
    while 2 * Counter(one.label for one in cluster).most_common(1)[0][1] <= len(cluster):
        edge = two_means_edge([one.degree for one in cluster])
        if edge is None:
            break
        cluster = [one for one in cluster if one.degree >= edge]
    votes = Counter(one.label for one in cluster)
    sums = {label: sum(one.degree for one in cluster if one.label == label) for label in votes}
    return max(votes, key=lambda label: (votes[label], sums[label], -label))


def two_means_edge(values: Sequence[int]) -> int | None:
    """The least value of the upper of two clusters with the least sum of squares, exactly; None where all are equal.

    In one dimension optimal clusters are intervals, so all splits are tried. Ties go to the lowest split.
    """
    ranked = sorted(values)
    total, low = sum(ranked), 0
    best: tuple[Fraction, int] | None = None
    for place in range(1, len(ranked)):
        low += ranked[place - 1]
        if ranked[place] == ranked[place - 1]:
            continue
        # The sum of squares within is that of all values less this.
        between = Fraction(low * low, place) + Fraction((total - low) ** 2, len(ranked) - place)
        if best is None or between > best[0]:
            best = between, ranked[place]
    return None if best is None else best[1]
