from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redteam.errors import BadPartition
from redteam.partitions import by_hand, dirichlet, lognormal_sizes, natural, slant, stroke

LABELS = np.arange(3000) % 10


@given(st.integers(1, 50), st.floats(1, 50))
def test_lognormal_sizes_add_up_and_fall_from_the_stated_ratio(silos: int, ratio: float) -> None:
    sizes = lognormal_sizes(silos, 60_000, ratio)
    assert sizes.sum() == 60_000
    assert (np.diff(sizes) <= 0).all()
    if silos > 1:
        assert sizes[0] / sizes[-1] == pytest.approx(ratio, rel=0.1)


def test_sizes_that_leave_a_silo_empty_are_refused() -> None:
    with pytest.raises(BadPartition, match="smallest"):
        lognormal_sizes(10, 20, 50)
    with pytest.raises(BadPartition, match="at least"):
        lognormal_sizes(0, 20, 50)


@given(st.sampled_from([0.1, 0.5, 1.0, 10.0]), st.integers(0, 5), st.booleans())
def test_dirichlet_shares_are_disjoint_and_of_the_stated_sizes(alpha: float, seed: int, everything: bool) -> None:
    sizes = lognormal_sizes(8, len(LABELS) if everything else 2000, 10)
    parts = dirichlet(LABELS, sizes, alpha, np.random.default_rng(seed))
    together = np.concatenate(parts)
    assert [len(part) for part in parts] == sizes.tolist()
    assert len(set(together.tolist())) == len(together)


def test_a_smaller_alpha_gives_more_skewed_silos() -> None:
    def largest_class(alpha: float) -> float:
        parts = dirichlet(LABELS, np.full(10, 100), alpha, np.random.default_rng(0))
        return float(np.mean([np.bincount(LABELS[part]).max() / len(part) for part in parts]))

    skews = [largest_class(alpha) for alpha in (0.1, 1.0, 100.0)]
    assert skews[0] > 0.5 > skews[1] > skews[2]
    assert skews[2] < 0.2


def test_the_same_seed_gives_the_same_split() -> None:
    one, other = (dirichlet(LABELS, np.full(5, 100), 0.5, np.random.default_rng(3)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_more_records_than_there_are_are_refused() -> None:
    with pytest.raises(BadPartition, match="fewer"):
        dirichlet(LABELS, np.full(10, 1000), 1.0, np.random.default_rng(0))


def test_natural_silos_are_the_largest_groups() -> None:
    groups = np.array([7, 7, 7, 1, 1, 5])
    parts = natural(groups, 2)
    assert [groups[part].tolist() for part in parts] == [[7, 7, 7], [1, 1]]


def test_dealt_groups_are_never_split_and_none_is_lost() -> None:
    groups = np.random.default_rng(0).integers(0, 30, 500)
    parts = natural(groups, 7, np.random.default_rng(1))
    assert sorted(np.concatenate(parts).tolist()) == list(range(500))
    owners = [set(groups[part].tolist()) for part in parts]
    assert sum(len(one) for one in owners) == len(set().union(*owners))


def test_fewer_groups_than_silos_are_refused() -> None:
    with pytest.raises(BadPartition, match="too few"):
        natural(np.array([1, 1, 2]), 3)


def strokes(width: int, lean: float, side: int = 28) -> np.ndarray:
    """One bar of that width that leans by `lean` columns a row upwards."""
    image = np.zeros((side, side), dtype=np.float32)
    for row in range(6, 22):
        left = round(14 + lean * (14 - row) - width / 2)
        image[row, left : left + width] = 1
    return image.reshape(1, -1)


def test_the_stroke_of_a_wider_pen_is_wider_whatever_it_writes() -> None:
    for lean in (-0.5, 0.0, 0.5):
        widths = [float(stroke(strokes(width, lean))[0]) for width in (1, 2, 4, 6)]
        assert widths == sorted(widths)
        assert widths[3] > 3 * widths[0]


@pytest.mark.parametrize("lean", [-0.8, -0.3, 0.0, 0.3, 0.8])
def test_the_slant_is_the_columns_for_each_row(lean: float) -> None:
    assert slant(strokes(3, lean))[0] == pytest.approx(lean, abs=0.06)


def test_silos_by_hand_hold_whole_writers_in_the_order_of_their_hand() -> None:
    groups, random = np.repeat(np.arange(12), 30), np.random.default_rng(0)
    hand = random.permutation(12)[groups] + random.normal(0, 0.5, 360)
    parts = by_hand(groups, hand, 4)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(360))
    means = [hand[part].mean() for part in parts]
    assert means == sorted(means)
    assert all(len(np.unique(groups[part])) == 3 for part in parts)
    with pytest.raises(BadPartition, match="too few"):
        by_hand(groups, hand, 13)


def test_only_square_images_have_a_hand() -> None:
    with pytest.raises(BadPartition, match="square images"):
        slant(np.zeros((2, 63), dtype=np.float32))
