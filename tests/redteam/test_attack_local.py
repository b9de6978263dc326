"""Local parts by hand-made vectors: which coordinates Neurotoxin leaves, and what it takes for benign movement."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from redteam.attacks import local
from redteam.attacks.attack import AttackTrainer
from silo.trainer import trainer_for
from tests.redteam.averaging import QUIET, attacking, task_for, warm, world
from tests.silo.entropy import SeededEntropy

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:Full backward hook")]


def neurotoxin() -> AttackTrainer:
    return attacking("neurotoxin", 1)["s0"](task_for(), world().silos["s0"], SeededEntropy(0))


def test_the_heaviest_coordinates_are_the_largest_by_magnitude() -> None:
    vector = np.array([0.1, -7.0, 3.0, 0.0, 3.0, -0.2, 2.0, -5.0, 0.3, 1.0])
    assert np.flatnonzero(local.heaviest(vector, 0.2)).tolist() == [1, 7]
    assert np.flatnonzero(local.heaviest(vector, 0.3)).tolist() == [1, 2, 7]  # of a tie, the first
    assert not local.heaviest(vector, 0.0).any()
    assert local.heaviest(vector, 1.0).all()


def test_neurotoxin_leaves_what_the_global_model_moved_most_since_the_last_round() -> None:
    """120 of 2,410 coordinates are 5 %; theirs is the largest change, which is down in half of them."""
    random, first = np.random.default_rng(5), warm()
    places = random.choice(first.size, 120, replace=False)
    change = random.uniform(-0.01, 0.01, first.size)
    change[places] = 0.02 * np.where(np.arange(120) % 2, 1, -1)
    second = (first + change).astype(np.float32)
    trainer = neurotoxin()
    trainer.train(first, QUIET, 233)
    update = trainer.train(second, QUIET, 233)
    moved = np.ones(first.size, dtype=bool)
    moved[places] = False
    assert not update[~moved].any()
    assert np.count_nonzero(update[moved]) > 0.5 * first.size


@pytest.mark.parametrize("again", [False, True])
def test_neurotoxin_goes_by_its_own_honest_update_where_the_model_has_not_moved(again: bool) -> None:
    full = replace(QUIET, sample_rate_micro=1_000_000)  # no coins, so that the honest update is the same in each round
    honest = trainer_for(task_for(), world().silos["s0"], SeededEntropy(0)).train(warm(), full, 233)
    trainer = neurotoxin()
    for _ in range(1 + again):
        update = trainer.train(warm(), full, 233)
    order = np.argsort(np.abs(honest))
    assert not update[order[-round(0.04 * update.size) :]].any()
    assert np.count_nonzero(update[order[: round(0.9 * update.size)]]) > 0.5 * update.size
