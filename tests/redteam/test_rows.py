"""Result rows: intervals over seeds, and the file that they are read from."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from scipy import stats

from redteam.rows import Row, over_seeds, shown, write


def test_the_interval_is_students_over_seeds() -> None:
    values = [1.0, 2.0, 4.0]
    row = over_seeds("A", "some", "accuracy", "", values)
    low, high = stats.t.interval(0.95, 2, loc=7 / 3, scale=stats.sem(values))
    assert (row.measured, row.low, row.high) == pytest.approx((7 / 3, low, high))


def test_a_single_seed_has_no_interval() -> None:
    row = over_seeds("A", "some", "accuracy", "", [3.0])
    assert row.low == row.measured == row.high == 3.0


def test_what_is_written_is_read_again_with_its_header(tmp_path: Path) -> None:
    rows = [Row("E", "a, b", "ASR", "<= 15", 1.0, 0.5, 1.5), Row("I", "c", "PSNR", "", 2.0, 2.0, 2.0)]
    write(rows, tmp_path / "new" / "table.csv")
    with (tmp_path / "new" / "table.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == ["table", "row", "metric", "goal", "measured", "low", "high"]
    found = [(one["row"], one["goal"], float(one["measured"])) for one in read]
    assert found == [("a, b", "<= 15", 1.0), ("c", "", 2.0)]


def test_a_shown_row_says_goal_and_measure() -> None:
    line = shown(Row("E", "guard", "ASR", "<= 15", 12.3456, 10.0, 14.0))
    assert "<= 15" in line
    assert "12.346" in line
