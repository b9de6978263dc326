"""Small tasks, records and an independent DP-SGD for the tests of the training side."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.task import Training
from silo.data import Records

SILENT = 1
"""A noise multiplier of a millionth."""


SPEC = """
name = "toy"
rounds = 2
sample_rate = 0.5
steps = 1
learning_rate = 0.5
clip = 1.0
evaluation_noise = 20.0
counts_noise = 20.0
epsilon = 8.0
delta = 1e-4
range = 1.6
folds = 2
seed = 1
[model]
kind = "linear"
activation = "identity"
sizes = [16, 4]
"""
"""A task description as an operator writes it; the model's table is the last."""


def description(kind: str = "linear", **changes: Any) -> dict[str, Any]:
    """A task description with the demo's privacy parameters."""
    sizes = [6, 3] if kind == "linear" else [6, 5, 3]
    return {
        "name": "demo",
        "model": {"kind": kind, "sizes": sizes, "activation": "tanh"},
        "rounds": 40,
        "sample_rate": 0.5,
        "steps": 1,
        "learning_rate": 4,
        "clip": 1.0,
        "prototypes": {"clip": 2.0, "noise": 6.8, "every": 1},
        "evaluation_noise": 30,
        "counts_noise": 8,
        "epsilon": 8,
        "delta": 1e-4,
        "range": 1.6,
        "folds": 4,
        "seed": 7,
    } | changes


def training(**changes: int) -> Training:
    """Full batches and no noise to speak of, unless changed."""
    values = {
        "sample_rate_micro": 1_000_000,
        "steps": 1,
        "learning_rate_micro": 500_000,
        "clip_micro": 400_000,
        "noise_micro": SILENT,
    }
    return Training(**(values | changes))


def records(count: int, inputs: int = 6, classes: int = 3, seed: int = 1) -> Records:
    """Gaussian blobs, one for each class."""
    random = np.random.default_rng(seed)
    centres = 2 * random.normal(size=(classes, inputs))
    labels = random.integers(0, classes, size=2 * count)
    features = (centres[labels] + random.normal(size=(2 * count, inputs))).astype(np.float32)
    return Records(features[:count], labels[:count], features[count:], labels[count:])


def naive_clipped_sum(
    tensors: list[NDArray[np.float64]], features: NDArray[Any], labels: NDArray[Any], clip: float
) -> NDArray[np.float64]:
    """Clipped gradients of a tanh network, record by record, by back-propagation written out by hand."""
    total = np.zeros(sum(tensor.size for tensor in tensors))
    for x, label in zip(features.astype(np.float64), labels, strict=True):
        activations = [x]
        for weight, bias in zip(tensors[0:-2:2], tensors[1:-2:2], strict=True):
            activations.append(np.tanh(weight @ activations[-1] + bias))
        scores = tensors[-2] @ activations[-1] + tensors[-1]
        error = np.exp(scores) / np.exp(scores).sum()
        error[label] -= 1
        parts: list[NDArray[np.float64]] = []
        for layer in range(len(tensors) // 2 - 1, -1, -1):
            parts = [np.outer(error, activations[layer]).ravel(), error, *parts]
            error = (tensors[2 * layer].T @ error) * (1 - activations[layer] ** 2)
        gradient = np.concatenate(parts)
        total += gradient * min(1.0, clip / np.linalg.norm(gradient))
    return total
