"""A scenario's records by silo: training part, hold-out and, where clients are sampled, pools of clients."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from redteam import partitions
from redteam.attacks.data import holdout
from redteam.datasets import Dataset
from redteam.entropy import stream
from redteam.errors import BadPartition
from redteam.scenario import Scenario
from silo.data import Records

LEAST = 8
"""Fewest records of a silo."""

PUBLIC = 30
"""Public examples of each class, as many as the search for triggers was studied with."""

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Who has what, by silo.

    Attributes:
        records: training records and hold-out.
        writers, held_writers: owners of both (writers or states), zeros where records have none.
        pools: clients that a silo stands for where clients are sampled; its own records alone else.
    """

    records: dict[str, Records]
    writers: dict[str, Indices]
    held_writers: dict[str, Indices]
    pools: dict[str, tuple[Records, ...]]


def split(scenario: Scenario, data: Dataset, seen: Dataset | None = None) -> Split:
    """Records by silo, named s000 and so on; each part is shuffled before its hold-out is cut off.

    Args:
        data: decides who has what.
        seen: the same records in another form, row by row, such as fixed features; these are dealt where it is given.

    Raises:
        BadPartition: there are too few records or owners.
    """
    silos, random = scenario.federation.silos, stream(scenario.seed, "split")
    parts = [random.permutation(part) for part in _parts(scenario, data, random)]
    cuts = [_held(len(part), scenario.data.holdout) for part in parts]
    clients = [_records(seen or data, part[cut:], part[:cut]) for part, cut in zip(parts, cuts, strict=True)]
    owners = data.groups if data.groups is not None else np.zeros(len(data.labels), dtype=np.int64)
    names = [f"s{number:03d}" for number in range(silos)]
    return Split(
        dict(zip(names, clients, strict=False)),
        {name: owners[part[cut:]] for name, part, cut in zip(names, parts, cuts, strict=False)},
        {name: owners[part[:cut]] for name, part, cut in zip(names, parts, cuts, strict=False)},
        {name: tuple(clients[number::silos]) for number, name in enumerate(names)},
    )


def evaluation(scenario: Scenario, data: Dataset) -> Records:
    """The scenario's test records, as a hold-out; never a public example."""
    order, public = _test_order(scenario, data)
    chosen = order[~public][: scenario.data.test or len(order)]
    return replace(holdout(data.test_features[chosen], data.test_labels[chosen]), extractor=data.extractor)


def public_examples(scenario: Scenario, data: Dataset) -> tuple[NDArray[np.float32], Indices]:
    """Features and labels that a federation may take for public: up to 30 of each class, from the set's test part."""
    order, public = _test_order(scenario, data)
    return data.test_features[order[public]], data.test_labels[order[public]]


def _test_order(scenario: Scenario, data: Dataset) -> tuple[Indices, NDArray[np.bool_]]:
    """The test part in a random order, and which of it is public: the last of each class, at most a quarter in all."""
    order = stream(scenario.seed, "test").permutation(len(data.test_labels))
    each = min(PUBLIC, len(order) // (4 * data.classes))
    public = np.zeros(len(order), dtype=np.bool_)
    for label in range(data.classes):
        public[np.flatnonzero(data.test_labels[order] == label)[-each:] if each else []] = True
    return order, public


def _parts(scenario: Scenario, data: Dataset, random: np.random.Generator) -> list[Indices]:
    """Indices by silo, or by client where clients are sampled."""
    spec, silos = scenario.data, scenario.federation.clients or scenario.federation.silos
    total = spec.records or len(data.labels)
    if total > len(data.labels) or total < LEAST * silos:
        raise BadPartition(
            f"scenario: data.records = {total} cannot be: it is from {LEAST * silos} ({LEAST} for each of {silos} "
            f"silos) to {len(data.labels)}, or 0 for all"
        )
    if spec.partition == "dirichlet":
        sizes = partitions.lognormal_sizes(silos, total, spec.ratio, least=LEAST)
        return partitions.dirichlet(data.labels, sizes, spec.alpha, random)
    if data.groups is None:
        raise BadPartition(
            f"scenario: data.partition = {spec.partition!r} needs owners of records, which {spec.set} has not: "
            "set data.set to mnist_by_writer or loans, or data.partition to dirichlet"
        )
    share = total / len(data.labels)
    return [_part_of(part, share) for part in _natural(spec.partition, data.features, data.groups, silos, random)]


def _natural(
    name: str, features: NDArray[np.float32], groups: Indices, silos: int, random: np.random.Generator
) -> list[Indices]:
    if name == "groups":
        return partitions.natural(groups, silos)
    if name == "writers":
        return partitions.natural(groups, silos, random)
    measure = partitions.stroke if name == "stroke" else partitions.slant
    return partitions.by_hand(groups, measure(features), silos)


def _part_of(part: Indices, share: float) -> Indices:
    # Evenly over the part, in which natural groups stand one after another.
    wanted = min(len(part), max(LEAST, round(share * len(part))))
    return part[np.linspace(0, len(part) - 1, wanted).astype(np.int64)]


def _held(size: int, share: float) -> int:
    return min(max(1, round(share * size)), size - 1)


def _records(data: Dataset, kept: Indices, held: Indices) -> Records:
    return Records(data.features[kept], data.labels[kept], data.features[held], data.labels[held], data.extractor)
