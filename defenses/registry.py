"""The defences by name. A new rule is registered here; the engine knows the interface only."""

from __future__ import annotations

from defenses.baselines import NormBounded
from defenses.errors import DefenseError, UnknownDefense
from defenses.guard import Guard
from defenses.rule import Defense, Plain

__all__ = ["Defense", "get", "names", "register"]

_DEFENSES: dict[str, Defense] = {}


def register(defense: Defense) -> None:
    """Make a defence known by its name.

    Raises:
        DefenseError: where the name is taken; a log must mean the same rule everywhere.
    """
    if defense.name in _DEFENSES:
        raise DefenseError(f"a defence named {defense.name!r} is registered already; choose another name")
    _DEFENSES[defense.name] = defense


def get(name: str) -> Defense:
    """The defence of that name.

    Raises:
        UnknownDefense: names those that there are.
    """
    try:
        return _DEFENSES[name]
    except KeyError:
        raise UnknownDefense(f"no defence is named {name!r}; choose one of {', '.join(names())}") from None


def names() -> tuple[str, ...]:
    """Names of all defences, sorted."""
    return tuple(sorted(_DEFENSES))


for _defense in (Guard(), Plain(), NormBounded()):
    register(_defense)
