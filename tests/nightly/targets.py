"""Every parser of bytes that come from a peer, as a function that may raise nothing but our own errors."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np

from audit.errors import AuditError
from audit.history import History
from audit.log import verify_head_signature
from crypto import quantise, ring, sealing, sketch, tags
from crypto.errors import BadCiphertext, CheckFailed, KeyMismatch, OutOfRange, SealBroken
from crypto.identity import ExchangeKey
from crypto.packing import Packing
from crypto.secure_sum import SiloSum
from protos import canonical, messages, records, task
from protos.codec import decode, encode, pack, unpack
from protos.errors import MalformedMessage
from protos.invitation import Invitation, read_token
from protos.records import SignedHead
from protos.task import Layout
from silo.runner import parse_roster

LAYOUT = Layout((), 100, 40, 20, embedding=4, classes=2, permutation="5c" * 32)
FOLDS, CHUNKS = 2, 17
LOG_KEY = "3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29"


def classes() -> list[type[Any]]:
    """Every dataclass of messages and records, and what genesis is made of; sorted, so that a byte names one."""
    found: set[type[Any]] = {Invitation}
    for module in (messages, records, task):
        found |= {cls for cls in vars(module).values() if isinstance(cls, type) and dataclasses.is_dataclass(cls)}
    return sorted((cls for cls in found if cls.__module__.startswith("protos.") and _is_message(cls)), key=_name)


def _is_message(cls: type[Any]) -> bool:
    return cls.__name__ not in ("Between", "Matching")


def _name(cls: type[Any]) -> str:
    return cls.__name__


def read_canonical(data: bytes) -> None:
    try:
        value = canonical.loads(data)
    except MalformedMessage:
        return
    assert canonical.dumps(value) == data


def read_message(data: bytes) -> None:
    """The first byte names the class; the rest is canonical, or any JSON, so that mutations get past the form."""
    every = classes()
    cls, rest = every[(data[0] if data else 0) % len(every)], data[1:]
    try:
        message = unpack(cls, rest)
    except MalformedMessage:
        try:
            message = decode(cls, json.loads(rest))
        except (ValueError, RecursionError, MalformedMessage):
            return
    try:
        again = pack(message)
    except MalformedMessage:
        return
    assert encode(unpack(cls, again)) == encode(message)


def read_record(data: bytes) -> None:
    """As the first record of a log."""
    history = History()
    try:
        history.apply(data)
    except AuditError:
        assert history.chain.size == 0


def read_chunk(data: bytes) -> None:
    for whole in (data, (data * (ring.CHUNK_BYTES // max(1, len(data)) + 1))[: ring.CHUNK_BYTES]):
        try:
            words = ring.parse_chunk(whole)
        except BadCiphertext:
            continue
        assert ring.to_bytes(words) == whole
    fresh = (data * (ring.FRESH_BYTES // max(1, len(data)) + 1))[: ring.FRESH_BYTES]
    try:
        words = ring.parse_fresh(fresh)
    except BadCiphertext:
        return
    assert words.shape == (ring.WORDS,)
    assert bool((words < np.uint64(ring.Q)).all())


@cache
def _packing() -> Packing:
    return Packing.of(LAYOUT, FOLDS)


def read_sketch(data: bytes) -> None:
    middle = 4 * FOLDS * _packing().width
    try:
        parts = sketch.from_bytes(data[:middle], data[middle:], _packing(), FOLDS)
    except CheckFailed:
        return
    assert sketch.to_bytes(*parts) == (data[:middle], data[middle:])


def read_tags(data: bytes) -> None:
    try:
        salt, values = tags.parse(data, CHUNKS)
    except CheckFailed:
        return
    assert len(salt) == tags.SALT_BYTES
    assert all(0 <= value < tags.P for value in values)


def read_invitation(data: bytes) -> None:
    with suppress(MalformedMessage):
        read_token(data.decode("latin-1"))


def read_head(data: bytes) -> None:
    with suppress(MalformedMessage, AuditError):
        verify_head_signature(unpack(SignedHead, data), LOG_KEY)


def read_roster(data: bytes) -> None:
    with suppress(ValueError):
        approved = parse_roster(data)
        assert all(len(mark) == 64 for mark in approved.values())


def read_model(data: bytes) -> None:
    for size in (len(data) // 4, 5):
        try:
            model = quantise.model_from_bytes(data, size)
        except OutOfRange:
            continue
        assert quantise.model_bytes(model) == data


def read_secret(data: bytes) -> None:
    with suppress(KeyMismatch):
        SiloSum(data)


@cache
def _exchange() -> ExchangeKey:
    return ExchangeKey.generate()


def read_sealed(data: bytes) -> None:
    with suppress(SealBroken):
        sealing.unseal(data, _exchange(), federation="simulated", epoch=1, silo="ada")
    with suppress(SealBroken):
        sealing.unseal_model(data, b"s" * 32, round=1, digest=canonical.digest(b"model"))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "canonical": read_canonical, "message": read_message, "record": read_record, "chunk": read_chunk,
    "sketch": read_sketch, "tags": read_tags, "invitation": read_invitation, "head": read_head, "roster": read_roster,
    "model": read_model, "secret": read_secret, "sealed": read_sealed,
}  # fmt: skip
