"""Aggregation rules (`defenses.aggregation`) in simulations without encryption, where single updates can be seen.

A round is that of production under the rule `plain`, with its sum and every check of it. What silos then apply is not
the sum but what the rule makes of the single updates. The log shows nothing of this, and nothing in production does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audit.history import RoundView
from defenses import aggregation
from redteam.entropy import stream
from redteam.errors import BadScenario
from silo.session import Session

PROTOTYPES_ONLY = "fedpd"
"""It combines prototypes, in the mode `personal`."""


def names() -> tuple[str, ...]:
    """Rules that a scenario may name as its defence, sorted."""
    return tuple(name for name in aggregation.names() if name != PROTOTYPES_ONLY)


def rule_for(name: str, silos: int, liars: int, seed: int) -> Aggregated | None:
    """What applies the rule of that name against `liars`, which the papers take as known; None for any other defence.

    Raises:
        BadScenario: the rule needs more silos against so many.
    """
    if name not in names():
        return None
    rule = aggregation.get(name)
    factor, rest = rule.fewest
    if silos < factor * liars + rest:
        raise BadScenario(
            f"scenario: {name} needs at least {factor * liars + rest} silos against {liars} attackers, and there are "
            f"{silos}: lower attack.share"
        )
    return Aggregated(rule, liars, seed)


class Aggregated:
    """What silos apply under an aggregation rule, made once a round for all of them."""

    def __init__(self, rule: aggregation.AggregationRule, liars: int, seed: int) -> None:
        self._rule, self._liars, self._seed = rule, liars, seed
        self._plan, self._made = "", np.zeros(0)

    def of(self, sessions: Mapping[str, Session], view: RoundView) -> NDArray[Any]:
        """The aggregate of the updates in the silos' workspaces times the total weight, float64[d] in steps."""
        if self._plan != view.plan_digest:
            weights = view.weights
            updates = np.stack([_update(sessions[silo], view.plan.round) for silo in weights]).astype(np.float64)
            shares = np.array(list(weights.values()), dtype=np.float64)
            random = stream(self._seed, f"aggregation of round {view.plan.round}")
            self._made = self._rule(updates, shares, self._liars, random) * shares.sum()
            self._plan = view.plan_digest
        return self._made


def _update(session: Session, number: int) -> NDArray[np.int8]:
    update = session.workspace.load_update(number)
    if update is None:
        raise RuntimeError(f"a silo keeps no update of round {number}")
    return update.values
