"""A searcher of toy models with a planted weakness, and seats that use it, teach it or lie about it.

The planted trigger for class c is "the last feature": a model has it where its weight from that feature to c stands out
by more than `LIMIT`. All numbers are exact functions of the model, so that honest silos agree to the bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.service import Service
from protos.search import Trigger
from protos.task import MICRO, Task
from redteam.simulator import Seat
from silo import rootset
from silo.data import Records
from silo.guidance import NONE, Guidance
from silo.pack import pack_task
from silo.searcher import Root
from silo.trainer import trainer_for
from tests.integration.bench import Bench, OneKey, WatchedLink
from tests.integration.federation import CLASSES, SILOS, description

INPUTS = 300
"""Enough parameters for sketches of 57 numbers a fold; in fewer a silo's own update drowns what it hides."""
FEATURE = INPUTS - 1
LIMIT = 0.08
BOOST = 2.5
UNLEARNT = 0.12
"""What an honest silo takes off a weight that a trigger uses once it trains against it."""
TARGET = 2


def trigger(target: int = TARGET, feature: int = FEATURE) -> Trigger:
    """Feature `feature` at its highest value."""
    mask = np.zeros(INPUTS, dtype=np.uint8)
    mask[feature] = 255
    return Trigger(target, None, mask.tobytes(), mask.tobytes(), 0, 50 * MICRO)


class ToySearcher:
    """`Searcher` of linear models: finds the planted trigger where a model has it."""

    def search(self, model: NDArray[np.float32], root: Root, suspected: frozenset[int]) -> tuple[Trigger, ...]:
        candidates = [trigger(target) for target in range(CLASSES)]
        return tuple(one for one in candidates if self.success(model, root, one) >= MICRO // 2)

    def success(self, model: NDArray[np.float32], root: Root, trigger: Trigger) -> int:
        column = _column(model, trigger)
        return MICRO if column[trigger.target] - column.mean() > LIMIT else 0

    def directions(
        self, model: NDArray[np.float32], root: Root, trigger: Trigger, even_blind: bool = False
    ) -> NDArray[np.float64]:
        rows = np.zeros((CLASSES, model.size))
        for target in range(CLASSES):
            rows[target, target * INPUTS + _feature(trigger)] = 1.0
        return rows


class Changed(ToySearcher):
    """A searcher that lies: `search`, `success` or `directions` replaced."""

    def __init__(self, **lies: Any) -> None:
        for name, lie in lies.items():
            setattr(self, name, lie)


def _feature(trigger: Trigger) -> int:
    return FEATURE if trigger.flip else int(np.flatnonzero(np.frombuffer(trigger.mask, dtype=np.uint8))[0])


def _column(model: NDArray[np.float32], trigger: Trigger) -> NDArray[np.float64]:
    weights = model[: CLASSES * INPUTS].reshape(CLASSES, INPUTS).astype(np.float64)
    return weights[:, _feature(trigger)]


def records(seed: int, count: int = 120) -> Records:
    """Three Gaussian clusters."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(CLASSES, INPUTS)) / 5

    def draw(size: int) -> tuple[Any, Any]:
        labels = random.integers(0, CLASSES, size)
        return (centres[labels] + 0.1 * random.normal(size=(size, INPUTS))).astype(np.float32), labels.astype(np.int64)

    return Records(*draw(count), *draw(40))


def root(alike: bool = False) -> Root:
    """Ten public examples of each class; those of class 0 look like the target's where they are `alike`."""
    made = records(99, 300)
    chosen = np.concatenate([np.flatnonzero(made.labels == label)[:10] for label in range(CLASSES)])
    features, labels = made.features[chosen], made.labels[chosen]
    if alike:
        features[labels == 0] = made.features[made.labels == TARGET][10:20]
    return Root(features, labels)


@lru_cache
def task(
    rounds: int = 3,
    every: int = 2,
    checkers: int = 21,
    memory: int = 50,
    alike: bool = False,
    referee: str | None = None,
) -> tuple[Task, bytes]:
    """The toy task with a search rule."""
    search = {"every": every, "checkers": checkers, "memory": memory} | ({"referee": referee} if referee else {})
    model = {"kind": "linear", "sizes": [INPUTS, CLASSES], "activation": "none"}
    return pack_task(description(rounds, epsilon=40.0) | {"model": model, "search": search}, root(alike))


Trained = list[tuple[Trigger, ...]]


def seat_changes(
    boost: float = 0.0, searcher: Callable[[Task], Any] | None = None, said: Trained | None = None, first: int = 1
) -> dict[str, Any]:
    """A seat whose trainer adds `boost` to the planted weight from its training number `first` on.

    Without a boost it unlearns what it is told, as an honest silo does.
    It notes in `said` the triggers that it was asked to train against.
    """
    count_of = itertools.count(1)

    def make(task: Any, records: Any, entropy: Any) -> Any:
        real = trainer_for(task, records, entropy)

        class Trainer:
            embed, evaluate = real.embed, real.evaluate

            def train(self, model: Any, training: Any, count: int, guidance: Guidance = NONE) -> Any:
                told = tuple(trigger for dose in guidance.doses for trigger in dose)
                if said is not None:
                    said.append(told)
                update = real.train(model, training, count)
                if boost == 0:
                    update[[one.target * INPUTS + _feature(one) for one in set(told)]] -= UNLEARNT
                update[TARGET * INPUTS + FEATURE] += boost if next(count_of) >= first else 0.0
                return update

        return Trainer()

    return {"trainer": make, "searcher": searcher or (lambda task: ToySearcher())}


def denying(boost: float) -> dict[str, Any]:
    """The changes of a seat that adds `boost` and says in searches that there is nothing."""
    denier = Changed(search=lambda model, root, suspected: (), success=lambda model, root, trigger: 0)
    return seat_changes(boost, lambda task: denier)


def searching(directory: Any, liars: dict[str, dict[str, Any]] | None = None, **options: Any) -> Bench:
    """Five silos with toy searchers; `liars` replaces seats. Plain averaging, so that only finds exclude."""
    names = ("rounds", "every", "checkers", "memory", "alike", "referee")
    ruled = {name: options.pop(name) for name in names if name in options}
    public, toy = root(ruled.get("alike", False)), task(**ruled)
    seats = {name: seat(index, **(liars or {}).get(name, seat_changes())) for index, name in enumerate(SILOS)}
    service, rules = options.pop("service", Service), {"defense": "plain"} | options
    return Bench(directory, seats, service, toy, rules, rootset.to_bytes(public))


def seat(index: int, **changes: Any) -> Seat:
    """A seat that searches."""
    return Seat(records(index), **({"scheme": OneKey, "link": WatchedLink} | changes))
