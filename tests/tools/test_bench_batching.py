"""What the benchmark compares is the same training."""

from __future__ import annotations

import numpy as np
import pytest

from silo.data import Records
from silo.trainer import initial_model
from tools.bench_batching import MODELS, at_once, by_ghost, by_torch_func, measured, one_by_one, training


def _silos(*counts: int) -> list[Records]:
    draws = np.random.default_rng(3)
    made = [(draws.random((n, 784), dtype=np.float32), draws.integers(0, 10, n)) for n in counts]
    return [Records(features, labels, features, labels) for features, labels in made]


@pytest.mark.torch
@pytest.mark.parametrize(("kind", "sums"), [("mlp", by_torch_func), ("mlp", by_ghost), ("lenet", by_torch_func)])
def test_all_silos_at_once_get_the_updates_of_the_trainer(kind: str, sums: object) -> None:
    silos, spec, rule = _silos(40, 7, 90), MODELS[kind], training(0.5)
    model = initial_model(spec, 2)
    alone = one_by_one(spec, model, silos, rule)
    together = at_once(spec, model, silos, rule, sums)  # type: ignore[arg-type]
    assert np.abs(alone).max(axis=1).min() > 0.01
    np.testing.assert_allclose(together, alone, atol=2e-5)


@pytest.mark.torch
def test_a_row_says_how_the_best_batch_compares() -> None:
    row = measured("mlp", 2, 60, 1)
    best = min(row.torch_func, row.ghost)
    assert min(row.one_by_one, row.noise, best) > 0
    assert row.fastest_by_one_by_one == pytest.approx(best / row.one_by_one, abs=0.1)
