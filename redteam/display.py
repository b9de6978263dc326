"""Rows and tables on a terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from redteam.measured import Row
from redteam.sweep import Sweep
from redteam.tables import SHOWN, Entry

_WIDE = 160


def show_row(row: Row) -> None:
    """One run: its numbers, then its silos."""
    console = _console()
    for name, value in row.metrics.items():
        console.print(f"{name:22} {value:.4g}", highlight=False)
    table = Table("silo", "attacks", "records", "effective weight", "excluded", "suspected", "convicted", "accuracy")
    for one in row.silos:
        verdicts = (len(one.excluded), len(one.suspected), one.convicted or "-")
        shares = f"{one.effective:.3f}", f"{one.accuracy:.3f}"
        attacks = "yes" if one.attacks else ""
        table.add_row(one.name, attacks, str(one.count), shares[0], *map(str, verdicts), shares[1])
    console.print(table)


def show_table(sweep: Sweep, found: Sequence[Entry]) -> None:
    """A table: one line for each row and defence, one column for each shown metric, goals beside."""
    console = _console()
    metrics = [name for name in SHOWN if any(entry.metric == name for entry in found)]
    extra = [entry.metric for entry in found if entry.goal and entry.metric not in metrics]
    metrics += list(dict.fromkeys(extra))
    table = Table("row", "defence", *metrics, title=f"{sweep.table}: {sweep.title}")
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for entry in found:
        lines.setdefault((entry.row, entry.defense), {})[entry.metric] = shown(entry)
    for (row, defense), values in lines.items():
        table.add_row(row, defense, *(escape(values.get(name, "")) for name in metrics))
    console.print(table)


def shown(entry: Entry) -> str:
    """Mean, half of the interval (or both ends), goal with whether it is met, and the papers' number."""
    text = f"{entry.mean:.3f}" if entry.n else "never"
    if not math.isnan(entry.high):
        even = math.isclose(entry.high - entry.mean, entry.mean - entry.low, abs_tol=1e-9)
        text += f" ±{entry.high - entry.mean:.3f}" if even else f" ({entry.low:.3f} to {entry.high:.3f})"
    if entry.goal:
        text += f" [{'ok' if entry.met else 'missed' if entry.met is False else '?'}: {entry.goal}]"
    return text if entry.reference is None else f"{text} (paper {entry.reference:g})"


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=_WIDE)
