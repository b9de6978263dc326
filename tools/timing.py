"""What small benchmarks share: the fastest of several runs, and rows on the screen and in a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def fastest(work: Callable[[], object], repetitions: int, clock: Callable[[], float]) -> float:
    """Seconds of `clock`, such as `time.process_time`, that the fastest of several runs took."""
    seconds = []
    for _ in range(repetitions):
        start = clock()
        work()
        seconds.append(clock() - start)
    return min(seconds)


def show(rows: Sequence[Mapping[str, Any]], title: str, file: Path | None) -> None:
    """Print rows with the same keys, and write them as CSV where `file` is given."""
    table = Table(*rows[0], title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)
    if file is not None:
        with file.open("w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
