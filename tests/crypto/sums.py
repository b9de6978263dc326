"""What silos and coordinator do around a sum, and a silo that lies."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crypto import ring, tags
from crypto.ckks import CkksKey
from crypto.errors import CheckFailed
from crypto.packing import Packing
from crypto.secure_sum import Protected, SumKeys
from crypto.sketch import rows, signs, sketch, trace_signs
from crypto.tags import Contribution
from tests.crypto.conftest import (
    PLAN,
    encrypt_reals,
)

Fields = NDArray[np.int64]
SEED = bytes(range(32))


def fold(chunks: Sequence[bytes], matrix: NDArray[np.int8]) -> list[bytes]:
    """What the coordinator hands to the checkers."""
    return [ring.to_bytes(words) for words in ring.fold((ring.parse_fresh(chunk) for chunk in chunks), matrix)]


def add_up(parts: Sequence[Protected], weights: Sequence[int]) -> list[bytes]:
    """What the coordinator hands to all silos."""
    streams = [(ring.parse_fresh(chunk) for chunk in part.chunks) for part in parts]
    return [ring.to_bytes(words) for words in ring.weighted_sum(streams, weights)]


def check(
    keys: SumKeys, update: Protected, fields: Fields | None, packing: Packing, *, plan: str = PLAN, silo: str = "north"
) -> None:
    """Step 5: fold, and check against the sketch of `fields` (the trace's rows where there are none)."""
    drawn = signs(SEED, packing.folds, packing.body_chunks)
    matrix = rows(drawn, packing) if fields is not None else trace_signs(SEED, packing.folds, packing.chunks)
    said = None if fields is None else sketch(fields, packing, drawn)
    keys.check_folded(fold(update.chunks, matrix), matrix, packing, plan=plan, silo=silo, tags=update.tags, sketch=said)


def contributions(parts: Sequence[Protected], weights: Sequence[int]) -> list[Contribution]:
    return [Contribution(f"silo-{i}", w, part.tags) for i, (part, w) in enumerate(zip(parts, weights, strict=True))]


def protect_all(keys: SumKeys, updates: Sequence[NDArray[np.int64]], packing: Packing) -> list[Protected]:
    return [
        keys.protect(packing.to_fields(update), packing, plan=PLAN, silo=f"silo-{i}")
        for i, update in enumerate(updates)
    ]


def fails(name: str) -> Any:
    """The check of that name fails, and its message is the name and nothing else."""
    return pytest.raises(CheckFailed, match=f"^{name}$")


class Liar:
    """A silo that holds all secrets and encrypts and tags what it likes."""

    def __init__(self, secret: bytes) -> None:
        blob = json.loads(secret)
        self.key = CkksKey.load(base64.b64decode(blob["ckks"]))
        self.tag_secret = base64.b64decode(blob["tags"])

    def protect(self, slots: NDArray[np.float64], tagged: Fields) -> Protected:
        chunks = [encrypt_reals(self.key, row) for row in slots]
        return Protected(chunks, tags.tag(tagged, self.tag_secret, plan=PLAN, silo="north", salt=b"s" * 32))

    def halve(self, protected: Protected, halves: Fields) -> Protected:
        """Add the tags of `halves / 2`, in which the half of an odd number is one modulo p."""
        salt, values = tags.parse(protected.tags, halves.shape[0])
        products = tags._products(halves, self.tag_secret, PLAN)
        inverse = pow(2, -1, tags.P)
        changed = [(value + inverse * product) % tags.P for value, product in zip(values, products, strict=True)]
        return Protected(protected.chunks, salt + np.array(changed, dtype="<u8").tobytes())
