import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from protos.task import PROTOTYPE_GRID, PrototypeRule
from silo.releases import _integer_rows, noised_counts, noised_evaluation, noised_prototypes
from tests.silo.entropy import SeededEntropy

SILENT = 1  # a multiplier of a millionth: the discrete Gaussian is then zero
LABELS = np.array([0, 0, 2, 2, 2, 1], dtype=np.int64)
RULE = PrototypeRule(clip_micro=2_000_000, noise_micro=SILENT, every=1)

finite = hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=st.floats(-1e30, 1e30))


def test_silent_noise_gives_the_true_counts() -> None:
    assert noised_counts(LABELS, 4, SILENT, SeededEntropy(1)) == (6, (2, 1, 3, 0))


def test_count_noise_has_sensitivity_root_two() -> None:
    entropy = SeededEntropy(2)
    labels = np.zeros(100_000, dtype=np.int64)
    totals = [noised_counts(labels, 2, 5_000_000, entropy)[0] for _ in range(1500)]
    assert np.std(totals) == pytest.approx(5 * np.sqrt(2), rel=0.08)
    assert np.mean(totals) == pytest.approx(100_000, abs=0.8)


@given(st.integers(0, 1000))
def test_counts_stay_in_range_under_heavy_noise(seed: int) -> None:
    total, classes = noised_counts(LABELS, 4, 40_000_000, SeededEntropy(seed))
    assert total >= 1
    assert min(classes) >= 0
    assert len(classes) == 4


def test_silent_noise_gives_the_true_evaluation() -> None:
    assert vars(noised_evaluation(17, 20, SILENT, SeededEntropy(1))) == {"correct": 17, "total": 20}


@given(st.integers(0, 1000))
def test_evaluation_stays_in_range_under_heavy_noise(seed: int) -> None:
    evaluation = noised_evaluation(5, 9, 50_000_000, SeededEntropy(seed))
    assert 0 <= evaluation.correct <= evaluation.total
    assert evaluation.total >= 1


@given(finite, st.floats(1e-3, 1e3))
def test_integer_rows_never_exceed_the_grid_norm(rows: NDArray[np.float64], clip: float) -> None:
    integers = _integer_rows(rows, clip)
    squares = [sum(int(value) ** 2 for value in row) for row in integers]
    assert max(squares) <= PROTOTYPE_GRID**2


def test_clipped_rows_keep_their_direction_and_short_ones_their_length() -> None:
    rows = np.array([[30.0, 40.0], [0.6, -0.8]])
    assert _integer_rows(rows, 2.0).tolist() == [[614, 819], [307, -409]]


def test_row_that_is_not_finite_counts_as_zero() -> None:
    rows = np.array([[np.nan, 1.0], [np.inf, 0.0], [2.0, 0.0]])
    assert _integer_rows(rows, 2.0).tolist() == [[0, 0], [0, 0], [1024, 0]]


def test_prototypes_are_class_sums() -> None:
    embeddings = np.random.default_rng(1).normal(size=(6, 5))
    sums = noised_prototypes(embeddings, LABELS, RULE, 4, SeededEntropy(1))
    expected = np.zeros((4, 5), dtype=np.int64)
    for row, label in zip(_integer_rows(embeddings, 2.0), LABELS, strict=True):
        expected[label] += row
    assert np.array_equal(sums, expected)


def test_one_record_moves_the_sums_by_at_most_the_grid() -> None:
    embeddings = 100 * np.random.default_rng(2).normal(size=(6, 30))
    whole = noised_prototypes(embeddings, LABELS, RULE, 4, SeededEntropy(1))
    for index in range(6):
        rest = np.delete(embeddings, index, axis=0), np.delete(LABELS, index)
        moved = whole - noised_prototypes(*rest, RULE, 4, SeededEntropy(1))
        assert 0 < np.sum(moved**2) <= PROTOTYPE_GRID**2


def test_prototype_noise_has_the_planned_spread() -> None:
    rule = PrototypeRule(2_000_000, 6_800_000, 1)
    sums = noised_prototypes(np.zeros((6, 400)), LABELS, rule, 10, SeededEntropy(3))
    assert sums.std() / PROTOTYPE_GRID == pytest.approx(6.8, rel=0.05)
