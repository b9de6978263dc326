"""Benjamini-Hochberg on recorded evidence, in decimal arithmetic that is the same on every machine.

The procedure of Benjamini and Hochberg (1995, theorem 1) holds for null p-values that are independent of each other
and of the others. That is so here: given the challenge's signs, an honest silo's p-value depends on its own noise
and batches only (a signal enters as its worst case), and nobody saw another's noise before all had committed.
The correction for arbitrary dependence (Benjamini and Yekutieli 2001) would cost a factor of ln m for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, Context, Decimal

from protos.task import MICRO

_DECIMAL = Context(prec=40)
_WHOLE = Context(prec=40, rounding=ROUND_CEILING)


def discoveries(evidence_micro: Mapping[str, int], tests: int, fdr_micro: int) -> frozenset[str]:
    """Silos to exclude at false discovery rate `fdr_micro`.

    Args:
        evidence_micro: per silo the greatest evidence `-log10 p` of its `tests` tests, scaled, rounded down.
        tests: how many tests each silo underwent; its p-value is the least of them times `tests` (Bonferroni).
        fdr_micro: the level, scaled.
    """
    silos = len(evidence_micro)
    # No rank asks for less than the last one, so whoever does not reach that passes at none.
    lowest = threshold(silos, silos, tests, fdr_micro) if silos else 0
    ranked = sorted((value for value in evidence_micro.values() if value >= lowest), reverse=True)
    ranks = range(len(ranked), 0, -1)
    passing = next((rank for rank in ranks if ranked[rank - 1] >= threshold(rank, silos, tests, fdr_micro)), None)
    if passing is None:
        return frozenset()
    least = ranked[passing - 1]
    return frozenset(silo for silo, value in evidence_micro.items() if value >= least)


def threshold(rank: int, silos: int, tests: int, fdr_micro: int) -> int:
    """Least scaled evidence at which `p * tests <= rank * fdr / silos`, rounded up (towards not excluding)."""
    level = _DECIMAL.divide(Decimal(rank * fdr_micro), Decimal(silos * tests * MICRO))
    scaled = _DECIMAL.multiply(_DECIMAL.log10(level), Decimal(-MICRO))
    return int(_WHOLE.to_integral_value(scaled))
