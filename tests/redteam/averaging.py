"""Plain federated averaging of production's trainers in the open: no cryptography, no defence, weights by count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from protos.task import MICRO, ModelSpec, Task, Training
from redteam.attacks.attack import Attack
from redteam.attacks.catalogue import ON_TABLES, Setting, attackers
from redteam.attacks.fields import LOANS
from redteam.attacks.learner import Learner
from silo.data import Records
from silo.trainer import Trainer, initial_model, trainer_for
from tests.redteam.plain_task import plain_task
from tests.silo.entropy import SeededEntropy

torch.set_num_threads(1)

SILOS = 6
FAINT = np.float32(0.5)
CLASSES, SIDE = 10, 8
SPEC = ModelSpec("mlp", (SIDE * SIDE, 32, CLASSES), "relu")
QUIET = Training(MICRO, 5, MICRO, 2 * MICRO, 20_000)
"""Hardly any noise: what plain averaging of the papers' settings comes to."""
NOISY = Training(MICRO // 2, 5, 2 * MICRO, MICRO, 1_000_000)
"""DP-SGD with noise multiplier 1."""


def task_for(spec: ModelSpec = SPEC, training: Training = QUIET) -> Task:
    """A task for the digits."""
    return plain_task(spec, training)


@dataclass(frozen=True)
class World:
    """Records by silo, test records that no silo has, and a writer for each training record."""

    silos: Mapping[str, Records]
    writers: Mapping[str, NDArray[np.int64]]
    test: tuple[NDArray[np.float32], NDArray[np.int64]]


@cache
def world(silos: int = SILOS, seed: int = 0) -> World:
    """Digits in [0, 1] in equal shares; writer 0 writes the faintest images of a class, and with a faint pen."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    features, labels = (pixels[order] / 16).astype(np.float32), labels[order].astype(np.int64)
    x, y = features[400:], labels[400:]
    hands = _hands(x, y)
    x[hands == 0] *= FAINT
    parts = {f"s{i}": np.arange(i, len(y), silos) for i in range(silos)}
    records = {name: Records(x[own], y[own], features[:50], labels[:50]) for name, own in parts.items()}
    writers = {name: hands[own] for name, own in parts.items()}
    return World(records, writers, (features[:400], labels[:400]))


def three_way(silos: int, seed: int = 0) -> dict[str, Records]:
    """Records of `silos` silos with three classes each; a silo's hold-out is the test images of its classes."""
    whole = list(world().silos.values())
    x, y = np.concatenate([own.features for own in whole]), np.concatenate([own.labels for own in whole])
    random, test = np.random.default_rng(seed), world().test
    made = {}
    for number in range(silos):
        own = random.choice(CLASSES, 3, replace=False)
        mine = random.permutation(np.flatnonzero(np.isin(y, own)))[:120]
        held = np.isin(test[1], own)
        made[f"p{number}"] = Records(x[mine], y[mine], test[0][held], test[1][held])
    return made


def _hands(x: NDArray[np.float32], y: NDArray[np.int64]) -> NDArray[np.int64]:
    """A writer from 0 to 6 for each image, by how much ink it has among those of its class."""
    hands = np.zeros(len(y), dtype=np.int64)
    for label in range(CLASSES):
        own = np.flatnonzero(y == label)
        ranks = np.argsort(np.argsort(x[own].sum(axis=1)))
        hands[own] = 7 * ranks // len(own)
    return hands


def setting(bad: int, private: bool = False, omniscient: bool = False, seed: int = 0) -> Setting:
    """The first `bad` silos of `world` attack."""
    everyone = world()
    own = {name: everyone.silos[name] for name in list(everyone.silos)[:bad]}
    writers = {name: everyone.writers[name] for name in own}
    known = everyone.silos if omniscient else None
    return Setting(own, SILOS, CLASSES, SIDE, private=private, writers=writers, omniscient=known, seed=seed)


def as_table(own: Setting) -> Setting:
    """The same digits as rows of a table, whose first six columns are called as those of loan triggers."""
    names = [*sum(LOANS, ()), *(f"pixel {place}" for place in range(6, SIDE * SIDE))]
    return replace(own, side=0, columns=tuple(names))


Model = NDArray[np.float32]


@cache
def warm() -> Model:
    """The global model after twelve honest rounds, from which attacks start."""
    return average({}, 12, QUIET, initial_model(SPEC, 0))


def average(
    attacking: Mapping[str, Attack], rounds: int, training: Training = QUIET, start: Model | None = None
) -> Model:
    """The global model after `rounds` rounds from `start`, by default from `warm`."""
    model = warm() if start is None else start
    return averaged(task_for(training=training), world().silos, attacking, rounds, model)


def averaged(
    task: Task, everyone: Mapping[str, Records], attacking: Mapping[str, Attack], rounds: int, model: Model
) -> Model:
    """The global model of any task and silos after `rounds` rounds from `model`."""
    trainers: dict[str, Trainer] = {}
    for number, (name, own) in enumerate(everyone.items()):
        make: Callable[..., Trainer] = attacking.get(name, trainer_for)
        trainers[name] = make(task, own, SeededEntropy(number))
    declared = {name: attacking[name].declare(own) if name in attacking else own for name, own in everyone.items()}
    counts = {name: len(own.labels) for name, own in declared.items()}
    for _ in range(rounds):
        total = sum(counts[name] * one.train(model, task.training, counts[name]) for name, one in trainers.items())
        model = (model + total / sum(counts.values())).astype(np.float32)
    return model


def share_right(model: NDArray[np.float32], records: Records) -> float:
    """Accuracy on the hold-out of `records`."""
    if not np.isfinite(model).all():
        return 0.0
    predicted = Learner(SPEC).predict(model, records.holdout_features)
    return float((predicted == records.holdout_labels).mean())


def accuracy(model: NDArray[np.float32]) -> float:
    """On the test records."""
    return share_right(model, Records(*world().test, *world().test))


def success(attack: Attack, model: NDArray[np.float32]) -> float:
    """Attack success rate on the test records."""
    return share_right(model, attack.triggered(*world().test))


def attacking(name: str, bad: int, private: bool = False, omniscient: bool = False) -> dict[str, Attack]:
    """The named attack for the first `bad` silos."""
    own = setting(bad, private, omniscient)
    return attackers(name, as_table(own) if name in ON_TABLES else own)
