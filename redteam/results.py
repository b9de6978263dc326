"""`docs/results/sweeps.md`: what holds, what does not, and why, from the tables' own numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from redteam.display import shown
from redteam.sweep import Sweep
from redteam.tables import Entry

_HEAD = """# Sweeps

Tables of sweeps in `redteam/scenarios/`; [how they are made](../scenarios.md). `concordat-redteam sweep SWEEPS --out
CELLS` runs them, `concordat-redteam table SWEEPS --out CELLS --csv docs/results` writes this page and a CSV each, with
all metrics. Numbers are means over the seeds, with 95 % t intervals where there are several. Learning rates were tried
on seed 100, which no table uses, or set near such tries by judgement. Runs go through the machines of production with
encryption switched off; a test shows that decisions, finds, convictions and models are the same with it on.
"""
_NUMBERS = """What has a goal, and what somebody has published. `paper` is what the paper of the attack or defence,
or the first study, reports of the same defence in its own setting; *Cut* above says what ours leaves out.

| table | row | defence | metric | measured and goal | paper |
|---|---|---|---|---|---|"""


def file_name(table: str, ending: str) -> str:
    """Of a table or plot, such as `table-f.csv`."""
    return f"table-{table.lower()}.{ending}"


def readme(found: Sequence[tuple[Sweep, Sequence[Entry]]], files: Collection[str] = ()) -> str:
    """The page: for each table what it means and what was cut, then measured values beside goals and papers' numbers.

    Args:
        files: tables in the same directory; those of no sweep are named at the end.
    """
    lines = [_HEAD]
    for sweep, entries in found:
        lines += [_summary(sweep, entries), ""]
    lines.append(_NUMBERS)
    lines += [_line(one) for _, entries in found for one in entries if one.goal or one.reference is not None]
    further = sorted(set(files) - {file_name(sweep.table, "csv") for sweep, _ in found})
    if further:
        lines += ["", f"Further tables, by tools of their own: {', '.join(f'[{name}]({name})' for name in further)}."]
    return "\n".join(lines) + "\n"


def _summary(sweep: Sweep, entries: Sequence[Entry]) -> str:
    goals = [one for one in entries if one.goal]
    met = f"{sum(one.met is True for one in goals)} of {len(goals)} goals are met." if goals else ""
    name = f"[{sweep.table}]({file_name(sweep.table, 'csv')})"
    parts = (f"**{name}: {sweep.title}.**", met, sweep.why, f"*Cut:* {sweep.cut}" if sweep.cut else "")
    return " ".join(part.strip() for part in parts if part)


def _line(one: Entry) -> str:
    paper = "" if one.reference is None else f"{one.reference:g}"
    measured = shown(dataclasses.replace(one, reference=None))
    return f"| {one.table} | {one.row} | {one.defense} | {one.metric} | {measured} | {paper} |"
