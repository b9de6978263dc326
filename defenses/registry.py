"""The defences by name. A new rule is registered here; the engine knows the interface only.

A name that a policy may not use is refused with its reason: aggregation rules need plaintext updates, and rules that
read what stands in no log are for whoever has it, and registers them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from defenses.aggregation import names as aggregation_names
from defenses.anomaly import Flab, FlSec
from defenses.baselines import NormBounded
from defenses.errors import DefenseError, NeedsArgument, NeedsPlaintext, UnknownDefense
from defenses.geometric import GeometricMedian, Krum, MultiKrum
from defenses.guard import Guard
from defenses.rule import Defense, Plain
from defenses.similarity import FlameFilter, FoolsGold, PrototypeSimilarity

__all__ = ["Defense", "get", "names", "register", "registered"]

_DEFENSES: dict[str, Defense] = {}

ARGUMENTS = {
    "afl": "noised losses of all rounds (defenses.fairness.Afl)",
    "fltrust": "a root update on public data (defenses.similarity.FlTrust)",
    "monna": "a trusted pivot (defenses.geometric.Monna)",
    "q-fedavg": "noised losses (defenses.fairness.QFedAvg)",
}
"""Rules that read something which is in no log, and what."""


def register(defense: Defense) -> None:
    """Make a defence known by its name.

    Raises:
        DefenseError: where the name is taken; a log must mean the same rule everywhere.
    """
    if defense.name in _DEFENSES:
        raise DefenseError(f"a defence named {defense.name!r} is registered already; choose another name")
    if defense.name in aggregation_names():
        raise DefenseError(f"{defense.name!r} is an aggregation rule; choose another name for the defence")
    _DEFENSES[defense.name] = defense


@contextmanager
def registered(*defenses: Defense) -> Iterator[None]:
    """Defences known within a `with` block only, for simulators and tests; rules with arguments come in this way."""
    before = dict(_DEFENSES)
    try:
        for defense in defenses:
            register(defense)
        yield
    finally:
        _DEFENSES.clear()
        _DEFENSES.update(before)


def get(name: str) -> Defense:
    """The defence of that name.

    Raises:
        UnknownDefense: names those that there are.
        NeedsPlaintext: for an aggregation rule, which needs updates that nobody may read.
        NeedsArgument: for a rule that reads what is in no log, where nobody registered it with that.
    """
    if name in _DEFENSES:
        return _DEFENSES[name]
    if name in aggregation_names():
        raise NeedsPlaintext(
            f"{name} changes or mixes single updates, so it needs them in plaintext and cannot run under encryption; "
            f"choose one of {', '.join(names())}, or run it in the plaintext simulator"
        )
    if name in ARGUMENTS:
        raise NeedsArgument(
            f"{name} reads {ARGUMENTS[name]}, which stands in no log, so nobody could repeat its decisions; "
            f"choose one of {', '.join(names())}, or register it with that in a simulator"
        )
    raise UnknownDefense(f"no defence is named {name!r}; choose one of {', '.join(names())}")


def names() -> tuple[str, ...]:
    """Names of all defences, sorted."""
    return tuple(sorted(_DEFENSES))


for _defense in (
    Guard(),
    Plain(),
    NormBounded(),
    PrototypeSimilarity(),
    Krum(),
    MultiKrum(),
    GeometricMedian(),
    FlameFilter(),
    FoolsGold(),
    FlSec(),
    Flab(),
):
    register(_defense)
