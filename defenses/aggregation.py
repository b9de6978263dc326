"""Aggregation rules, which change or mix single updates and so need them in plaintext: for the simulator only.

`aggregate(updates float64[n, d], weights float64[n], liars, rng) -> float64[d]`. Weights are positive and of any sum;
equal weights give the papers' rules, and where a paper has none they enter as each docstring says. Distances and
medians never depend on them: a weight is a claim. A policy that names one of these rules is refused
(`defenses.registry.get`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from defenses import mixing, robust
from defenses.errors import DefenseError, TooFewSilos, UnknownDefense
from defenses.sketches import Floats

Aggregate: TypeAlias = Callable[[Floats, Floats, int, np.random.Generator], Floats]


@dataclass(frozen=True)
class AggregationRule:
    """An aggregation rule with what its paper promises; the contract suite holds it to that.

    Attributes:
        name: as in a scenario; no weighting rule has the same.
        aggregate: called as `aggregate(updates, weights, liars, rng)`.
        paper: where it is from.
        fewest: `(a, b)`, the rule needs at least `a * liars + b` silos.
        box: every coordinate lies between the least and the greatest of the updates.
        hull: the result is a convex combination of the updates.
        translates: moving all updates moves the result alike.
    """

    name: str
    aggregate: Aggregate
    paper: str
    fewest: tuple[int, int]
    box: bool = False
    hull: bool = False
    translates: bool = False

    def __call__(self, updates: Floats, weights: Floats, liars: int, rng: np.random.Generator) -> Floats:
        """The aggregate after a check of the arguments.

        Raises:
            DefenseError: for shapes that do not fit, weights that are not positive, or numbers that are not finite.
            TooFewSilos: where `liars` are too many for the rule.
        """
        verify_arguments(updates, weights, liars)
        factor, rest = self.fewest
        if len(updates) < factor * liars + rest:
            raise TooFewSilos(
                f"{self.name} needs at least {factor * liars + rest} silos against {liars} liars, not {len(updates)}"
            )
        return self.aggregate(updates, weights, liars, rng)


_RULES: dict[str, AggregationRule] = {}


def register(rule: AggregationRule) -> None:
    """Make an aggregation rule known by its name.

    Raises:
        DefenseError: where the name is taken.
    """
    if rule.name in _RULES:
        raise DefenseError(f"an aggregation rule named {rule.name!r} is registered already; choose another name")
    _RULES[rule.name] = rule


def get(name: str) -> AggregationRule:
    """The aggregation rule of that name.

    Raises:
        UnknownDefense: names those that there are.
    """
    try:
        return _RULES[name]
    except KeyError:
        raise UnknownDefense(f"no aggregation rule is named {name!r}; choose one of {', '.join(names())}") from None


def names() -> tuple[str, ...]:
    """Names of all aggregation rules, sorted."""
    return tuple(sorted(_RULES))


def verify_arguments(updates: Floats, weights: Floats, liars: int) -> None:
    """Raises DefenseError for shapes, weights, numbers or a bound on liars that no rule can use."""
    if updates.ndim != 2 or not len(updates) or weights.shape != (len(updates),):
        raise DefenseError(f"updates {updates.shape} and weights {weights.shape} do not fit; give [n, d] and [n]")
    if not (np.isfinite(updates).all() and np.isfinite(weights).all() and (weights > 0).all()):
        raise DefenseError("updates and weights must be finite and weights positive; leave such a silo out first")
    if liars < 0:
        raise DefenseError(f"the number of liars is at least 0, not {liars}")


for _rule in (
    AggregationRule(
        "median", lambda x, w, f, rng: robust.median(x), "Yin et al. 2018", (2, 1), box=True, translates=True
    ),
    AggregationRule(
        "trimmed-mean",
        lambda x, w, f, rng: robust.trimmed_mean(x, w, f),
        "Yin et al. 2018",
        (2, 1),
        box=True,
        translates=True,
    ),
    AggregationRule(
        "centered-clipping", lambda x, w, f, rng: robust.centered_clipping(x, w), "Karimireddy et al. 2021", (2, 1)
    ),
    AggregationRule(
        "fedpd",
        lambda x, w, f, rng: robust.cosine_prototypes(x, w),
        "Tan et al. 2025, in its style",
        (2, 1),
        box=True,
        hull=True,
    ),
    AggregationRule(
        "bulyan", lambda x, w, f, rng: mixing.bulyan(x, f), "El Mhamdi et al. 2018", (4, 3), box=True, translates=True
    ),
    AggregationRule(
        "nnm",
        lambda x, w, f, rng: mixing.mixed_trimmed_mean(x, f),
        "Allouah et al. 2023",
        (2, 1),
        box=True,
        translates=True,
    ),
    AggregationRule(
        "arc",
        lambda x, w, f, rng: mixing.mixed_trimmed_mean(mixing.clip_adaptively(x, f), f),
        "Allouah et al. 2025",
        (2, 1),
    ),
    AggregationRule("flame", lambda x, w, f, rng: mixing.flame(x, w, rng), "Nguyen et al. 2022", (2, 1)),
):
    register(_rule)
