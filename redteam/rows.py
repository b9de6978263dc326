"""Rows of result tables: goal beside measured, with an interval over seeds, as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from redteam.tables import interval


@dataclass(frozen=True)
class Row:
    """One number of a table. `goal` is text, such as "<= 15", or empty where none was set."""

    table: str
    row: str
    metric: str
    goal: str
    measured: float
    low: float
    high: float


def over_seeds(table: str, row: str, metric: str, goal: str, values: Sequence[float]) -> Row:
    """Mean over seeds with its 95 % interval by Student's t; a single seed has none and stands for both ends."""
    mean, low, high = interval(values) if len(values) > 1 else (float(values[0]),) * 3
    return Row(table, row, metric, goal, mean, low, high)


def write(rows: Iterable[Row], path: Path) -> None:
    """All rows as CSV with a header; numbers with four decimals."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Row)])
        for row in rows:
            writer.writerow([f"{v:.4f}" if isinstance(v, float) else v for v in asdict(row).values()])


def shown(row: Row) -> str:
    """One line for a terminal."""
    return (
        f"{row.table}  {row.row:<48} {row.metric:<22} {row.goal:<10} "
        f"{row.measured:8.3f}  [{row.low:.3f}, {row.high:.3f}]"
    )
