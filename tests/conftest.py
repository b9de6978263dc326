"""`--data DIR`: where the data sets are. Tests marked `data` are left out where there are none.

What takes minutes is marked `nightly` and runs only when it is asked for: `pytest -m nightly`, or `make nightly`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--data", type=Path, default=None, help="directory with the data sets (default: ../shared/data)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _directory(config) is None:
        _leave_out("data", config, items)
    if "nightly" not in str(config.getoption("-m")):
        _leave_out("nightly", config, items)
    # Files of a few long tests go first: last, they would leave the other cores idle. See --no-loadscope-reorder.
    long = {item.path for item in items if item.get_closest_marker("processes")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture
def data_directory(request: pytest.FixtureRequest) -> Path:
    found = _directory(request.config)
    assert found is not None, "mark this test with data"
    return found


def _leave_out(mark: str, config: pytest.Config, items: list[pytest.Item]) -> None:
    without = [item for item in items if item.get_closest_marker(mark)]
    if without:
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if not item.get_closest_marker(mark)]


def _directory(config: pytest.Config) -> Path | None:
    """The directory given, even if it is not there: the loaders then say so. Else that beside the repository."""
    given: Path | None = config.getoption("--data")
    return given or (BESIDE if BESIDE.is_dir() else None)
