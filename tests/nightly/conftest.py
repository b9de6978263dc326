"""What takes minutes runs only when it is asked for: `pytest -m nightly`, or `make nightly`."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what is marked `nightly` unless the marker expression names it."""
    if "nightly" in str(config.getoption("-m")):
        return
    left_out = [item for item in items if item.get_closest_marker("nightly")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
