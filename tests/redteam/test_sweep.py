"""Sweeps that are killed, fail in places, and go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from redteam import runners, sweep
from redteam.errors import SweepFailed
from redteam.run import MEMORY
from redteam.runners import here, processes, ray_cluster
from redteam.sweep import Cell, Cells, Result, parse_sweep, run_sweeps

TINY: dict[str, Any] = {
    "table": "T",
    "title": "tiny",
    "seeds": [0, 1, 2],
    "defenses": ["plain"],
    "scenario": {
        "model": {"kind": "linear"},
        "training": {"rounds": 1, "steps": 1},
        "federation": {"silos": 3, "folds": 2},
        "data": {"records": 120, "test": 50},
    },
    "rows": [{"name": "calm"}],
}
TOML = """
table = "T"
title = "tiny"
seeds = [0, 1, 2, 3]
defenses = ["plain"]
scenario = {model = {kind = "linear"}, training = {rounds = 6, steps = 1}, federation = {silos = 3, folds = 2}}
rows = [{name = "calm"}]
"""


def faked(cells: Sequence[Cell], data: Path) -> Iterator[Result]:
    for cell in cells:
        yield cell, {"metrics": {"seed": float(cell.seed)}}


def test_finished_cells_are_not_run_again(tmp_path: Path) -> None:
    plan, cells, ran = parse_sweep(TINY), Cells(tmp_path), []

    def runner(given: Sequence[Cell], data: Path) -> Iterator[Result]:
        ran.extend(cell.seed for cell in given)
        return faked(given, data)

    def dying(given: Sequence[Cell], data: Path) -> Iterator[Result]:
        yield from faked(given[:2], data)
        raise SweepFailed("killed")

    with pytest.raises(SweepFailed):
        run_sweeps([plan], tmp_path, cells, dying)
    tally = run_sweeps([plan], tmp_path, cells, runner)
    assert ran == [2]
    assert (tally.before, tally.done) == (2, 1)


def test_a_cell_that_fails_leaves_the_others_and_is_tried_again(tmp_path: Path) -> None:
    plan, cells = parse_sweep(TINY), Cells(tmp_path)

    def runner(given: Sequence[Cell], data: Path) -> Iterator[Result]:
        for cell, row in faked(given, data):
            yield cell, ValueError("no luck") if cell.seed == 1 else row

    tally = run_sweeps([plan], tmp_path, cells, runner)
    assert tally.failed == {"T: calm, plain, seed 1": "ValueError: no luck"}
    assert run_sweeps([plan], tmp_path, cells, faked).done == 1


def test_equal_scenarios_of_two_rows_are_one_cell() -> None:
    rows = [{"name": "calm"}, {"name": "the same", "changes": {"training.rounds": 1}}, {"name": "other", "seeds": [7]}]
    assert len(parse_sweep({**TINY, "rows": rows}).cells) == 4


def test_sweeps_share_their_workers_and_searched_cells_come_first(tmp_path: Path) -> None:
    searched = {**TINY, "table": "S", "seeds": [5], "searched": ["guard"], "defenses": ["guard"]}
    ran: list[list[str]] = []

    def runner(given: Sequence[Cell], data: Path) -> Iterator[Result]:
        ran.append([f"{cell.table}{cell.seed}" for cell in given])
        return faked(given, data)

    plans = [parse_sweep(TINY), parse_sweep(searched), parse_sweep({**TINY, "table": "again"})]
    tally = run_sweeps(plans, tmp_path, Cells(tmp_path), runner)
    assert ran == [["S5", "T0", "T1", "T2"]], "in one call, the third sweep's cells being the first's"
    assert tally.done == 4


def test_half_a_file_is_never_taken_for_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, cells = parse_sweep(TINY).cells[0], Cells(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sweep.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        cells.keep(cell, {"metrics": {}})
    assert not cells.has(cell.scenario)
    assert cells.metrics(cell.scenario) is None


def test_a_tiny_scenario_runs_to_its_end_in_this_process(tmp_path: Path) -> None:
    plan, cells = parse_sweep({**TINY, "seeds": [0]}), Cells(tmp_path)
    tally = run_sweeps([plan], tmp_path, cells, here)
    assert not tally.failed
    metrics = cells.metrics(plan.cells[0].scenario)
    assert metrics is not None
    assert 0 < metrics["accuracy"] < 1


def start(directory: Path, workers: int) -> subprocess.Popen[bytes]:
    (directory / "tiny.toml").write_text(TOML)
    command = [sys.executable, "-m", "redteam.cli", "sweep", str(directory / "tiny.toml")]
    command += ["--out", str(directory / "out"), "--workers", str(workers)]
    return subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)


def finished(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (directory / "out").glob("*.json")}


def wait_for(directory: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(finished(directory)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def directories(worker: int) -> list[Path]:
    """Where the runs of a worker process keep their files."""
    above = MEMORY if MEMORY.is_dir() else Path(tempfile.gettempdir())
    return list(above.glob(f"concordat-redteam-{worker}-*"))


def children(parent: int) -> list[int]:
    """Worker processes of a sweep, by their command line."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                stat, command = (path / "stat").read_text(), (path / "cmdline").read_bytes()
            except OSError:
                continue
            if int(stat.rpartition(")")[2].split()[1]) == parent and b"spawn_main" in command:
                found.append(int(path.name))
    return found


@pytest.mark.processes
def test_a_sweep_killed_between_cells_goes_on_where_it_was(tmp_path: Path) -> None:
    first = start(tmp_path, 1)
    wait_for(tmp_path, 1)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = finished(tmp_path)
    assert 1 <= len(before) < 4
    second = start(tmp_path, 1)
    assert second.wait(timeout=240) == 0
    after = finished(tmp_path)
    assert len(after) == 4
    assert {name: after[name] for name in before} == before, "finished cells stay as they were, times and all"
    assert sorted(json.loads(text)["seed"] for text in after.values()) == [0, 1, 2, 3]


@pytest.mark.processes
def test_workers_end_with_a_sweep_that_is_killed_alone(tmp_path: Path) -> None:
    process = start(tmp_path, 1)
    wait_for(tmp_path, 1)
    workers = children(process.pid)
    assert workers
    while not any(directories(worker) for worker in workers):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert len(finished(tmp_path)) < 4
    assert not [left for worker in workers for left in directories(worker)], "what a run holds in memory goes with it"


@pytest.mark.processes
def test_a_worker_killed_between_cells_is_replaced(tmp_path: Path) -> None:
    process = start(tmp_path, 1)
    wait_for(tmp_path, 1)
    for worker in children(process.pid):
        os.kill(worker, signal.SIGKILL)
    assert process.wait(timeout=240) == 0
    assert len(finished(tmp_path)) == 4


def test_workers_that_always_die_end_the_sweep_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(cells: Sequence[Cell], data: Path, workers: int) -> Iterator[Result]:
        raise runners.BrokenProcessPool("gone")
        yield

    monkeypatch.setattr(runners, "_pooled", broken)
    with pytest.raises(SweepFailed, match="die again and again"):
        run_sweeps([parse_sweep(TINY)], tmp_path, Cells(tmp_path), processes(1))


def test_without_ray_the_option_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SweepFailed, match=r"install concordat\[ray\]"):
        run_sweeps([parse_sweep(TINY)], tmp_path, Cells(tmp_path), ray_cluster("local"))
