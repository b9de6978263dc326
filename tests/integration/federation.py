"""A small federation for protocol tests: linear models in numpy, synthetic records, real cryptography."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from protos.task import MICRO, Deadlines, Policy, Task
from redteam.simulator import Seat, Simulation
from silo.data import Records
from silo.pack import pack_task

SILOS = ("ada", "bob", "cyd", "dan", "eve")
INPUTS, CLASSES = 12, 3


def policy(**changes: Any) -> Policy:
    """A policy with short deadlines and the default rules."""
    values: dict[str, Any] = {
        "quorum_minimum": 3,
        "privacy_minimum": 3,
        "floor_micro": MICRO // 2,
        "cap_micro": 2 * MICRO,
        "total_weight": 1024,
        "fdr_micro": MICRO // 100,
        "defense": "guard",
        "deadlines": Deadlines(60_000, 30_000, 30_000, 30_000),
    }
    return Policy(**(values | changes))


def description(rounds: int = 3, folds: int = 2, epsilon: float = 8.0) -> dict[str, Any]:
    """A linear task, as for `task pack`."""
    return {
        "name": "toy",
        "model": {"kind": "linear", "sizes": [INPUTS, CLASSES], "activation": "none"},
        "rounds": rounds,
        "sample_rate": 0.5,
        "steps": 1,
        "learning_rate": 1.0,
        "clip": 1.0,
        "prototypes": {"clip": 1.0, "noise": 6.8, "every": 1},
        "evaluation_noise": 20.0,
        "counts_noise": 5.0,
        "epsilon": epsilon,
        "delta": 1e-4,
        "range": 1.6,
        "folds": folds,
        "seed": 7,
    }


@lru_cache
def task(rounds: int = 3, folds: int = 2, epsilon: float = 8.0) -> tuple[Task, bytes]:
    """A linear task, solved for its budget, and its first model."""
    return pack_task(description(rounds, folds, epsilon))


def records(seed: int, count: int = 120) -> Records:
    """Three Gaussian clusters in twelve dimensions."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(CLASSES, INPUTS))

    def draw(size: int) -> tuple[Any, Any]:
        labels = random.integers(0, CLASSES, size)
        return (centres[labels] + 0.5 * random.normal(size=(size, INPUTS))).astype(np.float32), labels.astype(np.int64)

    return Records(*draw(count), *draw(40))


def federation(
    directory: Path, seats: Mapping[str, Seat] | None = None, rounds: int = 3, folds: int = 2, **rules: Any
) -> Simulation:
    """Five honest silos; `seats` replaces some."""
    toy, model = task(rounds, folds)
    chosen = {name: Seat(records(index)) for index, name in enumerate(SILOS)} | dict(seats or {})
    return Simulation(directory, toy, model, policy(**rules), chosen)
