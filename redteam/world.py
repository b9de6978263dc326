"""From a scenario to what takes part in a simulation: task, policy, seats, and what a run is measured on.

Everything is drawn from the scenario's seed, in named streams: another attack or defence leaves the data as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crypto.secure_sum import PackedCkks
from protos.task import MICRO, Budget, Deadlines, Policy, Task, Training
from redteam import aggregated, arguments, datasets
from redteam.attacks.attack import Attack
from redteam.attacks.parts import NO_NOISE_MICRO
from redteam.cast import behind, crew_of, holdings, triggered
from redteam.datasets import Dataset
from redteam.entropy import SeededEntropy, stream
from redteam.errors import BadScenario
from redteam.featured import Source, through_scattering
from redteam.plain import PlainSum
from redteam.scenario import Scenario
from redteam.simulator import Seat
from redteam.split import Split, evaluation, public_examples, split
from redteam.trusted import root_of
from silo import rootset
from silo.data import Records
from silo.entropy import Entropy
from silo.guidance import NONE, Guidance
from silo.pack import draft_task, pack_task, step_log2
from silo.searcher import Root
from silo.trainer import Trainer, trainer_for

_UNBOUNDED = 2**53 - 1
"""The largest ε that a ledger can hold, for tasks without DP."""
_SOMEBODY = 0.01
QUORUM = 3
"""Fewest silos of a round."""
_COUNTS_NOISE = MICRO // 1000
"""Of tasks without DP: a deviation of a thousandth of a record."""


@dataclass(frozen=True)
class World:
    """What a run needs.

    Attributes:
        records: by silo; the hold-out is what local accuracy is measured on.
        crew: the attack of each attacking silo.
        test: as hold-out, with right labels.
        triggered: as hold-out, with the labels that the attack wants; None for an untargeted attack.
        trusted: public records for a rule that trusts an update on them.
        root: the file of the public root set of a task with a search.
        aggregation: applies the scenario's rule where that is one on single updates.
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
    trusted: Root
    root: bytes | None = None
    aggregation: aggregated.Aggregated | None = None


def build(scenario: Scenario, directory: Path) -> World:
    """The world of a scenario, with data from `directory`.

    Raises:
        RedTeamError: data are absent or too few, or the attack lacks what it needs.
        SiloError: no noise meets the budget, or the model does not fit.
    """
    spec = scenario.data
    source = _source(spec.set, spec.classes, directory, spec.features, spec.components)
    parts = split(scenario, source.images)
    shown = parts if source.extractor is None else split(scenario, source.images, source.seen)
    examples = Root(*public_examples(scenario, source.seen))
    root = examples if scenario.engine.search else None
    liars = crew_of(scenario, source.images, parts)
    records = holdings(liars, source.extractor, shown.records)
    task, model = task_of(scenario, source.seen, min(len(own.labels) for own in records.values()), root, examples)
    task = _with_referee(scenario, task, [silo for silo in records if silo not in liars])
    crew = behind(liars, source.extractor, records)
    present = _present(scenario, parts, crew)
    crew = {silo: attack for silo, attack in crew.items() if silo in present}
    return World(
        scenario,
        task,
        model,
        policy_of(scenario),
        records={silo: records[silo] for silo in present},
        crew=crew,
        seats={silo: _seat(scenario, parts, shown, crew.get(silo), silo) for silo in present},
        test=evaluation(scenario, source.seen),
        triggered=_aim(scenario, source, parts),
        entropy=SeededEntropy(scenario.seed),
        trusted=root_of(examples.features, examples.labels),
        root=None if root is None else rootset.to_bytes(root),
        aggregation=aggregated.rule_for(scenario.federation.defense, len(present), len(crew), scenario.seed),
    )


def _with_referee(scenario: Scenario, task: Task, honest: Sequence[str]) -> Task:
    """The task whose searches the first of the honest silos judges, where the scenario has it so."""
    if not scenario.engine.referee or task.search is None or not honest:
        return task
    return replace(task, search=replace(task.search, referee=min(honest)))


def _aim(scenario: Scenario, source: Source, parts: Split) -> Records | None:
    """What success is measured on, as models see it: triggers are drawn on images."""
    liars = crew_of(_with_somebody(scenario), source.images, parts)
    aim = triggered(liars, parts, evaluation(scenario, source.images))
    return aim if aim is None or source.extractor is None else source.extractor.of(aim)


def _present(scenario: Scenario, parts: Split, crew: Mapping[str, Attack]) -> tuple[str, ...]:
    """Who takes part: all silos, or all but those that would attack; raises BadScenario for too few to sum."""
    if not scenario.attack.absent:
        return tuple(parts.records)
    honest = tuple(silo for silo in parts.records if silo not in crew)
    needed = max(QUORUM, scenario.federation.privacy_minimum)
    if len(honest) < needed:
        raise BadScenario(
            f"scenario: attack.absent leaves {len(honest)} silos, and a federation needs {needed}: lower attack.share"
        )
    return honest


def _with_somebody(scenario: Scenario) -> Scenario:
    """The scenario with at least one attacker: what its trigger does to a model that nobody poisoned is worth a row."""
    attack = scenario.attack
    return scenario if attack.share else replace(scenario, attack=replace(attack, share=_SOMEBODY))


def policy_of(scenario: Scenario) -> Policy:
    """The federation's policy; deadlines are those of a clock that never waits.

    Under a rule on single updates nobody is judged before.
    """
    rules = scenario.federation
    micro = {f"{name}_micro": round(getattr(rules, name) * MICRO) for name in ("floor", "cap", "fdr")}
    deadlines = Deadlines(60_000, 60_000, 60_000, 60_000)
    defense = "plain" if rules.defense in aggregated.names() else rules.defense
    return Policy(QUORUM, rules.privacy_minimum, **micro, total_weight=1024, defense=defense, deadlines=deadlines)


def task_of(
    scenario: Scenario, data: Dataset, smallest: int, root: Root | None = None, public: Root | None = None
) -> tuple[Task, bytes]:
    """The task and its first model: noise solved for ε by the accountant of production, or next to none.

    Args:
        smallest: records of the smallest silo, whose noise is the largest.
        root: what models are searched with, None for no search.
        public: what a warm start is fitted to.
    """
    plan = scenario.training
    if plan.epsilon:
        task, model = pack_task(_description(scenario, data), root, public)
    else:
        draft, model = draft_task(_description(scenario, data), root, public)
        task = _without_privacy(draft)
    return replace(task, step_log2=step_log2(plan.range or _reach(task.training, smallest))), model


def _description(scenario: Scenario, data: Dataset) -> dict[str, Any]:
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
        "evaluation_every": 1 if scenario.federation.defense in arguments.FAIR else plan.rounds,
        "counts_noise": plan.counts_noise,
        "epsilon": plan.epsilon or 1.0,
        "delta": plan.delta,
        "range": plan.range or 1.0,
        "folds": scenario.federation.folds,
        "seed": scenario.seed,
        "schedule": plan.schedule,
        "warm_start": scenario.model.warm_start,
    }
    if plan.prototypes_every:
        noise = plan.prototypes_noise if plan.epsilon else NO_NOISE_MICRO / MICRO
        spec["prototypes"] = {"clip": plan.prototypes_clip, "noise": noise, "every": plan.prototypes_every}
        spec["prototypes"]["pull"] = plan.pull
    if scenario.engine.search:
        spec["search"] = {"every": scenario.engine.search_every}
    return spec


def _model(scenario: Scenario, data: Dataset) -> dict[str, Any]:
    hidden = () if scenario.model.kind == "linear" else scenario.model.hidden
    sizes = [data.features.shape[1], *hidden, data.classes]
    features = {} if data.extractor is None else {"features": data.extractor}
    return {"kind": scenario.model.kind, "sizes": sizes, "activation": scenario.model.activation, **features}


def _without_privacy(draft: Task) -> Task:
    silent = replace(draft.training, noise_micro=NO_NOISE_MICRO)
    budget = Budget(_UNBOUNDED, draft.budget.delta_nano)
    return replace(
        draft, training=silent, budget=budget, counts_noise_micro=_COUNTS_NOISE, evaluation_noise_micro=_COUNTS_NOISE
    )


def _reach(training: Training, count: int) -> float:
    """Largest coordinate that is not cut, by default: see `TrainingSpec.range`."""
    scaled = training.learning_rate_micro, training.clip_micro, training.noise_micro, training.sample_rate_micro
    rate, clip, noise, share = (value / MICRO for value in scaled)
    std = rate * noise * clip * math.sqrt(training.steps) / (share * count)
    return 4 * std + rate * clip * training.steps / 8


@lru_cache(maxsize=2)
def _source(name: str, classes: tuple[int, ...], directory: Path, features: str, components: int) -> Source:
    data = datasets.of_classes(datasets.load(name, directory), classes)
    return Source(data, data) if features == "none" else through_scattering(data, components)


def _seat(scenario: Scenario, parts: Split, shown: Split, attack: Attack | None, name: str) -> Seat:
    """The seat of a silo; an attacker holds its records as they were before any features."""
    scheme = PackedCkks if scenario.engine.encryption else PlainSum
    if attack is not None:
        return replace(attack.seat(parts.records[name]), scheme=scheme)
    pool = shown.pools[name]
    trainer = trainer_for if len(pool) == 1 else sampled(pool, scenario.seed, name)
    return Seat(shown.records[name], trainer=trainer, scheme=scheme)


def sampled(pool: Sequence[Records], seed: int, name: str) -> Callable[[Task, Records, Entropy], Trainer]:
    """For `Seat.trainer`: trains as another one of the pool's clients in each round."""
    return lambda task, records, entropy: _Pool(task, pool, entropy, stream(seed, f"clients of {name}"))


class _Pool:
    """The `Trainer` of a seat that stands for several clients."""

    def __init__(self, task: Task, pool: Sequence[Records], entropy: Entropy, random: np.random.Generator) -> None:
        self._trainers = [trainer_for(task, own, entropy) for own in pool]
        self._random, self._current = random, self._trainers[0]

    def train(
        self, model: NDArray[np.float32], training: Training, count: int, guidance: Guidance = NONE
    ) -> NDArray[Any]:
        """See `Trainer.train`: of the client that is drawn now."""
        self._current = self._trainers[int(self._random.integers(len(self._trainers)))]
        return self._current.train(model, training, count, guidance)

    def embed(self, model: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """See `Trainer.embed`: of the client that trained last."""
        return self._current.embed(model)

    def evaluate(self, model: NDArray[np.float32]) -> tuple[int, int]:
        """See `Trainer.evaluate`: of the seat's first client."""
        return self._trainers[0].evaluate(model)
