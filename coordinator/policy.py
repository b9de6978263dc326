"""The federation's policy from a TOML file in people's units, or the default one.

Every entry may be left out. Decimals are taken as written; one with more than six is refused, so that nothing is
rounded on the way into genesis.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from coordinator.errors import BadPolicy
from protos.codec import decode, encode
from protos.errors import MalformedMessage
from protos.task import MICRO, Deadlines, Policy

_INTEGERS = {"quorum_minimum": 3, "privacy_minimum": 3, "total_weight": 1024}
_SCALED = {"floor": 500_000, "cap": 2 * MICRO, "fdr": 10_000}
_DEADLINES_S = {"commit_s": 600, "open_s": 120, "check_s": 120, "verify_s": 300}
DEFAULT_DEFENSE = "guard"


def read_policy(path: Path | None) -> Policy:
    """The policy in the file at `path`, the default one for None.

    Raises:
        BadPolicy: names the entry that is unknown, of a wrong type or out of range.
    """
    if path is None:
        return policy_from({})
    try:
        return policy_from(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise BadPolicy(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadPolicy(f"{path} is no TOML: {error}") from error


def policy_from(entries: Mapping[str, Any]) -> Policy:
    """The policy of parsed entries: `quorum_minimum`, `privacy_minimum`, `total_weight`, `floor`, `cap`, `fdr`,
    `defense`, and a table `deadlines` with `commit_s`, `open_s`, `check_s`, `verify_s` in seconds."""
    known = {*_INTEGERS, *_SCALED, "defense", "deadlines"}
    deadlines = entries.get("deadlines", {})
    if not isinstance(deadlines, Mapping):
        raise BadPolicy("policy: deadlines must be a table")
    for name in [*(set(entries) - known), *(f"deadlines.{key}" for key in set(deadlines) - set(_DEADLINES_S))]:
        raise BadPolicy(f"policy: remove the unknown {name}")
    integers = {name: entries.get(name, default) for name, default in _INTEGERS.items()}
    scaled = {f"{name}_micro": _scaled(entries, name, MICRO, default) for name, default in _SCALED.items()}
    times = {
        name.replace("_s", "_ms"): _scaled(deadlines, name, 1000, default * 1000)
        for name, default in _DEADLINES_S.items()
    }
    defense = entries.get("defense", DEFAULT_DEFENSE)
    return _checked(Policy(**integers, **scaled, defense=defense, deadlines=Deadlines(**times)))


def _scaled(entries: Mapping[str, Any], name: str, scale: int, default: int) -> int:
    if name not in entries:
        return default
    value = entries[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadPolicy(f"policy: {name} must be a number")
    scaled = Decimal(str(value)) * scale
    if not scaled.is_finite() or scaled != int(scaled):
        raise BadPolicy(f"policy: {name} is finer than 1/{scale}: use fewer decimals")
    return int(scaled)


def _checked(policy: Policy) -> Policy:
    from defenses import registry
    from defenses.errors import UnknownDefense

    try:
        checked = decode(Policy, encode(policy))
        registry.get(checked.defense)
    except (MalformedMessage, UnknownDefense) as error:
        raise BadPolicy(f"policy: {error}") from error
    return checked
