"""Who attacks in a scenario, with which parameters, in which rounds, and on what success is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from redteam.attacks.attack import Attack
from redteam.attacks.catalogue import ALL_KNOWING, Setting, attackers
from redteam.attacks.data import Semantic
from redteam.attacks.prototypes import Bapfl
from redteam.attacks.triggers import side_of
from redteam.datasets import Dataset
from redteam.entropy import stream
from redteam.errors import BadScenario
from redteam.parameters import Part, with_parameters
from redteam.scenario import NO_ATTACK, AttackSpec, Scenario
from redteam.split import Split
from silo.data import Records
from silo.features import Extractor


@dataclass(frozen=True)
class Within:
    """Rounds `first` to `last` of the silo's own, or from `first` on where `last` is 0."""

    first: int
    last: int

    def __call__(self, number: int) -> bool:
        """Whether to attack in the silo's own round `number`, from 1."""
        return self.first <= number and not 0 < self.last < number


def crew_of(scenario: Scenario, data: Dataset, split: Split) -> dict[str, Attack]:
    """The attack of each attacking silo; empty without one.

    Raises:
        BadScenario, BadAttack: a parameter that the attack has not or that cannot be, or knowledge that it lacks.
    """
    spec = scenario.attack
    counts = {name: len(own.labels) for name, own in split.records.items()}
    chosen = attacking(spec, counts, scenario.seed)
    if not chosen:
        return {}
    setting = Setting(
        {name: split.records[name] for name in chosen},
        len(split.records),
        data.classes,
        side_of(data.features.shape[1]),
        private=scenario.training.epsilon > 0,
        writers=None if data.groups is None else {name: split.writers[name] for name in chosen},
        omniscient=split.records if spec.name in ALL_KNOWING else None,
        columns=data.columns,
        seed=scenario.seed,
    )
    return {name: adjusted(attack, spec, data.classes) for name, attack in attackers(spec.name, setting).items()}


def holdings(
    crew: Mapping[str, Attack], extractor: Extractor | None, seen: Mapping[str, Records]
) -> dict[str, Records]:
    """What silos have once attackers took their seats, as models see it: `seen`, but for what an attack holds."""
    held = {name: attack.held for name, attack in crew.items() if attack.held is not None}
    return dict(seen) | {name: own if extractor is None else extractor.of(own) for name, own in held.items()}


def behind(crew: Mapping[str, Attack], extractor: Extractor | None, seen: Mapping[str, Records]) -> dict[str, Attack]:
    """The crew in front of fixed features: data parts act on images, models and colluders see `seen`.

    Raises:
        BadScenario: the attack learns a trigger in pixels through the model, which features stand between.
    """
    if extractor is None or not crew:
        return dict(crew)
    first = next(iter(crew.values()))
    if isinstance(first.prototypes, Bapfl):
        raise BadScenario("scenario: data.features must be none with this attack: its triggers are learned in pixels")
    ring = replace(first.ring, members={name: seen[name] for name in first.ring.members})
    return {name: replace(attack, extractor=extractor, ring=ring) for name, attack in crew.items()}


def attacking(spec: AttackSpec, counts: Mapping[str, int], seed: int) -> tuple[str, ...]:
    """Who attacks, sorted: silos at random whose share of silos or of counts is nearest to the asked one, at least one.

    Args:
        counts: records by silo.
    """
    if spec.name == NO_ATTACK or spec.share == 0:
        return ()
    order = [str(name) for name in stream(seed, "attackers").permutation(sorted(counts))]
    if spec.by == "silos":
        return tuple(sorted(order[: max(1, round(spec.share * len(order)))]))
    wanted, chosen, reached = spec.share * sum(counts.values()), [], 0
    for name in order:
        if abs(reached + counts[name] - wanted) < abs(reached - wanted):
            chosen.append(name)
            reached += counts[name]
    return tuple(sorted(chosen or [min(counts, key=lambda name: counts[name])]))


def adjusted(attack: Attack, spec: AttackSpec, classes: int | None = None) -> Attack:
    """The attack with the scenario's parameters and rounds.

    Args:
        classes: of the data; None where they are not read yet, so that any label may be.

    Raises:
        BadScenario: a part has no such parameter; its own are named. Or a value that cannot be; what may be is named.
        BadAttack: values that do not go together.
    """

    def own(part: Part, name: str) -> Part:
        return with_parameters(part, getattr(spec, name), f"attack.{name}", classes)

    updates = attack.updates
    if spec.updates and not updates:
        raise BadScenario(f"scenario: attack.updates must be empty: {spec.name} has no update part")
    within, awake = Within(spec.first, spec.last), attack.active
    return replace(
        attack,
        data=own(attack.data, "data"),
        local=own(attack.local, "local"),
        updates=(own(updates[0], "updates"), *updates[1:]) if updates else (),
        prototypes=own(attack.prototypes, "prototypes"),
        active=lambda number: within(number) and awake(number),
    )


def triggered(crew: Mapping[str, Attack], split: Split, test: Records) -> Records | None:
    """What success is measured on, as hold-out with wanted labels; None for an untargeted attack, or none.

    Chosen writers of a semantic attack are in no test set: the attackers' own hold-outs stand in.

    Raises:
        BadScenario: no test record counts.
    """
    first = next(iter(crew.values()), None)
    if first is None or first.data is None:
        return None
    if isinstance(first.data, Semantic):
        return _of_writers(first.data, list(crew), split)
    found = first.triggered(test.holdout_features, test.holdout_labels)
    if not len(found.holdout_labels):
        raise BadScenario("scenario: no test record is one on which this attack is measured: raise data.test")
    return found


def _of_writers(part: Semantic, crew: Sequence[str], split: Split) -> Records | None:
    features = np.concatenate([split.records[name].holdout_features for name in crew])
    labels = np.concatenate([split.records[name].holdout_labels for name in crew])
    found = part.of(np.concatenate([split.held_writers[name] for name in crew])).triggered(features, labels)
    return found if len(found.holdout_labels) else None
