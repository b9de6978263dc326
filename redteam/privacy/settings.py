"""Tasks for privacy attacks: those of production, solved for a target ε, or the same without any privacy."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from protos.task import MICRO, PROTOTYPE_GRID, Task
from redteam.attacks.parts import NO_NOISE_MICRO, Features, Floats, Labels
from silo.data import Records
from silo.entropy import Entropy
from silo.pack import pack_task
from silo.trainer import Trainer, trainer_for

NO_CLIP_MICRO = 1_000 * MICRO
"""A clip norm that no gradient here reaches: clipping off. Noise is a multiple of it: a millionth of it is 0.001."""


@dataclass(frozen=True)
class Design:
    """A task but for its ε: layer widths, then the plan of one silo's training.

    Attributes:
        sizes: layer widths; two of them make a linear model, more an mlp.
        rounds, steps, sample_rate, learning_rate, clip: as in a task's description.
        prototype_clip, prototype_noise: of one release of prototypes.
        delta: of the budget.
        folds: of the sketch.
        activation: of the hidden layers.
        seed: of the first model.
    """

    sizes: tuple[int, ...]
    rounds: int = 1
    steps: int = 1
    sample_rate: float = 1.0
    learning_rate: float = 0.5
    clip: float = 1.0
    prototype_clip: float = 8.0
    prototype_noise: float = 10.0
    delta: float = 1e-5
    folds: int = 4
    activation: str = "tanh"
    seed: int = 0


def task_at(epsilon: float, design: Design) -> tuple[Task, NDArray[np.float32]]:
    """The task that keeps ε over all its releases, and its first model.

    For an infinite ε, noise and clipping are off: training and prototypes get the least noise that a plan can name,
    a millionth, and clip norms that nothing reaches. Counts and evaluations keep theirs.
    """
    private = not math.isinf(epsilon)
    task, model = pack_task(_description(epsilon if private else 8.0, design))
    first = np.frombuffer(model, dtype="<f4").astype(np.float32)
    return (task if private else _open(task)), first


def learned(
    task: Task, model: NDArray[np.float32], features: Features, labels: Labels, entropy: Entropy
) -> NDArray[np.float32]:
    """The model after all the task's rounds at one silo alone, whose every update is adopted whole."""
    trainer = trainer_of(task, features, labels, entropy)
    for _ in range(task.rounds):
        update = trainer.train(model, task.training, len(labels))
        model = (model + update).astype(np.float32)
    return model


def trainer_of(task: Task, features: Features, labels: Labels, entropy: Entropy) -> Trainer:
    """Production's trainer on these records; the first serves as a hold-out, which nothing here reads."""
    return trainer_for(task, Records(features, labels, features[:1], labels[:1]), entropy)


def prototype_sums(task: Task, sums: NDArray[np.int64]) -> Floats:
    """Released class sums in the units of the embedding, float64[classes, width]."""
    assert task.prototypes is not None, "the designs here all have prototypes"
    unit = task.prototypes.clip_micro / MICRO / PROTOTYPE_GRID
    return np.asarray(sums * unit, dtype=np.float64)


def _open(task: Task) -> Task:
    assert task.prototypes is not None
    training = replace(task.training, noise_micro=NO_NOISE_MICRO, clip_micro=NO_CLIP_MICRO)
    return replace(task, training=training, prototypes=replace(task.prototypes, noise_micro=NO_NOISE_MICRO))


def _description(epsilon: float, design: Design) -> dict[str, object]:
    kind = "linear" if len(design.sizes) == 2 else "mlp"
    activation = "none" if kind == "linear" else design.activation
    return {
        "name": "privacy",
        "model": {"kind": kind, "sizes": list(design.sizes), "activation": activation},
        "rounds": design.rounds,
        "sample_rate": design.sample_rate,
        "steps": design.steps,
        "learning_rate": design.learning_rate,
        "clip": design.clip,
        "prototypes": {"clip": design.prototype_clip, "noise": design.prototype_noise, "every": design.rounds},
        "evaluation_noise": 50.0,
        "evaluation_every": design.rounds,
        "counts_noise": 20.0,
        "epsilon": epsilon,
        "delta": design.delta,
        "range": 1.0,
        "folds": design.folds,
        "seed": design.seed,
    }
