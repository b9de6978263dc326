"""The usual secure sum, as deployed platforms do it, for comparison only: TenSEAL's CKKS vectors as they come.

N = 8192, moduli [60, 40, 40], scale 2^40, symmetric; one vector for each tensor of a ResNet-18; the context once with
every update. Nothing is quantised, folded, tagged or checked.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tenseal
from numpy.typing import NDArray

SCALE = 2.0**40
_BLOCKS = ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))


def resnet18() -> list[int]:
    """Parameters of each tensor of a ResNet-18 with 1000 classes: 62 tensors, 11,689,512 in all."""
    sizes = [64 * 3 * 49, 64, 64]
    for before, after, stride in _BLOCKS:
        sizes += [before * after * 9, after, after, after * after * 9, after, after]
        sizes += [before * after, after, after] if stride == 2 else []
        sizes += [after * after * 9, after, after] * 2
    return [*sizes, 512 * 1000, 1000]


def layers(parameters: int) -> list[slice]:
    """The tensors of a ResNet-18 scaled to so many parameters in all; none is empty."""
    sizes = resnet18()
    scaled = [max(1, size * parameters // sum(sizes)) for size in sizes]
    scaled[int(np.argmax(scaled))] += parameters - sum(scaled)
    ends = np.cumsum(scaled).tolist()
    return [slice(end - size, end) for end, size in zip(ends, scaled, strict=True)]


class Usual:
    """One key, held by all silos; the coordinator has the same context without it."""

    def __init__(self, parameters: int) -> None:
        self.layers = layers(parameters)
        self._context = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS,
            8192,
            coeff_mod_bit_sizes=[60, 40, 40],
            encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
        )
        self._context.global_scale = SCALE
        keys = {"save_secret_key": False, "save_galois_keys": False, "save_relin_keys": False}
        self.context = self._context.serialize(**keys)

    def encrypt(self, update: NDArray[np.float64]) -> list[bytes]:
        """Serialised vectors of an update, float64[d]."""
        with _quiet():
            return [tenseal.ckks_vector(self._context, update[layer].tolist()).serialize() for layer in self.layers]

    def add_up(self, updates: Sequence[list[bytes]], weights: Sequence[int] | None) -> Iterator[Any]:
        """Load and add, tensor by tensor; with weights each vector is multiplied first, without it was by its silo."""
        coordinator = tenseal.context_from(self.context)
        for index in range(len(self.layers)):
            total = None
            for number, update in enumerate(updates):
                vector = tenseal.ckks_vector_from(coordinator, update[index])
                term = vector if weights is None else vector * float(weights[number])
                total = term if total is None else total + term
            yield total

    def decrypt(self, total: Sequence[bytes]) -> NDArray[np.float64]:
        """Load and decrypt: float64[d]."""
        vectors = (tenseal.ckks_vector_from(self._context, data) for data in total)
        return np.concatenate([np.array(vector.decrypt()) for vector in vectors])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TenSEAL warns on the standard output of C that a vector takes several ciphertexts, once for each vector."""
    kept, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(null)
