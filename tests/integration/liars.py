"""Schemes and trainers of silos that lie, for `Seat`. They hold the epoch's real secrets, as any member does."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audit.history import History
from crypto import tags
from crypto.ckks import CkksKey
from crypto.errors import CheckFailed
from crypto.packing import Packing, pack
from crypto.secure_sum import Protected, SiloSum, deal
from silo.trainer import trainer_for
from tests.crypto.conftest import encrypt_reals
from tests.integration.bench import OneKey

Fields = NDArray[np.int64]


class LyingKeys:
    """A member's keys, with `protect` and `check_folded` replaced where told."""

    def __init__(self, secret: bytes, protect: Any = None, answer: Any = None) -> None:
        blob = json.loads(secret)
        self.real = SiloSum(secret)
        self.key = CkksKey.load(base64.b64decode(blob["ckks"]))
        self.tag_secret = base64.b64decode(blob["tags"])
        self._protect, self._answer = protect, answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def protect(self, fields: Fields, packing: Packing, *, plan: str, silo: str) -> Protected:
        if self._protect is None:
            return self.real.protect(fields, packing, plan=plan, silo=silo)
        made: Protected = self._protect(self, fields.astype(np.int64), packing, plan, silo)
        return made

    def check_folded(self, folded_chunks: Sequence[bytes], rows: Any, packing: Packing, **rest: Any) -> None:
        if self._answer is None or self._answer(rest["silo"]) is None:
            return self.real.check_folded(folded_chunks, rows, packing, **rest)
        if not self._answer(rest["silo"]):
            raise CheckFailed("tags")
        return None

    def encrypt(self, slots: NDArray[np.float64], tagged: Fields, plan: str, silo: str) -> Protected:
        """Encrypt any numbers; the tags are those of `tagged`."""
        chunks = [encrypt_reals(self.key, row) for row in slots.astype(np.float64)]
        return Protected(chunks, tags.tag(tagged, self.tag_secret, plan=plan, silo=silo, salt=os.urandom(32)))

    def halve(self, protected: Protected, halves: Fields, plan: str) -> Protected:
        """Add the tags of `halves / 2`, in which the half of an odd number is one modulo p."""
        salt, values = tags.parse(protected.tags, halves.shape[0])
        products = tags._products(halves, self.tag_secret, plan)
        inverse = pow(2, -1, tags.P)
        changed = [(value + inverse * product) % tags.P for value, product in zip(values, products, strict=True)]
        return Protected(protected.chunks, salt + np.array(changed, dtype="<u8").tobytes())


class LyingScheme(OneKey):
    """`PackedCkks` whose members lie."""

    def __init__(self, protect: Any = None, answer: Any = None) -> None:
        self._protect, self._answer = protect, answer

    def join(self, secret: bytes) -> Any:
        return LyingKeys(secret, self._protect, self._answer)


def protecting(function: Callable[[LyingKeys, Fields, Packing, str, str], Protected]) -> dict[str, Any]:
    """Changes of a seat that protects its update by `function`."""
    return {"scheme": lambda: LyingScheme(protect=function)}


def answering(function: Callable[[str], bool | None]) -> dict[str, Any]:
    """Changes of a seat that answers about silos as told; None is the truth."""
    return {"scheme": lambda: LyingScheme(answer=function)}


def another_update(keys: LyingKeys, fields: Fields, packing: Packing, plan: str, silo: str) -> Protected:
    """Encrypts and tags one update, sketches another."""
    return keys.real.protect(-fields, packing, plan=plan, silo=silo)


def false_tag(keys: LyingKeys, fields: Fields, packing: Packing, plan: str, silo: str) -> Protected:
    made = keys.real.protect(fields, packing, plan=plan, silo=silo)
    return Protected(made.chunks, made.tags[:-8] + (int.from_bytes(made.tags[-8:], "little") ^ 1).to_bytes(8, "little"))


def tags_of_another_plan(keys: LyingKeys, fields: Fields, packing: Packing, plan: str, silo: str) -> Protected:
    return keys.real.protect(fields, packing, plan="ab" * 32, silo=silo)


def tags_of_another_silo(keys: LyingKeys, fields: Fields, packing: Packing, plan: str, silo: str) -> Protected:
    return keys.real.protect(fields, packing, plan=plan, silo="somebody")


def half_integer(keys: LyingKeys, fields: Fields, packing: Packing, plan: str, silo: str) -> Protected:
    """One chunk holds a half, and its tag carries it."""
    slots = pack(fields).astype(np.float64)
    slots[0, 0] += 0.5
    halves = np.zeros_like(fields)
    halves[0, 0] = 1
    return keys.halve(keys.encrypt(slots, fields, plan, silo), halves, plan)


def two_halves(keys: LyingKeys, fields: Fields, packing: Packing, plan: str, silo: str) -> Protected:
    """Two halves in the same column of two chunks: whole in every fold that takes both; the sketch is of neither."""
    slots = pack(fields).astype(np.float64)
    slots[0, 0] += 0.5
    slots[1, 0] -= 0.5
    halves = np.zeros_like(fields)
    halves[0, 0], halves[1, 0] = 1, -1
    return keys.halve(keys.encrypt(slots, fields, plan, silo), halves, plan)


def halves_hidden(history: History) -> bool:
    """Whether every fold of the trace took both halves of `two_halves` or neither: one trace in 2^rows."""
    taken = history.trace_rows != 0
    return bool((taken[:, 0] == taken[:, 1]).all())


def opposite_chunks(keys: LyingKeys, fields: Fields, packing: Packing, plan: str, silo: str) -> Protected:
    """What is added to one chunk is taken from another: invisible to a fold that gives both the same sign."""
    moved = fields.copy()
    moved[0, 0] += 50
    moved[1, 0] -= 50
    return keys.encrypt(pack(moved).astype(np.float64), moved, plan, silo)


def another_key(keys: LyingKeys, fields: Fields, packing: Packing, plan: str, silo: str) -> Protected:
    foreign = SiloSum(deal("simulated", 1)).protect(fields, packing, plan=plan, silo=silo)
    return Protected(foreign.chunks, keys.real.protect(fields, packing, plan=plan, silo=silo).tags)


def exaggerating(place: int, amount: int) -> dict[str, Any]:
    """A seat that encrypts, tags *and* sketches one coordinate far out of range."""

    class Values(LyingScheme):
        def join(self, secret: bytes) -> Any:
            return LyingKeys(secret, big)

    def big(keys: LyingKeys, fields: Fields, packing: Packing, plan: str, silo: str) -> Protected:
        moved = fields.reshape(-1).copy()
        moved[packing.places[place]] = amount
        rows = moved.reshape(fields.shape)
        return keys.encrypt(pack(rows).astype(np.float64), rows, plan, silo)

    return {"scheme": Values}


class ReplayingScheme(LyingScheme):
    """Sends in every round what it made in the first."""

    def __init__(self) -> None:
        self._kept: list[Protected] = []
        super().__init__(protect=self._again)

    def _again(self, keys: LyingKeys, fields: Fields, packing: Packing, plan: str, silo: str) -> Protected:
        made = keys.real.protect(fields, packing, plan=plan, silo=silo)
        self._kept.append(Protected(list(made.chunks), made.tags))
        return self._kept[0]


def trainer_that_gives(update: Callable[[NDArray[np.float64]], Any]) -> dict[str, Any]:
    """A seat whose trainer's update is changed by `update`."""

    def make(task: Any, records: Any, entropy: Any) -> Any:
        real = trainer_for(task, records, entropy)

        class Changed:
            embed, evaluate = real.embed, real.evaluate

            def train(self, *arguments: Any) -> Any:
                return update(real.train(*arguments))

        return Changed()

    return {"trainer": make}


class RefusingScheme(OneKey):
    """Finds fault with every sum."""

    def join(self, secret: bytes) -> Any:
        keys = LyingKeys(secret)

        def refuse(*arguments: Any, **rest: Any) -> None:
            raise CheckFailed("tags")

        vars(keys)["open_sum"] = refuse
        return keys
