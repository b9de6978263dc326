"""FedProto in the open (Tan et al. 2022): silos keep personal models and share only class prototypes.

Silos see three classes of ten ("3-way"), a benign silo's loss is cross-entropy + λ times the squared distance of each
embedding to its class's global prototype, which is the count-weighted mean of the sent ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from redteam.attacks.attack import Attack, AttackTrainer, class_sums
from redteam.attacks.learner import Learner
from redteam.attacks.parts import ClassSums
from silo import models
from silo.data import Records
from silo.trainer import initial_model
from tests.redteam.averaging import CLASSES, SPEC, task_for, world
from tests.silo.entropy import SeededEntropy

WAYS = 3


def three_way(silos: int, seed: int = 0) -> dict[str, Records]:
    """Records of `silos` silos with three classes each; a silo's hold-out is the test images of its classes."""
    whole = list(world().silos.values())
    x, y = np.concatenate([own.features for own in whole]), np.concatenate([own.labels for own in whole])
    random, test = np.random.default_rng(seed), world().test
    made = {}
    for number in range(silos):
        own = random.choice(CLASSES, WAYS, replace=False)
        mine = random.permutation(np.flatnonzero(np.isin(y, own)))[:120]
        held = np.isin(test[1], own)
        made[f"p{number}"] = Records(x[mine], y[mine], test[0][held], test[1][held])
    return made


class Federation:
    """Personal models that share prototypes; `attacking` silos send what their attack makes of theirs."""

    def __init__(self, silos: Mapping[str, Records], attacking: Mapping[str, Attack], pull: float = 1.0) -> None:
        self.silos, self.attacking, self.pull = dict(silos), dict(attacking), pull
        self.learner = Learner(SPEC)
        self.models = {name: initial_model(SPEC, 0) for name in silos}
        self.consensus: NDArray[np.float64] | None = None
        task = replace(task_for(), prototypes=None)
        self.trainers = {
            name: AttackTrainer(attack, task, silos[name], SeededEntropy(0)) for name, attack in attacking.items()
        }

    def run(self, rounds: int) -> None:
        """Train and share, `rounds` times."""
        for number in range(rounds):
            sent = [self._turn(name, number) for name in self.silos]
            counts = sum(one.counts for one in sent)
            total = sum(one.sums for one in sent)
            assert isinstance(counts, np.ndarray)
            self.consensus = total / np.maximum(counts, 1)[:, None]

    def accuracy(self) -> float:
        """Mean over the benign silos of the accuracy on test images of their own classes."""
        return float(
            np.mean([self._right(name, own.holdout_features, own.holdout_labels) for name, own in self._benign()])
        )

    def success(self, triggers: Mapping[int, object]) -> float:
        """Mean over benign silos and their classes j: share of other classes' images that trigger j turns to j."""
        shares = []
        for name, own in self._benign():
            for label in np.unique(own.labels).tolist():
                others = own.holdout_features[own.holdout_labels != label]
                stamped = triggers[label].stamp(others)  # type: ignore[attr-defined]
                shares.append(self._right(name, stamped, np.full(len(others), label)))
        return float(np.mean(shares))

    def _benign(self) -> list[tuple[str, Records]]:
        return [(name, own) for name, own in self.silos.items() if name not in self.attacking]

    def _right(self, name: str, features: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
        return float((self.learner.predict(self.models[name], features) == labels).mean())

    def _turn(self, name: str, number: int) -> ClassSums:
        own = self.silos[name]
        self._train(name, own, number)
        if name in self.trainers:
            self.attacking[name].ring.consensus = self.consensus
            embeddings, labels = self.trainers[name].embed(self.models[name])
            sent = class_sums(embeddings, labels, CLASSES, np.inf)
            # Without a clip norm every class comes as one row; a silo's weight is its number of records.
            counts = np.bincount(own.labels, minlength=CLASSES)
            return ClassSums(sent.sums, np.where(np.abs(sent.sums).sum(axis=1) > 0, np.maximum(counts, 1), 0))
        return class_sums(self.learner.embed(self.models[name], own.features), own.labels, CLASSES, np.inf)

    def _train(self, name: str, own: Records, number: int) -> None:
        module = self.learner.load(self.models[name])
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        features, labels = torch.from_numpy(own.features), torch.from_numpy(own.labels)
        wanted = None if self.consensus is None else torch.from_numpy(self.consensus).float()
        random = np.random.default_rng([number, int(name[1:])])
        for _ in range(2):
            for batch in torch.split(torch.from_numpy(random.permutation(len(labels))), 10):
                embeddings, scores = self.learner.forward(features[batch])
                loss = nn.functional.cross_entropy(scores, labels[batch])
                if wanted is not None:
                    loss = loss + self.pull * (embeddings - wanted[labels[batch]]).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self.models[name] = models.flatten(module)
