"""What the benchmark of a round trains: ResNet-18's layout, and a trainer that makes noise of the right law and sleeps.

The layout is torchvision's ResNet-18 with ten classes and its batch norms as group norms: 62 tensors, 11,181,642
parameters at width 64. No torch is needed, since nobody runs the model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from audit.accounting import solve_noise
from protos.task import MICRO, NANO, Budget, Layout, ModelSpec, PrototypeRule, Task, TensorSpec, Training
from silo.guidance import NONE, Guidance
from silo.pack import step_log2

CLASSES, RECORDS, INPUTS = 10, 200, 4
FOLDS = 8
_DRAFT = Training(MICRO // 2, 1, MICRO, MICRO, MICRO)


@dataclass(frozen=True)
class SleepingTrainer:
    """A `silo.trainer.Trainer` without records: sleeps `seconds`, and gives what DP-SGD on no gradient would give."""

    seconds: float
    embedding: int

    def train(
        self, model: NDArray[np.float32], training: Training, count: int, guidance: Guidance = NONE
    ) -> NDArray[np.float32]:
        """Noise of DP-SGD's own law; its generator is no secret one, for nothing here is worth protecting."""
        time.sleep(self.seconds)
        return noise(model.size, noise_std(training, count))

    def embed(self, model: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Random embeddings of as many records as there are."""
        labels = np.arange(RECORDS, dtype=np.int64) % CLASSES
        return np.random.default_rng().normal(size=(RECORDS, self.embedding)), labels

    def evaluate(self, model: NDArray[np.float32]) -> tuple[int, int]:
        """A guess."""
        return RECORDS // CLASSES, RECORDS


def noise(size: int, std: float) -> NDArray[np.float32]:
    """Gaussian noise, float32[size]."""
    update = np.random.default_rng().standard_normal(size, dtype=np.float32)
    update *= np.float32(std)
    return update


def noise_std(training: Training, count: int) -> float:
    """Standard deviation of one coordinate of an update under DP-SGD's noise."""
    rate = training.learning_rate_micro / (training.sample_rate_micro * count)
    return rate * training.noise_micro / MICRO * training.clip_micro / MICRO * math.sqrt(training.steps)


def resnet18(width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the tensors; 64 is the published width."""
    yield "conv1.weight", (width, 3, 7, 7)
    yield from _norm("bn1", width)
    before = width
    for stage in range(4):
        after = width << stage
        for block in range(2):
            name = f"layer{stage + 1}.{block}"
            yield f"{name}.conv1.weight", (after, before, 3, 3)
            yield from _norm(f"{name}.bn1", after)
            yield f"{name}.conv2.weight", (after, after, 3, 3)
            yield from _norm(f"{name}.bn2", after)
            if before != after:
                yield f"{name}.downsample.0.weight", (after, before, 1, 1)
                yield from _norm(f"{name}.downsample.1", after)
            before = after
    yield "fc.weight", (CLASSES, before)
    yield "fc.bias", (CLASSES,)


def layout(width: int) -> Layout:
    """The flat layout of a ResNet-18 of that width."""
    tensors, offset = [], 0
    for name, shape in resnet18(width):
        tensors.append(TensorSpec(name, shape, offset))
        offset += math.prod(shape)
    output = CLASSES * 8 * width + CLASSES
    return Layout(tuple(tensors), offset, offset - output, output, 8 * width, CLASSES, "5c" * 32)


def make_task(width: int, rounds: int) -> tuple[Task, bytes]:
    """A task of `rounds` rounds and its first model, all zeros."""
    shape = layout(width)
    model = bytes(4 * shape.size)
    draft = Task(
        name="resnet18",
        model=ModelSpec("resnet18", (INPUTS, CLASSES), "relu"),
        layout=shape,
        initial_model=hashlib.sha256(model).hexdigest(),
        rounds=rounds,
        training=_DRAFT,
        prototypes=PrototypeRule(MICRO, 6_800_000, 1),
        counts_noise_micro=5 * MICRO,
        evaluation_noise_micro=20 * MICRO,
        evaluation_every=1,
        budget=Budget(8 * MICRO, NANO // 10_000),
        step_log2=0,
        folds=FOLDS,
    )
    training = dataclasses.replace(_DRAFT, noise_micro=solve_noise(draft))
    # The counts are noised, so a silo's noise may be a tenth larger than at the true count.
    largest = 5 * noise_std(training, RECORDS)
    return dataclasses.replace(draft, training=training, step_log2=step_log2(largest)), model


def _norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
