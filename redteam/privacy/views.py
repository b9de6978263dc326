"""What parties see of one silo's round, made by the functions of production.

The coordinator sees `folds`, `output`, `prototypes` and `counts`. In league with a silo, which has the decryption key,
it sees `update` as well: the limit that docs/threat-model.md states.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crypto import sketch
from crypto.packing import Packing
from crypto.quantise import quantise, randomness_needed
from protos.task import Task
from redteam.attacks.parts import Features, Floats, Labels
from redteam.privacy.settings import prototype_sums, trainer_of
from silo.entropy import Entropy
from silo.pack import step_log2
from silo.releases import noised_counts, noised_prototypes


@dataclass(frozen=True)
class Seen:
    """One silo's round, in the units of the model.

    Attributes:
        update: quantised, float64[d].
        folds: signed sums of the body, float64[folds, width].
        output: the exact output layer of the update, float64[output_size]; empty where it has no chunks of its own.
        prototypes: noised class sums, float64[classes, embedding].
        counts: noised class counts, int64[classes].
        signs: of the folds, int8[folds, body chunks], public.
    """

    update: Floats
    folds: Floats
    output: Floats
    prototypes: Floats
    counts: NDArray[np.int64]
    signs: NDArray[np.int8]

    @property
    def means(self) -> Floats:
        """Prototypes: class sums by noised counts, at least 1; float64[classes, embedding]."""
        means: Floats = self.prototypes / np.maximum(self.counts, 1)[:, None]
        return means


def observe(
    task: Task, model: NDArray[np.float32], features: Features, labels: Labels, entropy: Entropy, seed: bytes = b"seed"
) -> Seen:
    """What is seen of a silo with these records in the round in which it receives `model`.

    The quantisation step is fitted to the update, as an operator fits a task's range to its noise. The noised count is
    the public one, and at least a quarter of the true one, so that few records under much noise do not explode.
    """
    total, counts = noised_counts(labels, task.layout.classes, task.counts_noise_micro, entropy)
    trainer = trainer_of(task, features, labels, entropy)
    update = trainer.train(model, task.training, max(total, len(labels) // 4, 1))
    step = step_log2(float(np.abs(update).max()) or 1.0)
    values = quantise(update, step, entropy.take(randomness_needed(update.size))).astype(np.int64)
    packing = Packing.of(task.layout, task.folds)
    signs = sketch.signs(seed, packing.folds, packing.body_chunks)
    folds, output = sketch.sketch(packing.to_fields(values), packing, signs)
    embeddings, own = trainer.embed(model)
    assert task.prototypes is not None, "the designs here all have prototypes"
    sums = noised_prototypes(embeddings, own, task.prototypes, task.layout.classes, entropy)
    update, sketched, exact = (np.ldexp(part.astype(np.float64), step) for part in (values, folds, output))
    return Seen(update, sketched, exact, prototype_sums(task, sums), np.array(counts, dtype=np.int64), signs)


def fold_matrix(task: Task, signs: NDArray[np.int8]) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """The folds as a sparse linear map of a flat update.

    Returns:
        For each term fold * width + column, coordinate, and sign: int64[k], int64[k], float64[k].
    """
    packing = Packing.of(task.layout, task.folds)
    # Laid out by production's own packing, the numbers of the coordinates say where each one lies.
    fields = packing.to_fields(np.arange(1, task.layout.size + 1))[: packing.body_chunks, : packing.width]
    chunks, columns = np.nonzero(fields)
    coordinates = fields[chunks, columns] - 1
    places = (np.arange(packing.folds)[:, None] * packing.width + columns).ravel()
    return places, np.tile(coordinates, packing.folds), signs[:, chunks].astype(np.float64).ravel()
