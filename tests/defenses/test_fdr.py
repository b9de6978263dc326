from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from defenses.fdr import discoveries, threshold


def naive(p_values: dict[str, float], level: float) -> frozenset[str]:
    """Benjamini and Hochberg, as printed: the largest k with p_(k) <= k q / m, and all up to it."""
    ranked = sorted(p_values.values())
    best = max((k for k, p in enumerate(ranked, 1) if p <= k * level / len(ranked)), default=0)
    return frozenset(silo for silo, p in p_values.items() if best and p <= ranked[best - 1])


@given(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.integers(0, 15_000_000), max_size=20),
    st.integers(1, 6),
    st.sampled_from([1_000, 10_000, 50_000]),
)
def test_equals_a_naive_implementation(evidence: dict[str, int], tests: int, fdr_micro: int) -> None:
    p_values = {silo: 10 ** (-value / 1e6) * tests for silo, value in evidence.items()}
    assert discoveries(evidence, tests, fdr_micro) == naive(p_values, fdr_micro / 1e6)


def test_threshold_is_rounded_towards_not_excluding() -> None:
    assert threshold(1, 6, 6, 10_000) == math.ceil(1e6 * math.log10(3600))
    assert threshold(6, 6, 1, 10_000) == 2_000_000


def test_nobody_is_excluded_without_evidence() -> None:
    assert discoveries({"a": 0, "b": 0}, 6, 10_000) == frozenset()
    assert discoveries({}, 1, 10_000) == frozenset()
