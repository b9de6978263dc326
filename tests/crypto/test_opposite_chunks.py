"""What cancels in the folds: 2^-F for two chunks that are equal or opposite, and never more often."""

from __future__ import annotations

import math

import numpy as np
import pytest

from crypto.packing import Packing
from crypto.sketch import rows, signs, sketch
from tests.crypto.conftest import make_layout, random_values

SEEDS = 4000
CHUNKS = 64


def hidden(folds: int, payload: np.ndarray, label: bytes) -> int:  # type: ignore[type-arg]
    """For how many of the seeds all folds of a payload (one column, int64[chunks]) are zero."""
    return sum(
        not (signs(label + index.to_bytes(4, "little"), folds, payload.size).astype(np.int64) @ payload).any()
        for index in range(SEEDS)
    )


@pytest.mark.parametrize("folds", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("pattern", [(1, -1), (1, 1), (127, -127)])
def test_two_equal_or_opposite_chunks_hide_with_two_to_the_minus_folds(folds: int, pattern: tuple[int, int]) -> None:
    payload = np.zeros(CHUNKS, np.int64)
    payload[[7, 50]] = pattern
    expected = SEEDS * 2.0**-folds
    found = hidden(folds, payload, bytes([folds]) + bytes(pattern[1] % 256 for _ in range(2)))
    # Five deviations of a binomial; the seeds are fixed.
    assert abs(found - expected) < 5 * math.sqrt(expected)


@pytest.mark.parametrize("chunks", [1, 3, 4, 16, 63, 64])
@pytest.mark.parametrize("folds", [2, 3])
def test_no_other_pattern_hides_more_often(folds: int, chunks: int) -> None:
    rng = np.random.default_rng(chunks)
    for payload in (np.ones(CHUNKS), rng.choice([-1, 1], CHUNKS), rng.integers(1, 128, CHUNKS)):
        payload = payload.astype(np.int64)
        payload[chunks:] = 0
        most = SEEDS * 2.0**-folds
        found = hidden(folds, payload, b"other" + bytes([folds, chunks]))
        assert found < most + 5 * math.sqrt(most)
        exact = (math.comb(chunks, chunks // 2) / 2**chunks) ** folds if chunks % 2 == 0 else 0.0
        if abs(payload[payload != 0]).max() == 1:
            assert abs(found - SEEDS * exact) < 5 * math.sqrt(SEEDS * exact + 1)


def test_hidden_payload_leaves_the_sketch_as_it_is_and_a_seen_one_does_not() -> None:
    packing = Packing.of(make_layout(2410, 2080, 330), folds=2)
    rng = np.random.default_rng(4)
    honest = packing.to_fields(random_values(rng, packing.size) // 2)
    payload = honest.copy()
    payload[2, : packing.width - 1] += 60
    payload[9, : packing.width - 1] -= 60
    seen = set()
    for index in range(40):
        drawn = signs(index.to_bytes(32, "little"), 2, packing.body_chunks)
        same = all(
            np.array_equal(a, b) for a, b in zip(*(sketch(x, packing, drawn) for x in (honest, payload)), strict=True)
        )
        cancels = bool((drawn[:, 2] == drawn[:, 9]).all())
        assert same == cancels
        assert rows(drawn, packing).shape == (2 + packing.output_chunks, packing.chunks)
        seen.add(cancels)
    assert seen == {True, False}


@pytest.mark.parametrize(("folds", "low"), [(2, 0.095), (4, 0.0175), (8, 0.00078)])
def test_structured_payload_is_underestimated_tenfold_as_often_as_chi_square_says(folds: int, low: float) -> None:
    """The limit that docs/crypto.md states: one vector in all chunks, and the folds see S^2 of it."""
    energy = np.array(
        [
            float((signs(b"chi" + index.to_bytes(4, "little"), folds, CHUNKS).astype(np.int64).sum(axis=1) ** 2).mean())
            for index in range(SEEDS)
        ]
    )
    found = float((energy <= 0.1 * CHUNKS).mean())
    # S is a sum of 64 signs, not quite a Gaussian: within half of the law, and a few of 4000 draws.
    assert abs(found - low) < 0.5 * low + 4 * math.sqrt(low / SEEDS)
