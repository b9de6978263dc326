"""Sweeps on a real local Ray. It takes 250 MB and its start takes long, so it is no part of the daily suite.

`make nightly` installs it; without it these tests fail.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from redteam import runners
from redteam.runners import ray_cluster
from redteam.sweep import Cells, parse_sweep, run_sweeps

pytestmark = pytest.mark.nightly

TINY = {
    "table": "T",
    "title": "tiny",
    "seeds": [0, 1],
    "defenses": ["plain"],
    "scenario": {
        "model": {"kind": "linear"},
        "training": {"rounds": 1, "steps": 1},
        "federation": {"silos": 3, "folds": 2},
        "data": {"records": 120, "test": 50},
    },
    "rows": [{"name": "calm"}],
}


def test_a_local_ray_cluster_runs_the_cells(tmp_path: Path) -> None:
    sweep, cells = parse_sweep(TINY), Cells(tmp_path)
    tally = run_sweeps([sweep], tmp_path, cells, ray_cluster("local"))
    assert (tally.done, tally.failed) == (2, {})
    assert all(cells.metrics(cell.scenario) for cell in sweep.cells)


def test_workers_in_another_directory_find_data_named_by_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(scenario: Any, data: Path) -> dict[str, Any]:
        os.chdir("/")
        return {"metrics": {"found": float((data / "found").read_text())}}

    monkeypatch.setattr(runners, "run_cell", read)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "found").write_text("1")
    results = list(ray_cluster("local")(parse_sweep(TINY).cells, Path("data")))
    assert [result for _, result in results] == [{"metrics": {"found": 1.0}}] * 2
