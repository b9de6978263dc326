from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from redteam.datasets import Dataset
from redteam.errors import BadPartition
from redteam.scenario import parse
from redteam.split import evaluation, public_examples, split

COUNT = 1200


def data_set() -> Dataset:
    """Records that say who they are: the first feature is their number."""
    random = np.random.default_rng(0)
    features = np.zeros((COUNT, 64), dtype=np.float32)
    features[:, 0] = np.arange(COUNT)
    features[:, 1:] = random.random((COUNT, 63), dtype=np.float32)
    labels, groups = np.arange(COUNT) % 10, np.arange(COUNT) // 20
    return Dataset(features, labels, features[:200], labels[:200], 10, groups, groups[:200])


def numbers(features: Any) -> set[int]:
    return {int(value) for value in features[:, 0]}


@pytest.mark.parametrize("partition", ["dirichlet", "writers", "stroke", "slant", "groups"])
def test_no_record_is_at_two_silos_nor_in_training_and_hold_out(partition: str) -> None:
    scenario = parse({"data": {"partition": partition, "records": 600}, "federation": {"silos": 6}})
    parts = split(scenario, data_set())
    seen: set[int] = set()
    for own in parts.records.values():
        for features in (own.features, own.holdout_features):
            assert not seen & numbers(features)
            seen |= numbers(features)
        assert len(own.holdout_labels) == pytest.approx(0.15 * (len(own.labels) + len(own.holdout_labels)), abs=1)
    # The largest groups alone hold less than all.
    assert len(seen) == pytest.approx(60 if partition == "groups" else 600, abs=6)


@pytest.mark.parametrize("partition", ["writers", "stroke", "slant"])
def test_a_writer_is_at_one_silo_and_the_owners_fit_the_records(partition: str) -> None:
    parts = split(parse({"data": {"partition": partition}, "federation": {"silos": 6}}), data_set())
    homes: dict[int, set[str]] = {}
    for name, own in parts.records.items():
        assert np.array_equal(parts.writers[name], own.features[:, 0].astype(int) // 20)
        assert np.array_equal(parts.held_writers[name], own.holdout_features[:, 0].astype(int) // 20)
        for writer in parts.writers[name]:
            homes.setdefault(int(writer), set()).add(name)
    assert all(len(silos) == 1 for silos in homes.values())


def test_clients_are_dealt_to_seats_in_pools_of_their_own() -> None:
    parts = split(parse({"federation": {"silos": 5, "clients": 20}, "data": {"records": 1000}}), data_set())
    pools = list(parts.pools.values())
    assert [len(pool) for pool in pools] == [4] * 5
    everybody = [numbers(client.features) for pool in pools for client in pool]
    assert sum(map(len, everybody)) == len(set.union(*everybody)) == 20 * 42


def test_the_seed_and_nothing_else_moves_the_records() -> None:
    base = {"data": {"records": 600}, "federation": {"silos": 4}}
    same = [split(parse({**base, "attack": {"name": name}}), data_set()) for name in ("none", "badnets")]
    for name in same[0].records:
        assert np.array_equal(same[0].records[name].features, same[1].records[name].features)
    other = split(parse({**base, "seed": 1}), data_set())
    assert not np.array_equal(same[0].records["s000"].features[:10], other.records["s000"].features[:10])


def test_test_records_are_as_many_as_asked_for() -> None:
    assert len(evaluation(parse({"data": {"test": 50}}), data_set()).holdout_labels) == 50


@pytest.mark.parametrize("count", [0, 50])
def test_public_examples_are_of_every_class_and_never_tested_on(count: int) -> None:
    data, scenario = data_set(), parse({"data": {"test": count}})
    features, labels = public_examples(scenario, data)
    assert np.array_equal(np.bincount(labels), np.full(10, 5)), "a quarter of 200 test records"
    tested = numbers(evaluation(scenario, data).holdout_features)
    assert not tested & numbers(features)
    assert len(tested) == (count or 150)


def test_too_few_records_or_owners_are_refused_with_what_is_allowed() -> None:
    with pytest.raises(BadPartition, match=r"data\.records = 40 cannot be: it is from 80 .* to 1200"):
        split(parse({"data": {"records": 40}}), data_set())
    without = Dataset(
        *(getattr(data_set(), name) for name in ("features", "labels", "test_features", "test_labels")), 10
    )
    with pytest.raises(BadPartition, match=r"needs owners of records, which digits has not: set data\.set"):
        split(parse({"data": {"partition": "slant"}}), without)
