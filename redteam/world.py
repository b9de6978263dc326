"""From a scenario to what takes part in a simulation: records by silo, attackers, task, policy, seats.

Everything is drawn from the scenario's seed, in named streams: another attack or defence leaves the data as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from crypto.secure_sum import PackedCkks
from protos.task import MICRO, Budget, Deadlines, Policy, Task, Training
from redteam import datasets, partitions
from redteam.attacks.attack import Attack
from redteam.attacks.catalogue import Setting, attackers
from redteam.attacks.data import Semantic, holdout
from redteam.attacks.parts import NO_NOISE_MICRO
from redteam.datasets import Dataset
from redteam.errors import BadPartition, BadScenario
from redteam.plain import PlainSum
from redteam.scenario import NO_ATTACK, AttackSpec, Scenario
from redteam.simulator import Seat
from silo.data import Records
from silo.entropy import Entropy
from silo.pack import draft_task, pack_task, step_log2
from silo.trainer import Trainer, trainer_for

Part = TypeVar("Part")
_UNBOUNDED = 2**53 - 1
"""The largest ε that a ledger can hold, for tasks without DP."""
_LEAST = 8
"""Fewest records of a silo: one below that has no hold-out."""


class SeededEntropy:
    """Fast uniform bytes from a seed, for simulations; production refuses it (`silo.entropy`)."""

    is_operating_system = False

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng([seed, 0xE])

    def take(self, count: int) -> bytes:
        """See `Entropy.take`."""
        return self._random.bytes(count)


@dataclass(frozen=True)
class Within:
    """Attacks in rounds `first` to `last` of the silo's own, or to the end where that is 0."""

    first: int
    last: int

    def __call__(self, number: int) -> bool:
        """Whether to attack in the silo's own round `number`, from 1."""
        return self.first <= number and not 0 < self.last < number


@dataclass(frozen=True)
class World:
    """What a run needs.

    Attributes:
        records: by silo, sorted by name; the hold-out is what local accuracy is measured on.
        crew: the attack of each attacking silo.
        test: as hold-out, with right labels.
        triggered: as hold-out, with the labels that the attack wants; None for an untargeted attack.
    """

    scenario: Scenario
    task: Task
    model: bytes
    policy: Policy
    records: Mapping[str, Records]
    crew: Mapping[str, Attack]
    seats: Mapping[str, Seat]
    test: Records
    triggered: Records | None
    entropy: Entropy


@dataclass(frozen=True)
class Split:
    """Records and owners by silo; `pools` are clients that an honest silo stands for, where clients are sampled."""

    records: dict[str, Records]
    writers: dict[str, NDArray[np.int64]]
    held_writers: dict[str, NDArray[np.int64]]
    pools: dict[str, tuple[Records, ...]]


def build(scenario: Scenario, directory: Path) -> World:
    """The world of a scenario, with data from `directory`.

    Raises:
        RedTeamError: data are absent or too few, or the attack lacks what it needs.
        SiloError: no noise meets the budget, or the model does not fit.
    """
    data = _loaded(scenario.data.set, directory)
    split = _split(scenario, data)
    task, model = task_of(scenario, data, split.records)
    crew = _crew(scenario, data, split)
    test = _test(scenario, data)
    seats = {silo: _seat(scenario, split, crew.get(silo), silo) for silo in split.records}
    triggered = _triggered(crew, split, test)
    entropy = SeededEntropy(scenario.seed)
    return World(scenario, task, model, policy_of(scenario), split.records, crew, seats, test, triggered, entropy)


def policy_of(scenario: Scenario) -> Policy:
    """The federation's policy; deadlines are those of a clock that never waits."""
    rules = scenario.federation
    micro = {f"{name}_micro": round(getattr(rules, name) * MICRO) for name in ("floor", "cap", "fdr")}
    deadlines = Deadlines(60_000, 60_000, 60_000, 60_000)
    return Policy(3, 3, **micro, total_weight=1024, defense=rules.defense, deadlines=deadlines)


def task_of(scenario: Scenario, data: Dataset, records: Mapping[str, Records]) -> tuple[Task, bytes]:
    """The task and its first model: noise solved for ε by the accountant of production, or next to none."""
    plan = scenario.training
    spec: dict[str, Any] = {
        "name": "redteam",
        "model": _model(scenario, data),
        "rounds": plan.rounds,
        "sample_rate": plan.sample_rate,
        "steps": plan.steps,
        "learning_rate": plan.learning_rate,
        "clip": plan.clip,
        "evaluation_noise": 20.0,
        "evaluation_every": plan.rounds,
        "counts_noise": plan.counts_noise,
        "epsilon": plan.epsilon or 1.0,
        "delta": plan.delta,
        "range": 1.0,
        "folds": scenario.federation.folds,
        "seed": scenario.seed,
    }
    if plan.prototypes_every:
        noise = plan.prototypes_noise if plan.epsilon else NO_NOISE_MICRO / MICRO
        spec["prototypes"] = {"clip": plan.prototypes_clip, "noise": noise, "every": plan.prototypes_every}
    task, model = pack_task(spec) if plan.epsilon else _without_privacy(*draft_task(spec))
    smallest = min(len(own.labels) for own in records.values())
    return replace(task, step_log2=step_log2(plan.range or _reach(task.training, smallest))), model


def _without_privacy(draft: Task, model: bytes) -> tuple[Task, bytes]:
    silent = replace(draft.training, noise_micro=NO_NOISE_MICRO)
    budget = Budget(_UNBOUNDED, draft.budget.delta_nano)
    counts, evaluation = (max(NO_NOISE_MICRO, 1000),) * 2
    task = replace(draft, training=silent, budget=budget, counts_noise_micro=counts, evaluation_noise_micro=evaluation)
    return task, model


def _reach(training: Training, count: int) -> float:
    """Largest coordinate that is not cut, by default: see `TrainingSpec.range`."""
    rate, clip, noise = (
        value / MICRO for value in (training.learning_rate_micro, training.clip_micro, training.noise_micro)
    )
    std = rate * noise * clip * math.sqrt(training.steps) / (training.sample_rate_micro / MICRO * count)
    return 4 * std + rate * clip * training.steps / 8


def _model(scenario: Scenario, data: Dataset) -> dict[str, Any]:
    hidden = () if scenario.model.kind == "linear" else scenario.model.hidden
    sizes = [data.features.shape[1], *hidden, data.classes]
    return {"kind": scenario.model.kind, "sizes": sizes, "activation": "relu"}


@lru_cache(maxsize=2)
def _loaded(name: str, directory: Path) -> Dataset:
    return datasets.load(name, directory)


def _stream(scenario: Scenario, name: str) -> np.random.Generator:
    return np.random.default_rng([scenario.seed, *name.encode()])


def _split(scenario: Scenario, data: Dataset) -> Split:
    """Records by silo, each shuffled and cut into training records and hold-out."""
    federation, random = scenario.federation, _stream(scenario, "split")
    parts = [random.permutation(part) for part in _parts(scenario, data, random)]
    clients = [_cut(data, part, scenario.data.holdout) for part in parts]
    names = [f"s{number:03d}" for number in range(federation.silos)]
    owners = data.groups if data.groups is not None else np.zeros(len(data.labels), dtype=np.int64)
    cuts = [_held(len(part), scenario.data.holdout) for part in parts]
    return Split(
        dict(zip(names, clients, strict=False)),
        {name: owners[part[cut:]] for name, part, cut in zip(names, parts, cuts, strict=False)},
        {name: owners[part[:cut]] for name, part, cut in zip(names, parts, cuts, strict=False)},
        {name: tuple(clients[number :: federation.silos]) for number, name in enumerate(names)},
    )


def _parts(scenario: Scenario, data: Dataset, random: np.random.Generator) -> list[NDArray[np.int64]]:
    """Indices by silo, or by client where clients are sampled."""
    spec, silos = scenario.data, scenario.federation.clients or scenario.federation.silos
    total = spec.records or len(data.labels)
    if total > len(data.labels) or total < _LEAST * silos:
        raise BadPartition(f"data.records = {total} of {len(data.labels)} for {silos} silos: {_LEAST} each are needed")
    if spec.partition == "dirichlet":
        sizes = partitions.lognormal_sizes(silos, total, spec.ratio, least=_LEAST)
        return partitions.dirichlet(data.labels, sizes, spec.alpha, random)
    if data.groups is None:
        raise BadPartition(f"data.partition = {spec.partition!r} needs owners of records: use mnist_by_writer or loans")
    share = total / len(data.labels)
    return [_first(part, share) for part in _natural(spec.partition, data, data.groups, silos, random)]


def _natural(
    name: str, data: Dataset, groups: NDArray[np.int64], silos: int, random: np.random.Generator
) -> list[NDArray[np.int64]]:
    if name == "groups":
        return partitions.natural(groups, silos)
    if name == "writers":
        return partitions.natural(groups, silos, random)
    measure = partitions.stroke if name == "stroke" else partitions.slant
    return partitions.by_hand(groups, measure(data.features), silos)


def _first(part: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    # Evenly over the part: natural groups stand one after another.
    return part[np.linspace(0, len(part) - 1, max(_LEAST, round(share * len(part)))).astype(np.int64)]


def _held(size: int, share: float) -> int:
    return min(max(1, round(share * size)), size - 1)


def _cut(data: Dataset, part: NDArray[np.int64], share: float) -> Records:
    held, kept = np.split(part, [_held(len(part), share)])
    return Records(data.features[kept], data.labels[kept], data.features[held], data.labels[held])


def _test(scenario: Scenario, data: Dataset) -> Records:
    count = scenario.data.test or len(data.test_labels)
    chosen = _stream(scenario, "test").permutation(len(data.test_labels))[:count]
    return holdout(data.test_features[chosen], data.test_labels[chosen])


def _crew(scenario: Scenario, data: Dataset, split: Split) -> dict[str, Attack]:
    spec = scenario.attack
    if spec.name == NO_ATTACK:
        return {}
    chosen = attacking(spec, {name: len(own.labels) for name, own in split.records.items()}, scenario.seed)
    setting = Setting(
        {name: split.records[name] for name in chosen},
        len(split.records),
        data.classes,
        math.isqrt(data.features.shape[1]),
        private=scenario.training.epsilon > 0,
        writers=None if data.groups is None else {name: split.writers[name] for name in chosen},
        seed=scenario.seed,
    )
    return {name: adjusted(attack, spec) for name, attack in attackers(spec.name, setting).items()}


def attacking(spec: AttackSpec, counts: Mapping[str, int], seed: int) -> tuple[str, ...]:
    """Who attacks: a random choice of at least one silo, whose share of silos or counts is nearest to the asked one."""
    order = [str(name) for name in np.random.default_rng([seed, 0xA]).permutation(sorted(counts))]
    if spec.by == "silos":
        return tuple(sorted(order[: max(1, round(spec.share * len(order)))]))
    wanted, chosen, reached = spec.share * sum(counts.values()), [], 0
    for name in order:
        if abs(reached + counts[name] - wanted) < abs(reached - wanted):
            chosen.append(name)
            reached += counts[name]
    return tuple(sorted(chosen or [min(counts, key=lambda name: counts[name])]))


def adjusted(attack: Attack, spec: AttackSpec) -> Attack:
    """The attack with the scenario's parameters and rounds.

    Raises:
        BadScenario: a part has no such parameter; its own are named.
    """
    data = None if attack.data is None else with_parameters(attack.data, spec.data, "attack.data")
    if attack.data is None and spec.data:
        raise BadScenario(f"scenario: attack.data must be empty: {spec.name} has no data part")
    local = with_parameters(attack.local, spec.local, "attack.local")
    updates = attack.updates
    if spec.updates:
        if not updates:
            raise BadScenario(f"scenario: attack.updates must be empty: {spec.name} has no update part")
        updates = (with_parameters(updates[0], spec.updates, "attack.updates"), *updates[1:])
    within = Within(spec.first, spec.last)
    own = attack.active
    return replace(
        attack, data=data, local=local, updates=updates, active=lambda number: within(number) and own(number)
    )


def with_parameters(part: Part, parameters: Mapping[str, Any], key: str) -> Part:
    """A dataclass with some fields replaced; BadScenario for one that it has not."""
    if not parameters:
        return part
    assert is_dataclass(part)
    known = [one.name for one in fields(part)]
    for name in parameters:
        if name not in known:
            raise BadScenario(f"scenario: {key}.{name} is unknown; choose from {', '.join(known)}")
    changed: Part = replace(part, **parameters)  # type: ignore[type-var]
    return changed


def _triggered(crew: Mapping[str, Attack], split: Split, test: Records) -> Records | None:
    """Records that measure success. Chosen writers are in no test set: their own hold-outs stand in."""
    if not crew:
        return None
    first = next(iter(crew.values()))
    if first.data is None:
        return None
    if isinstance(first.data, Semantic):
        return _of_writers(first.data, list(crew), split)
    return first.triggered(test.holdout_features, test.holdout_labels)


def _of_writers(part: Semantic, crew: Sequence[str], split: Split) -> Records | None:
    features = np.concatenate([split.records[name].holdout_features for name in crew])
    labels = np.concatenate([split.records[name].holdout_labels for name in crew])
    found = part.of(np.concatenate([split.held_writers[name] for name in crew])).triggered(features, labels)
    return found if len(found.holdout_labels) else None


def _seat(scenario: Scenario, split: Split, attack: Attack | None, name: str) -> Seat:
    scheme = PackedCkks if scenario.engine.encryption else PlainSum
    if attack is not None:
        return replace(attack.seat(split.records[name]), scheme=scheme)
    pool = split.pools[name]
    return Seat(split.records[name], trainer=trainer_for if len(pool) == 1 else _sampled(pool, scenario), scheme=scheme)


def _sampled(pool: tuple[Records, ...], scenario: Scenario) -> Callable[[Task, Records, Entropy], Trainer]:
    def make(task: Task, records: Records, entropy: Entropy) -> Trainer:
        return Pool(task, pool, entropy, scenario.seed)

    return make


class Pool:
    """The `Trainer` of a seat that stands for another one of several clients in each round."""

    def __init__(self, task: Task, pool: Sequence[Records], entropy: Entropy, seed: int) -> None:
        self._trainers = [trainer_for(task, own, entropy) for own in pool]
        self._random = np.random.default_rng([seed, len(pool[0].labels), int(pool[0].labels.sum())])
        self._current = self._trainers[0]

    def train(self, model: NDArray[np.float32], training: Training, count: int) -> NDArray[np.float64]:
        """See `Trainer.train`: of the client that is drawn now."""
        self._current = self._trainers[int(self._random.integers(len(self._trainers)))]
        return self._current.train(model, training, count)

    def embed(self, model: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """See `Trainer.embed`: of the client that trained last."""
        return self._current.embed(model)

    def evaluate(self, model: NDArray[np.float32]) -> tuple[int, int]:
        """See `Trainer.evaluate`: of the seat's first client."""
        return self._trainers[0].evaluate(model)
