"""Scenarios of the mode `personal`: FedProto's federation from a scenario's keys, and a row of what came of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from protos.task import MICRO
from redteam import datasets
from redteam.cast import crew_of
from redteam.datasets import Dataset
from redteam.entropy import SeededEntropy, stream
from redteam.fedproto import Federation, Plan, population
from redteam.measured import Row, SiloRow, mean_of, skews
from redteam.prototype_defences import COMBINATIONS
from redteam.scenario import Scenario
from redteam.split import Split


def run(scenario: Scenario, directory: Path, on_round: Callable[[int, int], None] | None = None) -> Row:
    """As `redteam.run.run`, for the mode `personal`.

    Accuracy and success are means over benign silos' own models (`Federation`). Nothing is encoded, so no bytes are
    carried, and no round is void.
    """
    data = datasets.load(scenario.data.set, directory)
    federation = federation_of(scenario, data)
    crew = federation.attacking
    ring = next(iter(crew.values())).ring if crew else None
    accuracies: list[float] = []
    successes: list[float] = []

    def after() -> None:
        accuracies.append(federation.accuracy())
        if ring is not None:
            successes.append(federation.success(ring.triggers))
        if on_round is not None:
            on_round(len(accuracies), scenario.training.rounds)

    started = time.perf_counter()
    federation.run(after)
    return Row(
        scenario=dataclasses.asdict(scenario),
        accuracy=accuracies[-1],
        success=successes[-1] if successes else None,
        accuracies=tuple(accuracies),
        successes=tuple(successes),
        silos=silo_rows(federation, data.classes),
        rounds=len(accuracies),
        void=0,
        seconds=time.perf_counter() - started,
        carried=0,
    )


def federation_of(scenario: Scenario, data: Dataset) -> Federation:
    """The federation before its first round.

    Raises:
        BadScenario, BadAttack: see `crew_of`.
    """
    plan = plan_of(scenario, data)
    silos = population(data, plan, stream(scenario.seed, "split"))
    parts = Split(silos, {}, {}, {})
    crew = crew_of(scenario, dataclasses.replace(data, groups=None), parts)
    combine = COMBINATIONS[scenario.federation.defense]
    return Federation(plan, silos, crew, combine, SeededEntropy(scenario.seed), scenario.seed)


def plan_of(scenario: Scenario, data: Dataset) -> Plan:
    """What the scenario's keys say of a `fedproto.Plan`."""
    training, personal, engine = scenario.training, scenario.personal, scenario.engine
    return Plan(
        sizes=(data.features.shape[1], *scenario.model.hidden, data.classes),
        activation=scenario.model.activation,
        silos=scenario.federation.silos,
        ways=personal.ways,
        shots=personal.shots,
        deviation=personal.deviation,
        rounds=training.rounds,
        epochs=personal.epochs,
        batch=personal.batch,
        learning_rate=training.learning_rate,
        pull=training.pull,
        clip=training.prototypes_clip,
        noise_micro=round(personal.noise * MICRO),
        inoculate=engine.search,
        every=engine.search_every,
    )


def silo_rows(federation: Federation, classes: int) -> tuple[SiloRow, ...]:
    """Each silo's part: weights are by its factor and records, in parts of all; nobody is excluded or convicted."""
    skewed = skews({name: own.labels for name, own in federation.silos.items()}, classes)
    sizes = {name: len(own.labels) for name, own in federation.silos.items()}
    rounds = [_weights(one.factors, sizes) for one in federation.rounds]
    return tuple(
        SiloRow(
            name=name,
            attacks=name in federation.attacking,
            count=int(federation.counts[name].sum()),
            weights=tuple(weights[name] for weights in rounds),
            excluded=(),
            suspected=tuple(n for n, one in enumerate(federation.rounds, 1) if name in one.suspected),
            convicted=None,
            effective=mean_of(weights[name] for weights in rounds),
            accuracy=federation.right(name),
            records=sizes[name],
            skew=skewed[name],
        )
        for name in sorted(federation.silos)
    )


def _weights(factors: Mapping[str, float], sizes: Mapping[str, int]) -> dict[str, float]:
    raw = {name: factors[name] * sizes[name] for name in sizes}
    total = sum(raw.values())
    return {name: one / total for name, one in raw.items()}
