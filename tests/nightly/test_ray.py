"""A sweep on a real local Ray. Its wheel is 79 MB and its start takes long, so it is no part of the daily suite."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    pytest.importorskip("ray", reason="install concordat[ray]")
    sweep, cells = parse_sweep(TINY), Cells(tmp_path)
    tally = run_sweeps([sweep], tmp_path, cells, ray_cluster("local"))
    assert (tally.done, tally.failed) == (2, {})
    assert all(cells.metrics(cell.scenario) for cell in sweep.cells)
