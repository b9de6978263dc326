"""Frozen dataclasses to canonical JSON and back, strictly.

A message class may name its KIND; the kind then stands in the bytes, so that no signed message can be taken for
another one. Decoding refuses missing and unknown fields, wrong types and values out of their annotated range.

Field types: `int`, `str`, `bool`, `bytes` (base64 text), `JsonObject`, `X | None`, `tuple[X, ...]`, other message
classes, and `Annotated` forms of `int` (`Between`) and `str` (`Matching`).

A field that a class got after messages of it were signed has `LATER` as metadata and a default that means what was done
before. With its default it does not stand in the bytes, and may not: old bytes stay valid, digests stay what they were,
and every message has one form.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
import types
import typing
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, TypeAlias, TypeVar

from protos import canonical
from protos.errors import MalformedMessage

T = TypeVar("T")
LATER = {"later": True}
JsonObject: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Between:
    """Inclusive range of an integer field."""

    low: int
    high: int


@dataclass(frozen=True)
class Matching:
    """Regular expression that a whole text field must match."""

    pattern: str


Natural: TypeAlias = Annotated[int, Between(0, canonical.MAX_INTEGER)]
Positive: TypeAlias = Annotated[int, Between(1, canonical.MAX_INTEGER)]
Digest: TypeAlias = Annotated[str, Matching(r"[0-9a-f]{64}")]
"""A SHA-256 digest, or a 32-byte public key, in hex."""
Signature: TypeAlias = Annotated[str, Matching(r"[0-9a-f]{128}")]
Name: TypeAlias = Annotated[str, Matching(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")]
Text: TypeAlias = Annotated[str, Matching(r"[^\x00-\x1f]{0,400}")]


def encode(message: Any) -> JsonObject:
    """The JSON object of a message."""
    cls = type(message)
    later: dict[str, Any] = _later(cls)  # type: ignore[arg-type]
    values = {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}
    said = {name: value for name, value in values.items() if name not in later or value != later[name]}
    value = {name: _encode(item) for name, item in said.items()}
    kind = getattr(cls, "KIND", None)
    return value if kind is None else value | {"kind": kind}


def decode(cls: type[T], value: Any) -> T:
    """The message of class `cls` in a JSON object.

    Raises:
        MalformedMessage: names the field and what is wrong with it.
    """
    if not isinstance(value, dict):
        raise MalformedMessage(f"{cls.__name__}: an object is needed, not {type(value).__name__}")
    later: dict[str, Any] = _later(cls)  # type: ignore[arg-type]
    hints: dict[str, Any] = _fields(cls)  # type: ignore[arg-type]
    fields = {name: hint for name, hint in hints.items() if name in value or name not in later}
    kind = getattr(cls, "KIND", None)
    expected = set(fields) | ({"kind"} if kind is not None else set())
    if set(value) != expected:
        wrong = ", ".join(sorted(set(value) ^ expected))[:200]
        raise MalformedMessage(f"{cls.__name__}: missing or unknown fields: {wrong}")
    if kind is not None and value["kind"] != kind:
        raise MalformedMessage(f"{cls.__name__}: kind is {str(value['kind'])[:60]!r}, not {kind!r}")
    arguments = {name: _decode(hint, value[name], f"{cls.__name__}.{name}") for name, hint in fields.items()}
    for name in later.keys() & arguments.keys():
        if arguments[name] == later[name]:
            raise MalformedMessage(f"{cls.__name__}.{name}: must be left out where it is {later[name]}")
    return cls(**arguments)


def pack(message: Any) -> bytes:
    """Canonical bytes of a message: what is signed, sent and stored."""
    return canonical.dumps(encode(message))


def unpack(cls: type[T], data: bytes) -> T:
    """Inverse of `pack`; raises MalformedMessage for anything else."""
    return decode(cls, canonical.loads(data))


def digest_of(message: Any) -> str:
    """SHA-256 of the canonical bytes of a message."""
    return canonical.digest(pack(message))


@cache
def _later(cls: type[Any]) -> dict[str, Any]:
    """Names and defaults of the fields that older messages have not."""
    return {field.name: field.default for field in dataclasses.fields(cls) if field.metadata.get("later")}


@cache
def _fields(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _encode(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    if dataclasses.is_dataclass(value):
        return encode(value)
    return value


def _decode(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is Annotated:
        base, *rules = typing.get_args(hint)
        decoded = _decode(base, value, where)
        for rule in rules:
            _check(rule, decoded, where)
        return decoded
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _decode(_without_none(hint), value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise MalformedMessage(f"{where}: a list is needed")
        item = typing.get_args(hint)[0]
        return tuple(_decode(item, element, where) for element in value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return decode(hint, value)
    return _decode_plain(hint, value, where)


def _decode_plain(hint: Any, value: Any, where: str) -> Any:
    if hint is bytes:
        try:
            decoded = base64.b64decode(value, validate=True)
        except (TypeError, ValueError, binascii.Error) as error:
            raise MalformedMessage(f"{where}: base64 text is needed") from error
        if _encode(decoded) != value:
            raise MalformedMessage(f"{where}: not the one base64 text of its bytes")
        return decoded
    wanted = dict if typing.get_origin(hint) is dict else hint
    if type(value) is not wanted:
        raise MalformedMessage(f"{where}: {wanted.__name__} is needed, not {type(value).__name__}")
    return value


def _without_none(hint: Any) -> Any:
    (inner,) = [argument for argument in typing.get_args(hint) if argument is not type(None)]
    return inner


def _check(rule: Any, value: Any, where: str) -> None:
    if isinstance(rule, Between) and not rule.low <= value <= rule.high:
        raise MalformedMessage(f"{where}: {value} is not within {rule.low} to {rule.high}")
    if isinstance(rule, Matching) and re.fullmatch(rule.pattern, value) is None:
        raise MalformedMessage(f"{where}: {value[:60]!r} has not the form {rule.pattern}")
