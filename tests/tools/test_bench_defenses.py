"""The benchmark on few silos: every defence is there, goals stand beside the Guard, rounds are honest."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from defenses import aggregation, registry
from defenses.decide import decide
from tools import bench_defenses
from tools.bench_defenses import (
    GOAL_RATIO,
    PLAINTEXT,
    REFERENCE,
    WHOLE,
    WITH_PAST,
    Row,
    a_round,
    aggregating,
    entries,
    run,
    timed,
    with_arguments,
)


def test_every_defence_is_measured_and_written(tmp_path: Path) -> None:
    rows = run((6,), 1, tmp_path / "bench" / "defenses.json", tmp_path / "table.csv")
    weighting = {*registry.names(), *registry.ARGUMENTS, WITH_PAST}
    assert {row.defense for row in rows} == {*weighting, WHOLE, *aggregation.names()} - {"flame"}
    assert all(row.seconds > 0 and row.megabytes > 0 and row.to_flame for row in rows)
    assert {row.defense for row in rows if row.note} == {WHOLE, *aggregation.names()} - {"flame"}
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


def test_rules_with_arguments_judge_the_measured_round() -> None:
    setting, (*exhibits, root) = a_round(13)
    with registry.registered(*with_arguments(root, 12)):
        for name in registry.ARGUMENTS:
            assert any(one.weight for one in decide(setting, exhibits, name, {}))
        assert decide(setting, exhibits, "monna", {})[0].verdict == "retained"
        # Honest noise is nearly orthogonal to the root, which is no silo of the round: nobody is fully trusted.
        trusted = [one.scores[0].value_micro for one in decide(setting, exhibits, "fltrust", {})]
    assert max(trusted) < 0.1e6


def test_rules_that_compare_two_by_two_get_fewer_parameters_of_many_silos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_defenses, "WHOLE_UP_TO", 10)
    updates = np.random.default_rng(1).normal(size=(11, 1300))
    found = {name: aggregating(name, updates, 1) for name in ("nnm", "median", "fedpd")}
    assert {name: one.cut for name, one in found.items()} == {"nnm": True, "median": False, "fedpd": False}
    assert found["nnm"].note == f"{PLAINTEXT}, 13 of 1,300 parameters"
    assert {name: one.bytes_per_silo for name, one in found.items()} == {"nnm": 5200, "median": 5200, "fedpd": 10240}
    assert not aggregating("nnm", updates[:10], 1).cut


def test_rows_without_a_ratio_are_no_entries() -> None:
    assert entries([Row("nnm", 1000, 0.1, 0.2, 1.0, 10, None, None, PLAINTEXT)]) == []


def test_what_takes_long_is_repeated_less(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(timed(lambda: None, 4)[0]) == 4
    monkeypatch.setattr(bench_defenses, "ENOUGH", 1e-9)
    assert len(timed(lambda: sum(range(10_000)), 4)[0]) == 1


def test_the_measured_round_is_an_honest_one() -> None:
    setting, exhibits = a_round(12)
    assert (setting.body_size, setting.output_size) == (100_480, 1290)
    assert all(one.verdict == "retained" for one in decide(setting, exhibits, "guard", {}))
