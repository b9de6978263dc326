"""Colluders whose sketches lie in opposite directions, so that their sum tells the truth: each is held to its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crypto.packing import Packing
from crypto.secure_sum import Protected
from tests.integration.bench import bench, closed, outcomes
from tests.integration.liars import Fields, LyingKeys, protecting

pytestmark = pytest.mark.integration

COLLUDERS = {"bob": 1, "dan": -1}


def sketch_apart(keys: LyingKeys, fields: Fields, packing: Packing, plan: str, silo: str) -> Protected:
    """Encrypts and tags the update plus or minus one vector; the sketch is of the update alone."""
    random, used = np.random.default_rng(0), np.arange(fields.shape[1]) < packing.lengths[:, None]
    lie = np.where(used, random.integers(-40, 41, fields.shape), 0)
    return keys.real.protect(fields + COLLUDERS[silo] * lie, packing, plan=plan, silo=silo)


def test_sketches_that_lie_in_opposite_directions_convict_both_colluders(tmp_path: Path) -> None:
    history = bench(tmp_path, {name: protecting(sketch_apart) for name in COLLUDERS}, rounds=1).until(closed(1))
    assert set(history.convicted) == set(COLLUDERS)
    assert not set(COLLUDERS) & set(history.round.weights)
    assert outcomes(history)[0].result == "adopted"
