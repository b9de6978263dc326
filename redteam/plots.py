"""Plots of a table: for a metric one SVG with a dot and an interval for each row and defence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from audit.charts import Band, accuracy_chart
from redteam.tables import Entry

_ROOM = 380


def plot(found: Sequence[Entry], metric: str) -> str:
    """An SVG of all entries of a metric that lies within 0 and 1; a single seed has no whisker."""
    chosen = [entry for entry in found if entry.metric == metric and entry.n]
    bands = [
        Band(f"{entry.row} · {entry.defense}", _within(entry.mean), _bound(entry, entry.low), _bound(entry, entry.high))
        for entry in chosen
    ]
    chart = accuracy_chart(bands, 1000, _ROOM, f"{metric} with 95 percent intervals over seeds")
    return chart.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" ', 1)


def _bound(entry: Entry, value: float) -> float:
    return _within(entry.mean if math.isnan(value) else value)


def _within(value: float) -> float:
    return min(1.0, max(0.0, value))
