"""Attackers that train as silos do are pulled as silos are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from audit.prototypes import GlobalPrototypes
from protos.search import Trigger
from protos.task import MICRO, ModelSpec
from redteam.attacks import data, local, updates
from redteam.attacks.attack import Attack
from silo.data import Records
from silo.guidance import Guidance, Pull
from silo.trainer import initial_model, trainer_for
from tests.redteam.plain_task import plain_task
from tests.silo.entropy import SeededEntropy
from tests.silo.examples import records, training

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:Full backward hook")]


def test_attackers_that_train_as_silos_do_keep_to_prototypes_and_unlearn_nothing() -> None:
    spec = ModelSpec("mlp", (6, 5, 3), "tanh")
    task, own, model = plain_task(spec), records(50), initial_model(spec, 1)
    centres = np.random.default_rng(0).normal(size=(3, 5))
    pull = Pull(2.0, GlobalPrototypes(1, centres, np.ones(3, dtype=bool)))
    found = Trigger(0, None, bytes([255] * 6), bytes([255] * 6), 0, 9 * MICRO)
    told, lied = Guidance(((found,),), pull), replace(own, labels=np.where(own.labels == 1, 2, own.labels))
    plan = training()

    def honest(records: Records) -> NDArray[np.float64]:
        return trainer_for(task, records, SeededEntropy(1)).train(model, plan, 50, Guidance(pull=pull))

    for attack, expected in (
        (Attack(data.FlipPair(1, 2)), honest(lied)),
        (Attack(None, local.PrivateSgd(poisoned=False), (updates.SignFlip(),)), -honest(own)),
        (Attack(None, local.Signal()), honest(own)),
    ):
        assert attack(task, own, SeededEntropy(1)).train(model, plan, 50, told) == pytest.approx(expected, abs=1e-4)
