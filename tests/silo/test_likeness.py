"""Alike classes are what k nearest neighbours say, by scikit-learn as the oracle, and do not hang on scale or order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from protos.task import Confusion
from silo.likeness import NEIGHBOURS, PERCENT, alike
from silo.searcher import Root


def digits(each: int = 12) -> Root:
    data = load_digits()
    random = np.random.default_rng(1)
    chosen = np.concatenate([random.choice(np.flatnonzero(data.target == one), each, False) for one in range(10)])
    return Root((data.data[chosen] / 16).astype(np.float32), data.target[chosen].astype(np.int64))


def clouds(distance: float, seed: int = 0, each: int = 30) -> Root:
    """Three classes in eight dimensions: 0 and 1 that far apart, 2 far away."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), each)
    features = random.normal(size=(3 * each, 8))
    features[labels == 1, 0] += distance
    features[labels == 2, 1] += 40
    return Root(features.astype(np.float32), labels)


def by_sklearn(root: Root) -> set[tuple[int, int]]:
    """Shares of neighbours of another class, each record left out of its own."""
    found = NearestNeighbors(n_neighbors=NEIGHBOURS + 1, algorithm="kd_tree").fit(root.features)
    neighbours = root.labels[found.kneighbors(root.features, return_distance=False)[:, 1:]]
    return {
        (source, target)
        for source in range(int(root.labels.max()) + 1)
        for target in range(int(root.labels.max()) + 1)
        if source != target and (neighbours[root.labels == source] == target).mean() >= PERCENT / 100
    }


def pairs(root: Root) -> set[tuple[int, int]]:
    return {(one.source, one.target) for one in alike(root)}


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 6), st.integers(0, 1000), st.integers(6, 40))
def test_alike_is_what_nearest_neighbours_say(distance: float, seed: int, each: int) -> None:
    root = clouds(distance, seed, each)
    assert pairs(root) == by_sklearn(root)


def test_overlapping_classes_are_alike_and_distant_ones_are_not() -> None:
    assert pairs(clouds(0.5)) == {(0, 1), (1, 0)}
    assert pairs(clouds(30.0)) == set()


def test_a_class_within_another_is_alike_it_and_not_the_other_way_round() -> None:
    labels = np.array([0] * 120 + [1] * 30)
    features = np.random.default_rng(0).normal(size=(150, 8)).astype(np.float32)
    features[125:] += 50
    assert pairs(Root(features, labels)) == {(1, 0)}, "five of thirty lie in the larger cloud, four in a hundred of it"


@pytest.mark.parametrize("scale", [0.001, 1.0, 1e6])
def test_digits_are_alike_at_any_scale_in_any_order(scale: float) -> None:
    root = digits()
    order = np.random.default_rng(0).permutation(len(root.labels))
    assert alike(Root(root.features[order] * np.float32(scale), root.labels[order])) == alike(root)
    assert (1, 8) in pairs(root)
    assert (7, 3) not in pairs(root)


def test_pairs_are_sorted_and_a_blank_root_set_is_alike_throughout() -> None:
    found = alike(digits())
    assert list(found) == sorted(found, key=lambda one: (one.source, one.target))
    blank = Root(np.zeros((20, 4), dtype=np.float32), np.repeat(np.arange(2), 10))
    assert set(alike(blank)) == {Confusion(1, 0)}, "of equal neighbours the first in the file"
