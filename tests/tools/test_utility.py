"""The loop of table H on a toy: it learns, stays within its budget, and writes what it measured."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from redteam.datasets import Dataset
from tools import utility
from tools.utility import ROWS, Setting, accuracy, run, task_of


def clusters(directory: Path) -> Dataset:
    """Ten well separated clusters of unit vectors in twenty dimensions."""
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(10, 20))

    def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(number) % 10
        rows = centres[labels] + 0.3 * rng.normal(size=(number, 20))
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels.astype(np.int64)

    return Dataset(*draw(2000), *draw(200), classes=10)


TOY = Setting(clusters, 8.0, 6, 10.0, 0.5)


def test_loop_learns_under_dp_and_knows_its_epsilon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS, "toy", TOY)
    monkeypatch.setattr(utility, "SEEDS", (1, 2, 3))
    (line,) = run(tmp_path, ["toy"], tmp_path / "h.csv")
    assert line["measured"] > 0.6
    assert line["low"] <= line["measured"] <= line["high"]
    assert 7.9 < line["epsilon"] <= 8
    with (tmp_path / "h.csv").open() as file:
        (written,) = csv.DictReader(file)
    assert (written["table"], float(written["measured"])) == ("H", line["measured"])


def test_far_less_epsilon_teaches_less(tmp_path: Path) -> None:
    strict = Setting(clusters, 0.4, 6, 10.0, None)
    assert accuracy(strict, clusters(tmp_path), 1)[0] < accuracy(TOY, clusters(tmp_path), 1)[0] - 0.1


def test_every_row_can_be_packed() -> None:
    for name, setting in ROWS.items():
        task = task_of(setting, 400)
        assert task.budget.epsilon_micro == round(setting.epsilon * 1e6), name
        assert task.schedule == setting.schedule
