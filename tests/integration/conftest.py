"""Protocol tests run in one process and lose no power, so they need not wait for the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from audit import plans

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything below this directory is an integration test."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.integration)


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def whole_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every round has the task's step: after an honest round a boosted update would be cut to what was usual."""
    monkeypatch.setattr(plans, "step_of", lambda history, training: history.genesis.task.step_log2)
