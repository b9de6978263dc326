"""Baselines to compare with: norm-bounded weights. Plain averaging is `defenses.rule.Plain`."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from defenses.evidence import Scored
from defenses.rule import Plain


class NormBounded(Plain):
    """Weights by noised count, times `min(1, median norm / own norm)` (Sun et al. 2019, by weight, not by value).

    Bounding by weight is what a rule can do to an update that it may not read.
    """

    name = "norm-bounded"

    def base_weights(self, scored: Sequence[Scored]) -> dict[str, Fraction]:
        """Counts, those of long updates scaled down."""
        norms = {one.silo: max(1, one.value("norm") or 0) for one in scored}
        ranked = sorted(norms.values())
        median = Fraction(ranked[(len(ranked) - 1) // 2] + ranked[len(ranked) // 2], 2) if ranked else Fraction(1)
        return {one.silo: one.count * min(Fraction(1), median / norms[one.silo]) for one in scored}
