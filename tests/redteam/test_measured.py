"""Metrics of a run against rows made by hand."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from redteam.measured import Row, SiloRow, skews


def silo(name: str, records: int, skew: float, accuracy: float, **changes: Any) -> SiloRow:
    usual = {"attacks": False, "count": 0, "weights": (), "excluded": (), "suspected": (), "convicted": None}
    return SiloRow(**{**usual, **changes}, name=name, records=records, skew=skew, accuracy=accuracy, effective=0.2)


def row(*silos: SiloRow) -> Row:
    scenario = {"training": {"rounds": 4}}
    return Row(scenario, 0.9, None, (0.9,), (), silos, rounds=4, void=0, seconds=1.0, carried=0)


CAST = (
    silo("s000", 90, 0.1, 0.8, excluded=(2,)),
    silo("s001", 50, 0.7, 0.9, convicted=3),
    silo("s002", 20, 0.2, 0.7, suspected=(1, 2, 4)),
    silo("s003", 40, 0.3, 0.5, suspected=(1,), excluded=(2, 3, 4)),
    silo("eve", 900, 0.9, 0.1, attacks=True, convicted=1, excluded=(1, 2, 3, 4)),
)


def test_each_kind_of_silo_has_its_own_rates_and_attackers_are_none_of_them() -> None:
    found = row(*CAST).metrics
    wanted = {
        "largest": (0.0, 0.25, 0.0),
        "smallest": (0.0, 0.0, 0.75),
        "most_skewed": (1.0, 0.0, 0.0),
        "worst": (0.0, 0.75, 0.25),
    }
    for kind, rates in wanted.items():
        assert tuple(found[f"{what}_{kind}"] for what in ("convicted", "excluded", "suspected")) == rates
    assert found["honest_convicted"] == 0.25
    assert found["honest_suspected"] == 0.25
    assert found["worst_silo"] == 0.5
    assert found["gap"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("released", "found"),
    [
        (None, {}),
        (0, {"released": 0.0}),
        (2, {"released": 1.0, "released_round": 2, "released_accuracy": 0.8, "released_success": 0.1}),
    ],
)
def test_what_is_released_is_measured_after_its_own_round(released: int | None, found: dict[str, float]) -> None:
    changed = {"accuracies": (0.7, 0.8, 0.9), "successes": (0.0, 0.1, 0.4), "success": 0.4, "released": released}
    metrics = replace(row(*CAST), **changed).metrics
    assert {name: value for name, value in metrics.items() if name.startswith("released")} == found


def test_a_silo_of_one_class_is_as_skewed_as_the_pool_allows() -> None:
    """Pool of 4, 2, 2: one silo has the first class only, the other 0, 2, 2; by hand 1/2 and 1/2."""
    found = skews({"a": np.array([0, 0, 0, 0]), "b": np.array([1, 2, 1, 2])}, 3)
    assert found == {"a": 0.5, "b": 0.5}
    assert skews({"a": np.array([0, 1]), "b": np.array([1, 0, 0, 1])}, 2) == {"a": 0.0, "b": 0.0}


@given(st.lists(arrays.arrays(np.int64, st.integers(1, 20), elements=st.integers(0, 4)), min_size=1, max_size=5))
def test_skew_is_the_greatest_difference_that_any_set_of_classes_shows(parts: list[Any]) -> None:
    """The other definition of total variation: the supremum over events."""
    pool = np.concatenate(parts)
    found = skews({str(number): part for number, part in enumerate(parts)}, 5)
    for number, part in enumerate(parts):
        events = [[label for label in range(5) if mask >> label & 1] for mask in range(32)]
        gaps = [np.isin(part, event).mean() - np.isin(pool, event).mean() for event in events]
        assert found[str(number)] == pytest.approx(max(gaps), abs=1e-12)


def test_what_is_written_holds_what_pooled_rates_are_counted_from() -> None:
    written = row(*CAST).to_json()["silos"]
    assert written[1] == asdict(CAST[1])
    assert {"name", "attacks", "convicted"} <= set(written[0])
