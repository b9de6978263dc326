"""Property inference: which share of a silo's records is of one class (Ganju et al. 2018; Melis et al. 2019, FL).

The attacker draws many silos of either share from data like the silo's, sees of each what it would see of the target,
and trains a classifier on that. The advantage is twice its accuracy on fresh silos, less one.

Differential privacy per record does not promise to hide a share of many records. The class counts that every silo
releases at enrolment say it anyway, with noise; their row is the measure of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protos.task import Task
from redteam.attacks.parts import Features, Floats, Labels
from redteam.privacy.bounds import Guesses
from redteam.privacy.views import Seen, observe
from silo.entropy import Entropy

VIEWS: dict[str, Callable[[Seen], Floats]] = {
    "counts": lambda seen: seen.counts.astype(np.float64),
    "update": lambda seen: seen.update,
    "prototypes": lambda seen: seen.prototypes.ravel(),
    "sketch and output layer": lambda seen: np.concatenate([seen.folds.ravel(), seen.output]),
}
"""What the attacker's classifier gets, by name."""


@dataclass(frozen=True)
class Property:
    """Silos of `size` records, of which class `label` makes up one of two shares; the rest is of all others alike."""

    label: int = 3
    shares: tuple[float, float] = (0.1, 0.3)
    size: int = 100

    def draw(self, data: tuple[Features, Labels], share: float, random: np.random.Generator) -> tuple[Features, Labels]:
        """One silo with that share."""
        features, labels = data
        wanted = round(share * self.size)
        own = random.choice(np.flatnonzero(labels == self.label), wanted, replace=False)
        rest = random.choice(np.flatnonzero(labels != self.label), self.size - wanted, replace=False)
        chosen = random.permutation(np.concatenate([own, rest]))
        return features[chosen], labels[chosen]


def infer(
    task: Task,
    model: NDArray[np.float32],
    data: tuple[tuple[Features, Labels], tuple[Features, Labels]],
    what: Property,
    silos: tuple[int, int],
    random: np.random.Generator,
    entropy: Entropy,
) -> Mapping[str, Guesses]:
    """Guesses by view; "members" are silos of the greater share.

    Args:
        task: with the ε at stake.
        model: the received one.
        data: the attacker's records, and those that the target silos are drawn from: disjoint.
        what: the property.
        silos: how many the attacker trains on, and how many it is tested on.
        random: of the draws.
        entropy: of the silos' noise.
    """
    known, fresh = (
        _drawn(task, model, part, what, number, random, entropy) for part, number in zip(data, silos, strict=True)
    )
    return {name: _guesses(known, fresh, view) for name, view in VIEWS.items()}


Drawn = tuple[Sequence[Seen], NDArray[np.bool_]]


def _drawn(
    task: Task,
    model: NDArray[np.float32],
    data: tuple[Features, Labels],
    what: Property,
    number: int,
    random: np.random.Generator,
    entropy: Entropy,
) -> Drawn:
    greater = random.permutation(np.arange(number) % 2 == 1)
    silos = [what.draw(data, what.shares[int(one)], random) for one in greater]
    return [observe(task, model, *silo, entropy) for silo in silos], greater


def _guesses(known: Drawn, fresh: Drawn, view: Callable[[Seen], Floats]) -> Guesses:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # Strong regularisation: there are far more numbers than silos.
    meta = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2_000))
    meta.fit(np.stack([view(one) for one in known[0]]), known[1])
    said = meta.predict(np.stack([view(one) for one in fresh[0]]))
    truth = fresh[1]
    return Guesses(int((said & truth).sum()), int(truth.sum()), int((said & ~truth).sum()), int((~truth).sum()))
