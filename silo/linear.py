"""Softmax regression with DP-SGD in NumPy: the model kind `linear`, of sizes (inputs, classes).

A real DP-SGD with the same sampling and noise as the torch trainer, and quick to start; the protocol's tests use it.
Layout: weight [classes, inputs], then bias [classes]; all of it is the output layer, and the embedding is the input.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from protos.task import MICRO, Layout, ModelSpec, TensorSpec, Training
from silo.data import Records
from silo.entropy import Entropy
from silo.errors import UnsuitableModel
from silo.gaussian import gaussian
from silo.guidance import NONE, Guidance
from silo.inoculation import inoculated
from silo.sampling import poisson_batch
from silo.trainer import SAFE_CLIP, require_model


def layout(spec: ModelSpec, permutation: str) -> Layout:
    """The layout of `spec`; see `silo.trainer.layout_for`."""
    inputs, classes = _sizes(spec)
    tensors = (TensorSpec("weight", (classes, inputs), 0), TensorSpec("bias", (classes,), classes * inputs))
    size = classes * (inputs + 1)
    return Layout(tensors, size, 0, size, inputs, classes, permutation)


def initial_model(spec: ModelSpec, seed: int) -> NDArray[np.float32]:
    """Zeros, whatever the seed: the loss is convex."""
    inputs, classes = _sizes(spec)
    return np.zeros(classes * (inputs + 1), dtype=np.float32)


def trainer(spec: ModelSpec, records: Records, entropy: Entropy) -> LinearTrainer:
    """The trainer of `spec` on these records."""
    inputs, classes = _sizes(spec)
    return LinearTrainer(inputs, classes, records, entropy)


class LinearTrainer:
    """The `silo.trainer.Trainer` of softmax regression."""

    def __init__(self, inputs: int, classes: int, records: Records, entropy: Entropy) -> None:
        self._shape = (classes, inputs + 1)
        self._records = records
        self._features = _with_ones(records.features)
        self._entropy = entropy

    def train(
        self, model: NDArray[np.float32], training: Training, count: int, guidance: Guidance = NONE
    ) -> NDArray[np.float64]:
        """See `Trainer.train`; UnsuitableModel for a pull, which would not change any gradient."""
        if guidance.pull is not None:
            raise UnsuitableModel(
                "a linear model has no embedding that prototypes could pull: leave prototypes.pull out"
            )
        start = self._matrix(model)
        weights = start.copy()
        clip = training.clip_micro / MICRO
        std = training.noise_micro / MICRO * clip
        rate = training.learning_rate_micro / MICRO / (training.sample_rate_micro / MICRO * count)
        for _ in range(training.steps):
            batch = poisson_batch(len(self._features), training.sample_rate_micro, self._entropy)
            features, labels = self._inoculated(batch, guidance)
            noise = _matrix(std * gaussian(weights.size, self._entropy), self._shape)
            weights -= rate * (self._clipped_sum(weights, features, labels, clip * SAFE_CLIP) + noise)
        return _flat(weights - start)

    def embed(self, model: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """See `Trainer.embed`: the features themselves."""
        self._matrix(model)
        return self._records.features.astype(np.float64), self._records.labels

    def evaluate(self, model: NDArray[np.float32]) -> tuple[int, int]:
        """See `Trainer.evaluate`."""
        scores = _with_ones(self._records.holdout_features) @ self._matrix(model).T
        labels = self._records.holdout_labels
        return int((scores.argmax(axis=1) == labels).sum()), len(labels)

    def _inoculated(
        self, batch: NDArray[np.int64], guidance: Guidance
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Features of a batch with a column of ones, and labels, inoculated."""
        features, labels = self._features[batch], self._records.labels[batch]
        other = inoculated(self._records.features[batch], labels, guidance, self._entropy)
        features[other.places, :-1], labels[other.places] = other.features, other.labels
        return features, labels

    def _clipped_sum(
        self, weights: NDArray[np.float64], features: NDArray[np.float64], labels: NDArray[np.int64], clip: float
    ) -> NDArray[np.float64]:
        """Sum over a batch of the cross-entropy gradients, each clipped to `clip`; float64[classes, inputs + 1].

        A record's gradient is the outer product of (p - onehot) and (x, 1), so its norm is the product of theirs.
        """
        residual = _softmax(features @ weights.T)
        residual[np.arange(len(labels)), labels] -= 1
        norms = np.linalg.norm(residual, axis=1) * np.linalg.norm(features, axis=1)
        residual *= (clip / np.maximum(norms, clip))[:, None]
        # Overflow of one record must not spill into the sum: it then counts as zero.
        total: NDArray[np.float64] = np.nan_to_num(residual, nan=0.0).T @ features
        return total

    def _matrix(self, model: NDArray[np.float32]) -> NDArray[np.float64]:
        require_model(model, self._shape[0] * self._shape[1])
        return _matrix(model.astype(np.float64), self._shape)


def _sizes(spec: ModelSpec) -> tuple[int, int]:
    if len(spec.sizes) != 2 or spec.sizes[1] < 2:
        raise UnsuitableModel("a linear model has two sizes, inputs and at least 2 classes; for more layers use mlp")
    return spec.sizes[0], spec.sizes[1]


def _with_ones(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Features with a column of ones, which carries the bias; float64[n, inputs + 1]."""
    return np.hstack([features.astype(np.float64), np.ones((len(features), 1))])


def _matrix(flat: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    """[weight | bias] as one matrix float64[classes, inputs + 1] from the flat layout."""
    classes, columns = shape
    split = classes * (columns - 1)
    return np.hstack([flat[:split].reshape(classes, columns - 1), flat[split:].reshape(classes, 1)])


def _flat(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([matrix[:, :-1].ravel(), matrix[:, -1]])


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return result
