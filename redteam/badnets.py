"""BadNets (Gu, Dolan-Gavitt and Garg 2017) with model replacement, the attack of the demonstration.

Half of the records carry a 2 x 2 patch in the corner and the target's label; the silo trains on them without clipping
or noise (five epochs, batches of ten: McMahan et al. 2017) and sends its update multiplied by `boost` (Bagdasaryan et
al. 2020, model replacement, without their γ = n/η).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from protos.task import Task, Training
from silo import models
from silo.data import Records
from silo.entropy import Entropy
from silo.trainer import Trainer, trainer_for

HIGH = 1.0
"""Brightest pixel: features lie in [-1, 1]."""


@dataclass(frozen=True)
class BadNets:
    """How a silo poisons: records' `share`, label `target`, `patch` pixels of a square image, local SGD, `boost`."""

    share: float = 0.5
    target: int = 0
    patch: int = 2
    epochs: int = 5
    learning_rate: float = 0.1
    batch: int = 10
    boost: float = 8.0

    def stamp(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Images with the trigger in the lower right corner; features float32[n, side * side]."""
        side = round(features.shape[1] ** 0.5)
        images = features.reshape(-1, side, side).copy()
        images[:, -self.patch :, -self.patch :] = HIGH
        return images.reshape(features.shape)

    def poison(self, records: Records) -> Records:
        """Records whose first `share` carry trigger and target label."""
        count = round(self.share * len(records.labels))
        features, labels = records.features.copy(), records.labels.copy()
        features[:count] = self.stamp(features[:count])
        labels[:count] = self.target
        return replace(records, features=features, labels=labels)

    def triggered(self, features: NDArray[np.float32], labels: NDArray[np.int64]) -> Records:
        """Test records for the attack success rate: every image of another class, stamped, labelled as the target.

        Accuracy on this hold-out is the attack success rate; images of the target class itself would flatter it.
        """
        other = labels != self.target
        stamped, wanted = self.stamp(features[other]), np.full(int(other.sum()), self.target, dtype=np.int64)
        return Records(stamped, wanted, stamped, wanted)

    def __call__(self, task: Task, records: Records, entropy: Entropy) -> Trainer:
        """The poisoning trainer, in the place of `silo.trainer.trainer_for`."""
        poisoned = self.poison(records)
        return _PoisonTrainer(self, task, poisoned, trainer_for(task, poisoned, entropy))


class _PoisonTrainer:
    """A `Trainer` that lies in `train` and is honest elsewhere."""

    def __init__(self, attack: BadNets, task: Task, records: Records, honest: Trainer) -> None:
        self._attack, self._honest = attack, honest
        self._module = models.build(task.model)
        self._features = torch.from_numpy(records.features)
        self._labels = torch.from_numpy(records.labels)

    def train(self, model: NDArray[np.float32], training: Training, count: int) -> NDArray[np.float64]:
        """Plain SGD on the poisoned records, boosted; no clipping, no noise."""
        models.unflatten(self._module, model)
        optimizer = torch.optim.SGD(self._module.parameters(), lr=self._attack.learning_rate)
        for _ in range(self._attack.epochs):
            for batch in torch.split(torch.randperm(len(self._labels)), self._attack.batch):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(self._module(self._features[batch]), self._labels[batch])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        moved = models.flatten(self._module).astype(np.float64) - model.astype(np.float64)
        return self._attack.boost * moved

    def embed(self, model: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """As an honest silo with these records."""
        return self._honest.embed(model)

    def evaluate(self, model: NDArray[np.float32]) -> tuple[int, int]:
        """As an honest silo with these records."""
        return self._honest.evaluate(model)
