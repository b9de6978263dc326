"""Reconstruction of images from what is seen of a silo's round, and how good it is.

From an update: a row of the first layer's weight gradient over that of its bias is the mean of the records that move
the neuron, and a single record *is* that row (Phong et al. 2017; Geiping et al. 2020, proposition 3.1); and
optimisation (`redteam.privacy.inversion`). From what the coordinator sees: optimisation that matches folds, output
layer and prototypes at once. From prototypes alone: the best linear decoder for the noise at hand, learned on public
images.

The attacker is given much: labels, public images of the same kind, an untrained model, one local step, and silos of
one record, or of one record in its class. Pixels lie in [0, 1]. The measure is PSNR in dB; beside it stands that of the
mean public image, which needs no attack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from protos.task import MICRO, PROTOTYPE_GRID, Task
from redteam.attacks.parts import Features, Floats, Labels
from redteam.privacy.settings import trainer_of
from redteam.privacy.views import observe
from silo.entropy import Entropy, OsEntropy

Kind = Literal["analytic", "update", "coordinator", "prototypes"]
CEILING = 60.0
"""PSNR is cut here, 8-bit rounding being at 59 dB, so that a perfect image does not make the mean infinite."""


@dataclass(frozen=True)
class Image:
    """PSNR in dB of one reconstruction, and of the mean public image."""

    attack: float
    mean: float


def psnr(image: Floats | Features, truth: Floats | Features) -> float:
    """Peak signal-to-noise ratio, -10 log10(MSE), of pixels in [0, 1] after clipping; at most `CEILING`."""
    clipped = np.clip(np.asarray(image, dtype=np.float64), 0.0, 1.0)
    error = float(np.mean(np.square(clipped - np.asarray(truth, dtype=np.float64))))
    return min(CEILING, -10 * math.log10(error)) if error > 0 else CEILING


def attack(
    kind: Kind,
    task: Task,
    model: NDArray[np.float32],
    records: tuple[Features, Labels],
    target: int,
    public: Features,
    entropy: Entropy,
) -> Image:
    """Attack one silo's round and compare with its record `target`.

    Args:
        kind: `analytic`, `update` and `coordinator` take a silo of one record; `prototypes` any silo in which the
            target is alone in its class.
        task, model: the round's.
        records: the silo's.
        public: images of the same kind, none of them the silo's; optimisation starts at their mean.
        entropy: of the silo's noise.
    """
    features, labels = records
    seen = observe(task, model, features, labels, entropy)
    mean = public.mean(axis=0, dtype=np.float64)
    if kind == "analytic":
        image = first_layer(task, seen.update)
    elif kind == "prototypes":
        image = decoded(task, model, public, seen.prototypes[labels[target]])
    else:
        from redteam.privacy import inversion

        image = inversion.invert(task, model, inversion.clues(kind, task, seen, int(labels[target])), mean)
    return Image(psnr(image, features[target]), psnr(mean, features[target]))


def first_layer(task: Task, update: Floats) -> Floats:
    """The record behind the neuron whose bias moved most: its weights' update over its bias', float64[inputs]."""
    weights, biases = first_layer_of(task, update)
    row = int(np.argmax(np.abs(biases)))
    image: Floats = weights[row] / (biases[row] or 1.0)
    return image


def first_layer_of(task: Task, update: Floats) -> tuple[Floats, Floats]:
    """Weights float64[neurons, inputs] and biases float64[neurons] of the first layer in a flat update."""
    weight, bias = task.layout.tensors[:2]
    rows, inputs = weight.shape
    flat = update[weight.offset : weight.offset + rows * inputs]
    return flat.reshape(rows, inputs), update[bias.offset : bias.offset + rows]


def decoded(task: Task, model: NDArray[np.float32], public: Features, embedding: Floats) -> Floats:
    """The image of a noised embedding by the linear decoder of least squared error, float64[inputs].

    Ridge regression of public images on their embeddings, whose penalty is the variance of the prototypes' noise: with
    much noise it answers the mean image.
    """
    assert task.prototypes is not None, "the designs here all have prototypes"
    none = np.zeros(len(public), dtype=np.int64)
    embeddings, _ = trainer_of(task, public, none, OsEntropy()).embed(model)
    middle, mean = embeddings.mean(axis=0), public.mean(axis=0, dtype=np.float64)
    centred = embeddings - middle
    clip = task.prototypes.clip_micro / MICRO
    # A sum on the grid is besides off by up to a unit in each coordinate.
    noise = (task.prototypes.noise_micro / MICRO * clip) ** 2 + (clip / PROTOTYPE_GRID) ** 2
    covariance = centred.T @ centred / len(public) + noise * np.eye(len(middle))
    cross = centred.T @ (public - mean) / len(public)
    image: Floats = mean + (embedding - middle) @ np.linalg.solve(covariance, cross)
    return image
