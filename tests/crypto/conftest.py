"""One set of secrets, the layout of the demo and a small one, and a TenSEAL context as an independent oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tenseal
from numpy.typing import NDArray

from crypto import ckks, secure_sum
from crypto.bfv import BfvSum
from crypto.packing import Packing
from protos.task import Layout
from tests.crypto.oracle import context_of

FEDERATION, EPOCH = "clinics", 3
PLAN, OTHER_PLAN = "a1" * 32, "b2" * 32
TOTAL_WEIGHT = 1024


def make_layout(size: int, output_offset: int, output_size: int) -> Layout:
    """A layout without tensors, which packing does not look at."""
    return Layout((), size, output_offset, output_size, embedding=4, classes=2, permutation="5c" * 32)


def random_values(rng: np.random.Generator, size: int) -> NDArray[np.int64]:
    """Quantised values of the whole range."""
    return rng.integers(-127, 128, size)


def encrypt_reals(key: ckks.CkksKey, slots: NDArray[np.float64]) -> bytes:
    """What a lying silo can do: encrypt slots that are no integers."""
    return key._encrypt(np.ascontiguousarray(slots))


@pytest.fixture(scope="session")
def seed() -> bytes:
    """The seed of a CKKS key."""
    return ckks.generate()


@pytest.fixture(scope="session")
def context(seed: bytes) -> tenseal.Context:
    """A secret context of our parameters."""
    return context_of(seed)


@pytest.fixture(scope="session")
def key(seed: bytes) -> ckks.CkksKey:
    """The key of the same seed."""
    return ckks.CkksKey.load(seed)


@pytest.fixture(scope="session")
def secret() -> bytes:
    """Dealt secrets."""
    return secure_sum.deal(FEDERATION, EPOCH)


class KeepingSum(secure_sum.SiloSum):
    """Keeps the chunks of an update, so that a test can look at them more than once."""

    def protect(self, fields: NDArray[Any], packing: Packing, *, plan: str, silo: str) -> secure_sum.Protected:
        made = super().protect(fields, packing, plan=plan, silo=silo)
        return secure_sum.Protected(list(made.chunks), made.tags)


class KeepingBfv(KeepingSum, BfvSum):
    """The same of BFV."""


@pytest.fixture(scope="session")
def keys(secret: bytes) -> secure_sum.SiloSum:
    """A member's keys."""
    return KeepingSum(secret)


@pytest.fixture(scope="session")
def demo() -> Packing:
    """MLP 64-32-10: 2410 parameters, of which 330 are the output layer."""
    return Packing.of(make_layout(2410, 2080, 330), folds=8)


@pytest.fixture(scope="session")
def small() -> Packing:
    """100 parameters in 17 chunks, the output layer of 20 in the middle."""
    return Packing.of(make_layout(100, 40, 20), folds=2)


@pytest.fixture
def rng() -> np.random.Generator:
    """Reproducible values; no test of randomness uses it."""
    return np.random.default_rng(7)


@pytest.fixture
def update(demo: Packing, rng: np.random.Generator) -> NDArray[np.int64]:
    """An update of the demo's layout in fields."""
    return demo.to_fields(random_values(rng, demo.size))


@pytest.fixture
def protected(keys: secure_sum.SiloSum, demo: Packing, update: NDArray[np.int64]) -> secure_sum.Protected:
    """The same, encrypted and tagged by the silo north."""
    return keys.protect(update, demo, plan=PLAN, silo="north")
