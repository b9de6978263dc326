"""The benchmark measures a search that finds something, and says what a silo's whole round costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.searches import MAX_ATTRIBUTED
from redteam import datasets
from tools.bench_search import NEW_ROUNDS, measured


@pytest.mark.torch
@pytest.mark.data
def test_a_whole_search_is_its_parts(data_directory: Path) -> None:
    row = measured("linear", datasets.mnist(data_directory), 1)
    assert (row.model, row.parameters) == ("linear", 7850)
    assert min(row.clean, row.backdoored, row.directions) > 0
    parts = max(row.clean, row.backdoored) + 2 * MAX_ATTRIBUTED * row.measure + NEW_ROUNDS * row.directions
    assert row.whole == pytest.approx(parts, abs=0.01)
