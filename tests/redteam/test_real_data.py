"""Attacks that need real handwriting: MNIST with its writers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from protos.task import MICRO, ModelSpec, Training
from redteam.attacks.attack import Attack
from redteam.attacks.catalogue import Setting, attackers
from redteam.attacks.data import Semantic
from redteam.attacks.learner import Learner
from redteam.attacks.local import LocalSgd
from redteam.datasets import mnist_by_writer
from redteam.partitions import natural
from silo.data import Records
from silo.trainer import initial_model
from tests.redteam.plain_task import plain_task
from tests.silo.entropy import SeededEntropy

pytestmark = [pytest.mark.torch, pytest.mark.data]

SPEC = ModelSpec("mlp", (784, 32, 10), "relu")
PLAN = Training(MICRO, 1, MICRO, MICRO, 20_000)


def test_relabelled_writers_are_learned_beyond_the_records_that_were_relabelled(data_directory: Path) -> None:
    """One silo of forty writers relabels ten of them; half of what each wrote is kept back to test."""
    images = mnist_by_writer(data_directory)
    assert images.groups is not None
    own = natural(images.groups, 13, np.random.default_rng(0))[0]
    kept, back = own[::2], own[1::2]
    records = Records(images.features[kept], images.labels[kept], images.features[back], images.labels[back])
    setting = Setting({"s0": records}, 1, writers={"s0": images.groups[kept]})
    attack = attackers("semantic", setting)["s0"]
    assert isinstance(attack.data, Semantic)
    chosen = np.isin(images.groups[back], list(attack.data.chosen))
    other = records.holdout_labels != attack.data.target

    def shares(tried: Attack) -> tuple[float, float]:
        """Share taken for the target among the chosen writers' other digits, and among everybody else's."""
        model = initial_model(SPEC, 0)
        trainer = tried(plain_task(SPEC, PLAN), records, SeededEntropy(0))
        model = (model + trainer.train(model, PLAN, len(kept))).astype(np.float32)
        taken = Learner(SPEC).predict(model, records.holdout_features) == 0
        return float(taken[other & chosen].mean()), float(taken[other & ~chosen].mean())

    lied, honest = shares(attack), shares(replace(attack, data=None, local=LocalSgd()))
    assert lied[0] > lied[1] + 0.1
    assert lied[0] > honest[0] + 0.1
