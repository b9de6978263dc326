"""The demonstration, shortened: every command of the README runs, and the summary holds what it promises."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from redteam.digits import POISONED, SIZES
from tools import demo

pytestmark = [pytest.mark.torch, pytest.mark.processes, pytest.mark.timeout(400)]

PATHS = ("log", "log_key", "certificate", "report", "model")


ROUNDS = 3


def test_demo_runs_every_party_and_writes_its_summary(tmp_path: Path) -> None:
    output = StringIO()
    demo.run(tmp_path / "demo", rounds=ROUNDS, console=Console(file=output, width=120))
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert summary["rounds"] == summary["rounds_adopted"] == ROUNDS
    assert all(Path(summary[name]).is_file() for name in PATHS)
    assert summary["records_verified"] == len(Path(summary["log"]).read_bytes().splitlines())
    silos = {silo["name"]: silo for silo in summary["silos"]}
    assert {name: silo["records"] for name, silo in silos.items()} == SIZES
    assert [name for name, silo in silos.items() if silo["poisons"]] == [POISONED]
    assert silos[POISONED]["excluded_rounds"] == ROUNDS
    assert all(0 < silo["epsilon"] <= 8 and silo["delta"] <= 1e-4 for silo in silos.values())
    assert "attack success" in output.getvalue()
    # Searches of models that have hardly learned may all find something, or be blind: then none is released.
    number = summary["released_round"]
    said = (
        f"released: the model of round {number}" if number else "released: none, the last one was exported unsearched"
    )
    assert said in " ".join(output.getvalue().split())
    assert (json.loads(Path(summary["certificate"]).read_text())["released"] is None) == (number is None)
