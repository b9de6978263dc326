from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from redteam.cli import run
from redteam.sweep import Cells, read_sweep

SCENARIO = """
seed = 3
[model]
kind = "linear"
[training]
rounds = 1
steps = 1
[data]
records = 120
test = 50
[federation]
silos = 3
folds = 2
"""
SWEEP = """
table = "Z"
title = "tiny"
why = "It is a test."
seeds = [0, 1]
defenses = ["plain"]
[scenario]
model = {kind = "linear"}
training = {rounds = 1, steps = 1}
data = {records = 120, test = 50}
federation = {silos = 3, folds = 2}
[[rows]]
name = "calm"
goals = [{defense = "plain", metric = "accuracy", op = ">=", value = 0.99}]
"""


def test_a_scenario_file_becomes_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.toml").write_text(SCENARIO)
    assert run(["run", str(tmp_path / "one.toml"), "--out", str(tmp_path / "row.json")]) == 0
    row = json.loads((tmp_path / "row.json").read_text())
    assert row["scenario"]["seed"] == 3
    assert [one["name"] for one in row["silos"]] == ["s000", "s001", "s002"]
    assert "accuracy" in capsys.readouterr().out


def test_a_sweep_becomes_a_table_a_page_and_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "z.toml").write_text(SWEEP)
    where = [str(tmp_path / "z.toml"), "--out", str(tmp_path / "cells")]
    assert run(["sweep", *where, "--workers", "1"]) == 0
    assert run(["sweep", *where]) == 0
    assert "2 cells were there, 0 were run, 0 failed" in capsys.readouterr().out
    assert run(["table", *where, "--csv", str(tmp_path / "docs"), "--json", str(tmp_path / "build" / "b.json")]) == 0
    assert "[missed: >= 0.99]" in " ".join(capsys.readouterr().out.split())
    rows = list(csv.DictReader((tmp_path / "docs" / "table-z.csv").open()))
    measured = next(row for row in rows if (row["row"], row["metric"]) == ("calm", "accuracy"))
    assert (measured["n"], measured["goal"], measured["met"]) == ("2", ">= 0.99", "no")
    assert "0 of 1 goals are met. It is a test." in (tmp_path / "docs" / "sweeps.md").read_text()
    bench = json.loads((tmp_path / "build" / "b.json").read_text())
    assert {"table", "row", "metric", "goal", "measured", "low", "high"} == set(bench[0])
    assert run(["plot", *where, "--metric", "accuracy", "--svg", str(tmp_path / "svg")]) == 0
    assert (tmp_path / "svg" / "table-z-accuracy.svg").read_text().startswith("<svg")


def test_a_failing_cell_gives_exit_code_1_and_its_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "z.toml").write_text(SWEEP.replace('"plain"', '"flab"'))
    assert run(["sweep", str(tmp_path / "z.toml"), "--out", str(tmp_path / "cells"), "--workers", "1"]) == 1
    assert "Z: calm, flab, seed 0: BadScenario: scenario: every round is void" in capsys.readouterr().err
    assert not list((tmp_path / "cells").glob("*"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 'x'", "seed = 'x' cannot be: it is a whole number"),
        ("[data]\nset = 'mnist'", "is not there: give the data directory with --data DIR"),
        ("[data]\nrecords = 5", "data.records = 5 cannot be"),
        ("[training]\nepsilon = 0.0001", "cannot be met: the least possible epsilon"),
        (
            "[attack]\nname = 'badnets'\ndata = {share = 'x'}",
            "attack.data.share = 'x' cannot be: it is a number from 0",
        ),
        (
            "[attack]\nname = 'flip-pair'\ndata = {source = 11}",
            "attack.data.source = 11 cannot be: it is a whole number",
        ),
        ("[federation]\nsilos = 4\nprivacy_minimum = 5", "federation.privacy_minimum = 5 cannot be: it is at most"),
    ],
)
def test_what_cannot_be_run_is_one_line_on_stderr_and_exit_code_2(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.toml").write_text(text)
    assert run(["run", str(tmp_path / "bad.toml"), "--data", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("concordat-redteam: error: ")
    assert message in error
    assert error.count("\n") == 1


def kept(directory: Path, cells: int) -> list[str]:
    """Arguments that name the sweep, and a directory with the results of that many of its two cells."""
    path, out = directory / "z.toml", directory / "cells"
    path.write_text(SWEEP)
    for cell in read_sweep(path).cells[:cells]:
        Cells(out).keep(cell, {"metrics": {"accuracy": 0.5, "gap": 0.25}})
    return [str(path), "--out", str(out)]


def test_a_table_without_a_cell_is_refused_and_overwrites_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tmp_path / "docs" / "table-z.csv"
    before.parent.mkdir()
    before.write_text("what was measured before")
    where = kept(tmp_path, 0)
    for command in (["table", *where, "--csv", str(before.parent)], ["plot", *where, "--svg", str(before.parent)]):
        assert run(command) == 2
        error = capsys.readouterr().err
        assert f"table Z: none of its 2 cells is in {tmp_path / 'cells'}: run `concordat-redteam sweep" in error
        assert error.count("\n") == 1
    assert [path.name for path in before.parent.iterdir()] == ["table-z.csv"]
    assert before.read_text() == "what was measured before"


def test_a_table_of_some_cells_says_how_many_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["table", *kept(tmp_path, 1), "--csv", str(tmp_path / "docs")]) == 0
    assert "table Z: 1 of 2 cells are missing" in capsys.readouterr().err
    assert "calm,plain,accuracy,1,0.5" in (tmp_path / "docs" / "table-z.csv").read_text()
    assert run(["table", *kept(tmp_path, 2)]) == 0
    assert capsys.readouterr().err == ""


def test_a_damaged_cell_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = kept(tmp_path, 2)
    damaged = sorted((tmp_path / "cells").glob("*.json"))[0]
    damaged.write_text(damaged.read_text()[:20])
    assert run(["table", *where]) == 2
    assert f"{damaged} is no whole result of a cell" in capsys.readouterr().err


def test_a_plot_of_an_unknown_metric_is_refused_with_the_known_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    svg = tmp_path / "svg"
    assert run(["plot", *kept(tmp_path, 2), "--metric", "nope", "--svg", str(svg)]) == 2
    assert "no metric 'nope' was measured in table Z: choose from accuracy, gap" in capsys.readouterr().err
    assert not svg.exists()


@pytest.mark.parametrize("out", ["nowhere/row.json", "folder"])
def test_a_result_that_cannot_be_written_is_refused_before_the_run(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("redteam.run.run", lambda *_: pytest.fail("it was run"))
    (tmp_path / "one.toml").write_text(SCENARIO)
    (tmp_path / "folder").mkdir()
    assert run(["run", str(tmp_path / "one.toml"), "--out", str(tmp_path / out)]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / out.partition("/")[0]) in error
    assert error.count("\n") == 1


def test_a_run_that_fails_leaves_no_empty_result_and_keeps_an_older_one(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[data]\nset = 'mnist'")
    (tmp_path / "old.json").write_text("old")
    for name in ("new.json", "old.json"):
        command = ["run", str(tmp_path / "bad.toml"), "--data", str(tmp_path), "--out", str(tmp_path / name)]
        assert run(command) == 2
    assert not (tmp_path / "new.json").exists()
    assert (tmp_path / "old.json").read_text() == "old"


def test_the_shipped_sweeps_can_be_read_and_name_their_tables() -> None:
    shipped = sorted(Path("redteam/scenarios").glob("*.toml"))
    assert [read_sweep(path).table for path in shipped] == [path.stem.upper() for path in shipped]
    assert {"a", "c", "f", "g", "h"} <= {path.stem for path in shipped}
    for path in shipped:
        sweep = read_sweep(path)
        named = {(case.name, goal.defense) for case in sweep.cases for goal in case.goals}
        run_at_all = {(case.name, defense) for case in sweep.cases for defense, _ in case.scenarios}
        assert named <= run_at_all, "a goal needs a cell"


def test_help_does_not_load_torch() -> None:
    check = "import sys, redteam.cli; assert redteam.cli._parser(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)
