"""The benchmark of a round on a small network: every line is there, and the figures are what they say."""

from __future__ import annotations

import json
import math
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from protos.task import MICRO
from tools.bench_round import GOAL_RATIO, GOAL_SILO_MB, Case, run
from tools.round_model import SleepingTrainer, layout, make_task, noise_std, resnet18

SMALL = Case(silos=3, width=6, rounds=1, seconds=0.0)


def test_layout_is_resnet18_with_ten_classes() -> None:
    assert len(list(resnet18(64))) == 62
    # torchvision's 11,689,512 with 1000 classes, less 990 rows of 512 weights and a bias.
    assert layout(64).size == 11_689_512 - 990 * 513 == 11_181_642
    assert layout(64).output_size == 5130


def test_update_has_the_noise_of_dp_sgd_and_fits_the_grid() -> None:
    task, model = make_task(6, 1)
    update = SleepingTrainer(0.0, 48).train(np.frombuffer(model, dtype="<f4"), task.training, 200)
    expected = task.training.noise_micro / MICRO / (0.5 * 200)
    assert noise_std(task.training, 200) == pytest.approx(expected)
    assert update.std() == pytest.approx(expected, rel=0.02)
    assert 5 * expected <= 127 * 2.0**task.step_log2 < 10 * expected
    assert math.isfinite(float(np.abs(update).max()))


@pytest.mark.processes
def test_every_line_is_printed_and_written(tmp_path: Path) -> None:
    output, out = StringIO(), tmp_path / "round.json"
    rows = run(SMALL, tmp_path / "parties", out, Console(file=output, width=150))
    written = {entry["metric"]: entry for entry in json.loads(out.read_text())}
    assert list(written) == [row.metric for row in rows]
    assert all({"metric", "measured", "goal", "unit", "met", "machine"} <= set(entry) for entry in written.values())
    assert all(metric in output.getvalue() for metric in written)
    value = {metric: entry["measured"] for metric, entry in written.items()}
    phases = [metric for metric in value if metric.startswith("seconds: ") and "the round" not in metric]
    assert sum(value[metric] for metric in phases) == pytest.approx(value["seconds: the round"])
    ratio = value["seconds: the round"] / value["seconds: the round in plain float32"]
    assert value["ratio of the two"] == pytest.approx(ratio)
    # 64 chunks of the body and one of the output layer go up; as many full ones of the sum come down.
    assert 65 * 32_800 < 1e6 * value["sent by a silo: upload, sketch, fold"] < 65 * 32_800 + 200_000
    assert 65 * 65_536 <= 1e6 * value["received by a silo: fetch and open the sum, adopt"] < 65 * 65_536 + 400_000
    assert written["ratio of the two"]["goal"] == GOAL_RATIO
    assert written["memory: silo, peak over idle"]["goal"] == pytest.approx(3 * 4 * 100_336 / 1e6 + GOAL_SILO_MB)
    assert 0 < value["memory: silo, peak over idle"] < value["memory: silo, idle"] < 1000
    assert 0 < value["memory: coordinator, peak"] < 1000
