"""Parameters that a scenario sets in the parts of an attack, read by the annotations of the parts' fields.

What a number may be stands there as a `Range` (`redteam.attacks.parts`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from redteam.attacks.parts import ANY, Range
from redteam.errors import BadAttack, BadScenario

Part = TypeVar("Part")


def with_parameters(part: Part, parameters: Mapping[str, Any], key: str, classes: int | None = None) -> Part:
    """A dataclass with some fields replaced, nested ones by a table.

    Args:
        key: of the part in the scenario, for messages.
        classes: of the data; None where they are not read yet, so that any label may be.

    Raises:
        BadScenario: the part has no such parameter; its own are named. Or a value that cannot be; what may be is named.
        BadAttack: values that do not go together.
    """
    known = [one.name for one in fields(part)] if is_dataclass(part) else []
    for name in parameters:
        if name not in known:
            allowed = f"choose from {', '.join(known)}" if known else "this attack has no such part; leave it out"
            raise BadScenario(f"scenario: {key}.{name} is unknown; {allowed}")
    if not parameters:
        return part
    kinds = get_type_hints(type(part), include_extras=True)
    own = {
        name: _value(kinds[name], getattr(part, name), value, f"{key}.{name}", classes)
        for name, value in parameters.items()
    }
    try:
        changed: Part = replace(part, **own)  # type: ignore[type-var]
    except BadAttack as error:
        raise BadAttack(f"scenario: {key}: {error}") from error
    return changed


def _value(kind: Any, old: Any, new: Any, key: str, classes: int | None) -> Any:
    """`new` as the field's annotation has it, or `old` with some fields replaced where it is a part of its own."""
    try:
        if not is_dataclass(old):
            return _read(kind, new, classes)
        if not isinstance(new, Mapping):
            raise _Unfit(f"a table with some of {', '.join(one.name for one in fields(old))}")
    except _Unfit as error:
        raise BadScenario(f"scenario: {key} = {new!r} cannot be: it is {error}") from error
    return with_parameters(old, new, key, classes)


class _Unfit(Exception):
    """Raised for a value that a parameter cannot have; the message is what it may be."""


def _read(kind: Any, value: Any, classes: int | None) -> Any:
    """The value in the type of an annotation; raises _Unfit."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):  # with None, which TOML cannot say
        return _read(next(one for one in inner if one is not NoneType), value, classes)
    if origin in (tuple, frozenset):
        return _list(origin, inner, value, classes)
    if origin is Literal:
        return value if value in inner else _refuse(f"one of {', '.join(inner)}")
    if kind is bool:
        return value if isinstance(value, bool) else _refuse("true or false")
    base, limits = inner if origin is Annotated else (kind, ANY)
    if base not in (int, float) or limits is None:
        _refuse("nothing that a scenario can say; leave it out")
    return _number(base, limits, value, classes)


def _list(origin: Any, inner: tuple[Any, ...], value: Any, classes: int | None) -> Any:
    open_ended = origin is frozenset or inner[-1] is Ellipsis
    length = "one or more" if open_ended else str(len(inner))
    if not isinstance(value, list | tuple) or not value or not (open_ended or len(value) == len(inner)):
        _refuse(f"a list of {length} values")
    kinds = [inner[0]] * len(value) if open_ended else inner
    try:
        return origin(_read(one, item, classes) for one, item in zip(kinds, value, strict=True))
    except _Unfit as error:
        raise _Unfit(f"a list of {length}, of which each is {error}") from error


def _number(base: type[int] | type[float], limits: Range, value: Any, classes: int | None) -> int | float:
    high = limits.high
    if high is None:
        high = math.inf if classes is None else classes - 1
    fits = isinstance(value, int if base is int else int | float) and not isinstance(value, bool)
    if not fits or not limits.low <= value <= high:
        words = "a whole number" if base is int else "a number"
        _refuse(f"{words} from {limits.low:.12g}" + (f" to {high:.12g}" if high < math.inf else " on"))
    return base(value)


def _refuse(allowed: str) -> Any:
    raise _Unfit(allowed)
