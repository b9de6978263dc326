"""Local parts: how an attacker trains. With DP as every silo, without noise, or without DP at all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from redteam.attacks.data import CleanLabel
from redteam.attacks.parts import NO_NOISE_MICRO, Amount, Context, Count, Floats, Rate, Share
from redteam.errors import BadAttack
from silo.trainer import trainer_for


@dataclass(frozen=True)
class PrivateSgd:
    """Honest DP-SGD (Abadi et al. 2016, Algorithm 1) by production's trainer, on the poisoned or the clean records.

    With `poisoned`, only the data lie: the weakest attacker, and the one that no law convicts.
    """

    poisoned: bool = True

    def train(self, context: Context) -> Floats:
        """See `Local.train`."""
        if not self.poisoned or context.data is None:
            return context.honest
        trainer = trainer_for(context.task, context.poisoned, context.entropy)
        return trainer.train(context.model, context.training, context.count, context.guidance)


@dataclass(frozen=True)
class Signal:
    """The plan's clipped SGD on the clean records without its noise: what noise is added to in an honest update."""

    def train(self, context: Context) -> Floats:
        """See `Local.train`."""
        silent = replace(context.training, noise_micro=NO_NOISE_MICRO)
        return context.honest_trainer.train(context.model, silent, context.count, context.guidance)


@dataclass(frozen=True)
class LocalSgd:
    """Plain SGD on the poisoned records (FedAvg: McMahan et al. 2017, Algorithm 1), no clipping, no noise.

    Five epochs, batches of ten and rate 0.1 are that paper's usual values.
    """

    epochs: Count = 5
    learning_rate: Rate = 0.1
    batch: Count = 10

    def train(self, context: Context) -> Floats:
        """See `Local.train`."""
        return context.learner.descend(context.model, context.poisoned, self, context.random)


@dataclass(frozen=True)
class ConstrainAndScale(LocalSgd):
    """SGD on α L_class + (1 - α) L_distance (Bagdasaryan et al. 2020, eq. 4), to be followed by `updates.Scale`.

    L_distance is the L2 distance to the received model, as in DBA's code; α 0.9 and 0.6 are FLSec's.
    """

    alpha: Share = 0.9

    def train(self, context: Context) -> Floats:
        """See `Local.train`."""
        return context.learner.descend(context.model, context.poisoned, self, context.random, alpha=self.alpha)


@dataclass(frozen=True)
class Neurotoxin(LocalSgd):
    """SGD with every gradient projected off the coordinates that benign silos move most (Zhang et al. 2022, Alg. 1).

    Benign movement is the last change of the global model; in the first round, the attacker's honest update. `top` is
    the share of coordinates avoided (5 %); they are exactly zero in the update.
    """

    top: Share = 0.05

    def train(self, context: Context) -> Floats:
        """See `Local.train`."""
        allowed = ~heaviest(self.benign(context), self.top)
        return context.learner.descend(context.model, context.poisoned, self, context.random, allowed=allowed)

    def benign(self, context: Context) -> Floats:
        """What benign silos moved, float64[d], as far as this attacker can see."""
        if context.previous is None or np.array_equal(context.model, context.previous):
            return context.honest
        return context.model.astype(np.float64) - context.previous.astype(np.float64)


@dataclass(frozen=True)
class AdversarialLabels(LocalSgd):
    """SGD on clean labels whose images the received model gets wrong (Turner, Tsipras and Madry 2019, section 4.2).

    Images of the target class are perturbed against the global model of each round by PGD, so that what they show of
    their class teaches it little, and then poisoned by the data part, which must be `CleanLabel`. The paper perturbs
    once, against a model of its own, by at most 8 to 32 of 255; on digits 0.3 is the usual bound. With `private` the
    images are trained on by `PrivateSgd`, which has no knobs of its own: those of `LocalSgd` then say nothing.
    """

    epsilon: Amount = 0.3
    steps: Count = 10
    low: float = 0.0
    private: bool = False

    def train(self, context: Context) -> Floats:
        """See `Local.train`."""
        if not isinstance(context.data, CleanLabel):
            raise BadAttack("adversarial labels need a target class: give the attack the data part CleanLabel")
        records, features = context.records, context.records.features.copy()
        own = records.labels == context.data.target
        features[own] = context.learner.perturb(
            context.model, features[own], records.labels[own], self.epsilon, self.steps, self.low
        )
        poisoned = context.data.poison(replace(records, features=features), context.random)
        if self.private:
            return PrivateSgd().train(replace(context, poisoned=poisoned))
        return context.learner.descend(context.model, poisoned, self, context.random)


def heaviest(vector: Floats, share: float) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Where the largest `share` of the coordinates are by magnitude, bool[d]; ties go to the first."""
    chosen = np.zeros(vector.size, dtype=bool)
    chosen[np.argsort(-np.abs(vector), kind="stable")[: round(share * vector.size)]] = True
    return chosen
