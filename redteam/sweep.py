"""A sweep: the rows of one table, each under several defences and seeds, as cells that are run once and kept.

A cell's result is one JSON file, named by a digest of its whole scenario and written by rename: after a kill, what is
there is whole and is not run again. Workers are processes, one scenario at a time each; one that dies is replaced.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redteam.errors import BadScenario
from redteam.scenario import Scenario, changed, parse, read_table

OPERATORS = ("<=", ">=")
POOLED = "all rows"


@dataclass(frozen=True)
class Goal:
    """What a metric of one defence should reach, as a mean over the seeds.

    Attributes:
        defense, metric: of which column of the row.
        op: `<=` or `>=`.
        value: the bound; where `of` names another row and defence (`row / defense`), it is added to their mean.
    """

    defense: str
    metric: str
    op: str
    value: float
    of: str = ""

    def __str__(self) -> str:
        if not self.of:
            return f"{self.op} {self.value:g}"
        return f"{self.op} {self.of} {'-' if self.value < 0 else '+'} {abs(self.value):g}"


@dataclass(frozen=True)
class Case:
    """A row of the table: its scenarios by (defence, seed), its goals, and what papers report for it."""

    name: str
    scenarios: Mapping[tuple[str, int], Scenario]
    goals: tuple[Goal, ...]
    reference: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Sweep:
    """A table to measure. `cut` says what was left out of the full setting, `why` what the numbers mean.

    `goals` are of all cells of a defence together: the row `POOLED` of the table.
    """

    table: str
    title: str
    cut: str
    why: str
    cases: tuple[Case, ...]
    goals: tuple[Goal, ...] = ()

    @property
    def cells(self) -> list[Cell]:
        """Every scenario with its labels; equal scenarios once."""
        cells = {
            scenario.digest: Cell(self.table, case.name, defense, seed, scenario)
            for case in self.cases
            for (defense, seed), scenario in case.scenarios.items()
        }
        return list(cells.values())


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    table: str
    row: str
    defense: str
    seed: int
    scenario: Scenario

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.table}: {self.row}, {self.defense}, seed {self.seed}"


@dataclass(frozen=True)
class Cells:
    """Results below a directory, by digest of the scenario."""

    directory: Path

    def has(self, scenario: Scenario) -> bool:
        """Whether the scenario was run."""
        return self._path(scenario).exists()

    def metrics(self, scenario: Scenario) -> dict[str, float] | None:
        """The single numbers of a run, or None where it was not run."""
        if not self.has(scenario):
            return None
        found: dict[str, float] = json.loads(self._path(scenario).read_text())["metrics"]
        return found

    def honest(self, scenario: Scenario) -> list[dict[str, Any]]:
        """The honest silos of a run, as `measured.SiloRow` writes them; none where it was not run."""
        if not self.has(scenario):
            return []
        silos: list[dict[str, Any]] = json.loads(self._path(scenario).read_text()).get("silos", [])
        return [one for one in silos if not one["attacks"]]

    def keep(self, cell: Cell, row: Mapping[str, Any]) -> None:
        """Write a result; it is there whole or not at all."""
        self.directory.mkdir(parents=True, exist_ok=True)
        labels = {"table": cell.table, "row": cell.row, "defense": cell.defense, "seed": cell.seed}
        path = self._path(cell.scenario)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("w") as file:
            file.write(json.dumps({**labels, **row}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def _path(self, scenario: Scenario) -> Path:
        return self.directory / f"{scenario.digest}.json"


def read_sweep(path: Path) -> Sweep:
    """The sweep in a TOML file; every scenario of it is parsed.

    Raises:
        BadScenario: names the key that does not fit, and the row.
    """
    return parse_sweep(read_table(path))


def parse_sweep(table: Mapping[str, Any]) -> Sweep:
    """The sweep of parsed TOML.

    Keys: `table`, `title`, `scenario` (a table of common values), `seeds`, `defenses`, and `rows`, each with `name`,
    `changes` (dotted keys), and optionally `defenses`, `seeds`, `goals` and `reference`; optionally `cut`, `why`,
    `goals` over all rows, `searched`: defences whose models are searched for triggers, and `axes`: lists of `name` and
    `changes`; each row is repeated by every combination of them.

    Raises:
        BadScenario: names what is missing, unknown or does not fit.
    """
    required = {"table", "title", "seeds", "defenses", "rows"}
    _require_keys(table, "sweep", required, required | {"scenario", "cut", "why", "goals", "searched", "axes"})
    base = table.get("scenario", {})
    if not isinstance(base, dict) or not isinstance(table["rows"], list):
        raise BadScenario("sweep: scenario must be a table, and rows a list of tables")
    rows = [variant for row in table["rows"] for variant in _variants(row, table.get("axes", []))]
    cases = tuple(_case(row, base, table) for row in rows)
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        raise BadScenario("sweep: two rows have one name; rename one")
    goals = tuple(_goal(one, POOLED) for one in table.get("goals", ()))
    return Sweep(table["table"], table["title"], table.get("cut", ""), table.get("why", ""), cases, goals)


def _variants(row: Any, axes: Any) -> Iterator[dict[str, Any]]:
    """The row once for each combination of the axes; goals that name another row mean its same variant."""
    if not isinstance(row, dict) or not isinstance(axes, list) or not all(isinstance(axis, list) for axis in axes):
        raise BadScenario("sweep: rows must be a list of tables, and axes a list of lists of tables")
    for axis in axes:
        for point in axis:
            _require_keys(point, "sweep: axes", {"name", "changes"}, {"name", "changes"})
    for points in itertools.product(*axes):
        suffix = "".join(f", {point['name']}" for point in points)
        changes = {key: value for point in points for key, value in point["changes"].items()}
        yield {
            **row,
            **({"name": f"{row['name']}{suffix}"} if "name" in row else {}),
            "changes": {**changes, **row.get("changes", {})},
            "goals": [_elsewhere(goal, suffix) for goal in row.get("goals", ())],
        }


def _elsewhere(goal: Any, suffix: str) -> Any:
    if not isinstance(goal, dict) or "of" not in goal:
        return goal
    name, _, defense = goal["of"].rpartition(" / ")
    return {**goal, "of": f"{name}{suffix} / {defense}"}


def _case(row: Any, base: Mapping[str, Any], table: Mapping[str, Any]) -> Case:
    _require_keys(row, "sweep: row", {"name"}, {"name", "changes", "defenses", "goals", "reference", "seeds"})
    scenarios = {}
    for defense in row.get("defenses", table["defenses"]):
        for seed in row.get("seeds", table["seeds"]):
            searched = {"engine.search": True} if defense in table.get("searched", []) else {}
            changes = {"federation.defense": defense, "seed": seed, **searched, **row.get("changes", {})}
            try:
                scenarios[defense, seed] = parse(changed(base, changes))
            except BadScenario as error:
                raise BadScenario(f"row {row['name']!r}: {error}") from error
    goals = tuple(_goal(one, row["name"]) for one in row.get("goals", ()))
    return Case(row["name"], scenarios, goals, row.get("reference", {}))


def _goal(entry: Any, row: str) -> Goal:
    what = f"row {row!r}: goal"
    if not isinstance(entry, dict):
        raise BadScenario(f"{what} must be a table with defense, metric, op and value")
    _require_keys(entry, what, {"defense", "metric", "op", "value"}, {"defense", "metric", "op", "value", "of"})
    if entry["op"] not in OPERATORS:
        raise BadScenario(f"{what}: op = {entry['op']!r} cannot be: it is one of {', '.join(OPERATORS)}")
    return Goal(entry["defense"], entry["metric"], entry["op"], float(entry["value"]), entry.get("of", ""))


def _require_keys(table: Mapping[str, Any], what: str, required: set[str], known: set[str]) -> None:
    missing, unknown = sorted(required - set(table)), sorted(set(table) - known)
    if missing:
        raise BadScenario(f"{what}: add the missing {', '.join(missing)}")
    if unknown:
        raise BadScenario(f"{what}: {unknown[0]} is unknown; choose from {', '.join(sorted(known))}")


Result = tuple[Cell, dict[str, Any] | Exception]
Runner = Callable[[Sequence[Cell], Path], Iterator[Result]]
"""Runs cells with data from a directory and gives each with its row or what it raised, in any order."""


@dataclass
class Tally:
    """What was done: cells that were there before, cells run now, and errors by label."""

    before: int = 0
    done: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def run_sweeps(
    sweeps: Sequence[Sweep],
    data: Path,
    cells: Cells,
    runner: Runner,
    on_cell: Callable[[int, int, str], None] | None = None,
) -> Tally:
    """Run the cells of all sweeps that are not there yet, as one; an error of one leaves the others.

    Searched cells take several times as long as others and come first, so that no worker waits long at the end.

    Args:
        on_cell: called with the number of finished and of all cells, and the label of the one that ended.
    """
    everything: dict[str, Cell] = {}
    for cell in itertools.chain.from_iterable(sweep.cells for sweep in sweeps):
        everything.setdefault(cell.scenario.digest, cell)
    left = [cell for cell in everything.values() if not cells.has(cell.scenario)]
    left.sort(key=lambda cell: not cell.scenario.engine.search)
    tally = Tally(before=len(everything) - len(left))
    for cell, result in runner(left, data):
        if isinstance(result, Exception):
            tally.failed[cell.label] = f"{type(result).__name__}: {result}"
        else:
            cells.keep(cell, result)
            tally.done += 1
        if on_cell is not None:
            on_cell(tally.before + tally.done + len(tally.failed), len(everything), cell.label)
    return tally
