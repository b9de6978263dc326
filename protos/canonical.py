"""Canonical JSON (RFC 8785) and digests: the one form that is signed, sent and logged.

Numbers are integers within ±(2^53 - 1); fractions are scaled integers (names end in `_micro`, `_nano`, `_ms`).
Floats are refused in both directions, because their text form is where implementations disagree.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, TypeAlias

import rfc8785

from protos.errors import MalformedMessage

JsonValue: TypeAlias = Any
"""None, bool, int, str, list or dict with string keys, nested."""

MAX_INTEGER = 2**53 - 1


def dumps(value: JsonValue) -> bytes:
    """Canonical bytes of `value`.

    Raises:
        MalformedMessage: if it holds a float, an integer beyond ±(2^53 - 1) or something that is not JSON.
    """
    try:
        _refuse_floats(value)
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, TypeError, UnicodeError, RecursionError) as error:
        raise MalformedMessage(f"not canonical JSON: {error}") from error


def loads(data: bytes) -> JsonValue:
    """Parse canonical bytes; anything that `dumps` would not have written byte for byte is refused.

    Raises:
        MalformedMessage: for bytes that are not JSON or not canonical.
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_float=_refuse_number, parse_constant=_refuse_number)
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(f"not canonical JSON: {error}") from error
    if dumps(value) != data:
        raise MalformedMessage("not canonical JSON: other bytes would be written for the same value")
    return value


def digest(data: bytes | memoryview) -> str:
    """SHA-256 of `data` in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def _refuse_number(text: str) -> None:
    raise MalformedMessage(f"not canonical JSON: {text[:20]} is not an integer")


def _refuse_floats(value: JsonValue) -> None:
    if isinstance(value, float):
        raise MalformedMessage(f"not canonical JSON: {value} is a float, scale it to an integer")
    if isinstance(value, dict):
        for item in value.values():
            _refuse_floats(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_floats(item)
