"""`docs/results/README.md`: what holds, what does not, and why, from the tables' own numbers."""

from __future__ import annotations

from collections.abc import Sequence

from redteam.display import shown
from redteam.sweep import Sweep
from redteam.tables import Entry

_HEAD = """# Results

Each table is a sweep in `redteam/scenarios/`: `concordat-redteam sweep` runs it, `concordat-redteam table --csv` writes
this page and one CSV a table. Numbers are means over the seeds with 95 % t intervals. Runs go through the machines of
production with encryption switched off; a test shows that decisions and models are the same with it on.
"""


def readme(found: Sequence[tuple[Sweep, Sequence[Entry]]]) -> str:
    """The page: goals against measured values, then for each table what was cut and what it means."""
    lines = [_HEAD, "| table | row | defence | metric | measured and goal |", "|---|---|---|---|---|"]
    for sweep, entries in found:
        lines += [
            f"| {sweep.table} | {one.row} | {one.defense} | {one.metric} | {shown(one)} |"
            for one in entries
            if one.goal
        ]
    for sweep, entries in found:
        goals = [one for one in entries if one.goal]
        met = sum(one.met is True for one in goals)
        lines += ["", f"**{sweep.table}: {sweep.title}.** {met} of {len(goals)} goals are met. {sweep.why}".rstrip()]
        if sweep.cut:
            lines.append(f"Cut: {sweep.cut}")
    return "\n".join(lines) + "\n"
