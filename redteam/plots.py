"""Plots of a table: for a metric one SVG with a dot and an interval for each row and defence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from audit.charts import Band, accuracy_chart
from redteam.errors import BadScenario
from redteam.tables import Entry

_ROOM = 380


def plot(found: Sequence[Entry], metric: str) -> str:
    """An SVG of all entries of a metric that lies within 0 and 1; a single seed has no whisker.

    Raises:
        BadScenario: nothing of that metric was measured; those that were are named.
    """
    chosen = [entry for entry in found if entry.metric == metric and entry.n]
    if not chosen:
        known = sorted({entry.metric for entry in found if entry.n})
        table = f" in table {found[0].table}" if found else ""
        raise BadScenario(f"no metric {metric!r} was measured{table}: choose from {', '.join(known)}")
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
