"""From the cells of a sweep to a table: mean and interval over the seeds, the goal and the papers' number beside."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redteam.scenario import Scenario
from redteam.sweep import POOLED, Case, Cells, Goal, Sweep

CONFIDENCE = 0.95
COLUMNS = ("table", "row", "defense", "metric", "n", "mean", "low", "high", "goal", "met", "reference")
SHOWN = ("accuracy", "success", "success_mean", "attackers_convicted", "honest_convicted", "honest_excluded")
"""Metrics that a table on a terminal shows; a CSV has all."""


@dataclass(frozen=True)
class Entry:
    """One number of a table. `low` and `high` are NaN for one seed alone; `met` is None where there is no goal."""

    table: str
    row: str
    defense: str
    metric: str
    n: int
    mean: float
    low: float
    high: float
    goal: str = ""
    met: bool | None = None
    reference: float | None = None


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and Student's t interval of `CONFIDENCE` for it; NaN bounds for a single value.

    Seeds draw data, attackers and noise anew, so that their results are independent; with three of them the interval
    is wide (4.3 standard errors), and says so.
    """
    from scipy import stats

    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan, math.nan
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return mean, mean - reach, mean + reach


def share_interval(hits: int, runs: int) -> tuple[float, float, float]:
    """A share and its exact interval of `CONFIDENCE` (Clopper and Pearson 1934): none of 400 is at most 0.9 %."""
    from scipy import stats

    tail = (1 - CONFIDENCE) / 2
    low = float(stats.beta.ppf(tail, hits, runs - hits + 1)) if hits else 0.0
    high = float(stats.beta.ppf(1 - tail, hits + 1, runs - hits)) if hits < runs else 1.0
    return hits / runs, low, high


def entries(sweep: Sweep, cells: Cells) -> list[Entry]:
    """All numbers of the cells that there are, in the order of the sweep; goals against means that exist."""
    found = [entry for case in sweep.cases for entry in _of_case(sweep.table, case, cells)]
    found += _pooled(sweep, cells)
    means = {(entry.row, entry.defense, entry.metric): entry.mean for entry in found}
    goals = {(case.name, goal.defense, goal.metric): goal for case in sweep.cases for goal in case.goals}
    goals |= {(POOLED, goal.defense, goal.metric): goal for goal in sweep.goals}
    return [_judged(entry, goals.get((entry.row, entry.defense, entry.metric)), means) for entry in found] + [
        # No attacker was ever convicted, or nothing was attacked: what was never measured meets no goal.
        Entry(sweep.table, row, defense, metric, 0, math.nan, math.nan, math.nan, str(goal), False)
        for (row, defense, metric), goal in goals.items()
        if (row, defense, metric) not in means and (row, defense, "accuracy") in means
    ]


def to_csv(found: Sequence[Entry]) -> str:
    """A CSV file of the entries, six decimals."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for entry in found:
        writer.writerow([_cell(getattr(entry, column)) for column in COLUMNS])
    return out.getvalue()


def to_bench(found: Sequence[Entry]) -> list[dict[str, Any]]:
    """Rows of table, row (with its defence), metric, goal, measured, low, high; what has a goal or a reference."""
    return [
        {
            "table": entry.table,
            "row": f"{entry.row} / {entry.defense}",
            "metric": entry.metric,
            "goal": entry.goal or None,
            "measured": _or_none(entry.mean),
            "low": _or_none(entry.low),
            "high": _or_none(entry.high),
        }
        for entry in found
        if entry.metric in SHOWN or entry.goal
    ]


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _of_case(table: str, case: Case, cells: Cells) -> list[Entry]:
    by_defense: dict[str, list[dict[str, float]]] = {}
    for (defense, _), scenario in case.scenarios.items():
        metrics = cells.metrics(scenario)
        if metrics is not None:
            by_defense.setdefault(defense, []).append(metrics)
    found = []
    for defense, runs in by_defense.items():
        names = dict.fromkeys(name for run in runs for name in run)
        for name in names:
            values = [run[name] for run in runs if name in run]
            reference = case.reference.get(defense, {}).get(name)
            found.append(Entry(table, case.name, defense, name, len(values), *interval(values), reference=reference))
    return found


def _pooled(sweep: Sweep, cells: Cells) -> list[Entry]:
    """Each defence over all cells of all rows: means, and for goals on cells the greatest and those within a bound.

    Convictions are shares of silo-runs with exact intervals. The intervals take cells and silo-runs as independent,
    which those of one seed are not quite.
    """
    by_defense: dict[str, list[Scenario]] = {}
    for case in sweep.cases:
        for (defense, _), scenario in case.scenarios.items():
            by_defense.setdefault(defense, []).append(scenario)
    found = []
    for defense, scenarios in by_defense.items():
        runs = [cells.metrics(scenario) or {} for scenario in scenarios]
        honest = [cells.honest(scenario) for scenario in scenarios]
        found += _single_silo(sweep.table, defense, honest)
        for name in dict.fromkeys(name for run in runs for name in run):
            values = _values(name, runs)
            if not values:
                continue
            found.append(Entry(sweep.table, POOLED, defense, name, *_spread(name, values, honest)))
            found += [
                Entry(sweep.table, POOLED, defense, f"{name}_{what}", len(values), value, math.nan, math.nan)
                for what, value in _of_cells(name, values).items()
            ]
    return found


def _values(name: str, runs: Sequence[Mapping[str, float]]) -> list[float]:
    """Of all runs that have the number; an attack's success counts only where somebody attacked."""
    return [run[name] for run in runs if name in run and ("attackers_weight" in run or not name.startswith("success"))]


def _spread(
    name: str, values: Sequence[float], honest: Sequence[Sequence[Mapping[str, Any]]]
) -> tuple[int, float, float, float]:
    """How many runs or silo-runs, the mean over them, and its interval."""
    if name == "honest_convicted":
        convicted = [one["convicted"] is not None for run in honest for one in run]
        if convicted:
            return len(convicted), *share_interval(sum(convicted), len(convicted))
    if name.startswith("convicted_"):
        return len(values), *share_interval(round(sum(values)), len(values))
    return len(values), *interval(values)


def _single_silo(table: str, defense: str, runs: Sequence[Sequence[Mapping[str, Any]]]) -> list[Entry]:
    """The share of runs in which the honest silo that is convicted most often is convicted, by its name over all runs.

    A name is a place in the partition: `s000` has the most records where sizes differ.
    """
    convicted: dict[str, list[bool]] = {}
    for one in (silo for run in runs for silo in run):
        convicted.setdefault(one["name"], []).append(one["convicted"] is not None)
    rates = [sum(found) / len(found) for found in convicted.values()]
    if not rates:
        return []
    count = max(map(len, convicted.values()))
    return [Entry(table, POOLED, defense, "convicted_single_silo", count, max(rates), math.nan, math.nan)]


def _of_cells(name: str, values: Sequence[float]) -> dict[str, float]:
    if name == "success":
        return {"most": max(values), "within_0.05": sum(value <= 0.05 for value in values) / len(values)}
    return {"median": statistics.median(values)} if name == "first_conviction" else {}


def _judged(entry: Entry, goal: Goal | None, means: dict[tuple[str, str, str], float]) -> Entry:
    if goal is None:
        return entry
    bound = goal.value
    if goal.of:
        row, _, defense = goal.of.rpartition(" / ")
        base = means.get((row, defense, goal.metric))
        if base is None:
            return _with(entry, str(goal), None)
        bound += base
    met = entry.mean <= bound if goal.op == "<=" else entry.mean >= bound
    return _with(entry, str(goal), met)


def _with(entry: Entry, goal: str, met: bool | None) -> Entry:
    values = {name: getattr(entry, name) for name in COLUMNS if name not in ("goal", "met")}
    return Entry(**values, goal=goal, met=met)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
