"""The benchmark on few silos: every defence is there, goals stand beside the Guard, rounds are honest."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from defenses import registry
from defenses.decide import decide
from tools.bench_defenses import GOAL_RATIO, REFERENCE, WHOLE, WITH_PAST, Row, a_round, entries, run


def test_every_defence_is_measured_and_written(tmp_path: Path) -> None:
    rows = run((6,), 1, tmp_path / "bench" / "defenses.json", tmp_path / "table.csv")
    assert {row.defense for row in rows} == {*registry.names(), WHOLE, WITH_PAST}
    assert all(row.seconds > 0 and row.megabytes > 0 for row in rows if not row.note)
    by_name = {row.defense: row for row in rows}
    assert by_name[REFERENCE].to_filter == by_name[WHOLE].to_flame == 1
    assert by_name["guard"].to_flame == pytest.approx(by_name["guard"].seconds / by_name[WHOLE].seconds, rel=0.05)
    written = json.loads((tmp_path / "bench" / "defenses.json").read_text())
    assert {tuple(entry) for entry in written} == {("table", "row", "metric", "goal", "measured", "low", "high")}
    with (tmp_path / "table.csv").open() as file:
        assert [line["defense"] for line in csv.DictReader(file)] == [row.defense for row in rows]


def test_goals_stand_beside_the_guard_alone() -> None:
    found = entries([Row(name, 100, 0.1, 0.2, 1.0, 10, 1.5, 0.9) for name in ("guard", "krum")])
    goals = {(entry["row"], entry["metric"]): entry["goal"] for entry in found if entry["goal"]}
    assert goals == {
        ("guard, n = 100", "ratio to FLAME whole"): GOAL_RATIO,
        ("guard, n = 100", "ratio to FLAME's filter"): GOAL_RATIO,
    }


def test_the_measured_round_is_an_honest_one() -> None:
    setting, exhibits = a_round(12)
    assert (setting.body_size, setting.output_size) == (100_480, 1290)
    assert all(one.verdict == "retained" for one in decide(setting, exhibits, "guard", {}))
