"""Global prototypes, from the log: what embeddings of a class look like to most silos.

They are taken from the last adopted round whose plan asked for prototypes. A silo that this round retained votes for
a class if its released class count is at least `max(FEWEST_RECORDS, 4 * deviation of the count's noise)`; its vote is
its released class sum over that count. A class with at least FEWEST_OTHERS voters has a global prototype: per
coordinate the median of the votes, each counted alike, so that nobody gains by a large count and less than half of the
voters cannot carry a coordinate beyond the others. A median that noise made longer than the clip norm is drawn back to
it: no mean of clipped rows lies beyond.

*Whose embeddings they are:* those of the global model that the round handed out, before anybody trained. With a release
in every round the prototypes are one adopted model older than the model that is trained next, otherwise up to `every`.

*Bias:* silos sum embeddings clipped to the rule's norm. Where embeddings are longer, prototypes are shorter than
their mean, and a pull towards them shortens embeddings too. The noise of the releases stays in them: of about a silo's
`noise * clip / count` in each coordinate over the root of the number of voters.

All of it was released under differential privacy and stands in the log, so using it costs no privacy, and everybody
who has the log computes the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from audit import replay
from defenses.prototypes import FEWEST_OTHERS, class_medians, means_of

if TYPE_CHECKING:
    from audit.history import History, RoundView


@dataclass(frozen=True, eq=False)
class GlobalPrototypes:
    """Of round `round`, for the classes that are `known` (bool[classes]).

    `centres` is float64[classes, embedding] in units of embeddings, 0 for the other classes.
    """

    round: int
    centres: NDArray[np.float64]
    known: NDArray[np.bool_]


def global_prototypes(history: History) -> GlobalPrototypes | None:
    """The global prototypes that the log tells by now; None before an adopted round with prototypes."""
    view = next((view for view in reversed(history.rounds) if _has_prototypes(view)), None)
    if view is None:
        return None
    setting = replay.setting_of(history, view)
    exhibits = [replay.exhibit_of(history, silo, view.openings[silo]) for silo in sorted(view.weights)]
    means = means_of(setting, exhibits)
    known = means.known.sum(axis=0) >= FEWEST_OTHERS
    medians = class_medians(means.values, means.known & known)
    lengths = np.linalg.norm(medians, axis=1, keepdims=True)
    return GlobalPrototypes(view.plan.round, medians * (setting.prototype_clip / np.maximum(lengths, 1.0)), known)


def _has_prototypes(view: RoundView) -> bool:
    return view.plan.prototypes is not None and view.adopted
