"""A sweep: the rows of one table, each under several defences and seeds, as cells that are run once and kept.

A cell's result is one JSON file, named by a digest of its whole scenario and written by rename: after a kill, what is
there is whole and is not run again. Workers are processes, one scenario at a time each; one that dies is replaced.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redteam.errors import BadAttack, BadDataFile, BadScenario
from redteam.scenario import Scenario, changed, parse, read_table

OPERATORS = ("<=", ">=")
POOLED = "all rows"
BETWEEN = " / "
"""Between row and defence where a goal names another row."""


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
        """The single numbers of a run, or None where it was not run; raises BadDataFile for a damaged result."""
        result = self._result(scenario)
        return None if result is None else dict(result["metrics"])

    def honest(self, scenario: Scenario) -> list[dict[str, Any]]:
        """The honest silos of a run, as `measured.SiloRow` writes them; none where it was not run. See `metrics`."""
        result = self._result(scenario) or {}
        return [one for one in result.get("silos", []) if not one["attacks"]]

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

    def _result(self, scenario: Scenario) -> dict[str, Any] | None:
        """What was written, None where the scenario was not run; raises BadDataFile where it cannot be read."""
        if not self.has(scenario):
            return None
        path = self._path(scenario)
        try:
            result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            whole = isinstance(result["metrics"], dict) and isinstance(result.get("silos", []), list)
        except (ValueError, TypeError, KeyError, AttributeError):
            whole = False
        if not whole:
            raise BadDataFile(f"{path} is no whole result of a cell: delete it and run `concordat-redteam sweep` again")
        return result

    def _path(self, scenario: Scenario) -> Path:
        return self.directory / f"{scenario.digest}.json"


def read_sweep(path: Path) -> Sweep:
    """The sweep in a TOML file; every scenario of it is parsed.

    Raises:
        BadScenario, BadAttack: names the file, the row, and the key that does not fit.
    """
    table = read_table(path)
    try:
        return parse_sweep(table)
    except (BadScenario, BadAttack) as error:
        raise type(error)(f"{path}: {error}") from error


def parse_sweep(table: Mapping[str, Any]) -> Sweep:
    """The sweep of parsed TOML.

    Keys: `table`, `title`, `scenario` (a table of common values), `seeds`, `defenses`, and `rows`, each with `name`,
    `changes` (dotted keys), and optionally `defenses`, `seeds`, `goals` and `reference`; optionally `cut`, `why`,
    `goals` over all rows, `searched`: defences whose models are searched for triggers, and `axes`: lists of `name` and
    `changes`; each row is repeated by every combination of them.

    Raises:
        BadScenario, BadAttack: names what is missing, unknown or does not fit.
    """
    _require(table, "sweep", _SWEEP, {"table", "title", "seeds", "defenses", "rows"})
    rows = [variant for row in table["rows"] for variant in _variants(row, table.get("axes", []))]
    cases = tuple(_case(row, table.get("scenario", {}), table) for row in rows)
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        raise BadScenario("sweep: two rows have one name; rename one")
    goals = tuple(_goal(one, POOLED) for one in table.get("goals", ()))
    sweep = Sweep(table["table"], table["title"], table.get("cut", ""), table.get("why", ""), cases, goals)
    _require_columns(sweep)
    return sweep


def _variants(row: Mapping[str, Any], axes: Sequence[Sequence[Mapping[str, Any]]]) -> Iterator[dict[str, Any]]:
    """The row once for each combination of the axes; goals that name another row mean its same variant."""
    _require(row, f"row {row.get('name', '')!r}", _ROW, {"name"})
    for point in itertools.chain.from_iterable(axes):
        _require(point, "sweep: axes", _POINT, set(_POINT))
    for points in itertools.product(*axes):
        suffix = "".join(f", {point['name']}" for point in points)
        changes = {key: value for point in points for key, value in point["changes"].items()}
        yield {
            **row,
            "name": f"{row['name']}{suffix}",
            "changes": {**changes, **row.get("changes", {})},
            "goals": [_elsewhere(goal, suffix) for goal in row.get("goals", ())],
        }


def _elsewhere(goal: Mapping[str, Any], suffix: str) -> Mapping[str, Any]:
    name, between, defense = str(goal.get("of", "")).rpartition(BETWEEN)
    return {**goal, "of": f"{name}{suffix}{between}{defense}"} if between and name != POOLED else goal


def _case(row: Mapping[str, Any], base: Mapping[str, Any], table: Mapping[str, Any]) -> Case:
    scenarios = {}
    for defense in row.get("defenses", table["defenses"]):
        for seed in row.get("seeds", table["seeds"]):
            searched = {"engine.search": True} if defense in table.get("searched", []) else {}
            changes = {"federation.defense": defense, "seed": seed, **searched, **row.get("changes", {})}
            try:
                scenarios[defense, seed] = parse(changed(base, changes))
            except (BadScenario, BadAttack) as error:
                raise type(error)(f"row {row['name']!r}: {error}") from error
    goals = tuple(_goal(one, row["name"]) for one in row.get("goals", ()))
    return Case(row["name"], scenarios, goals, row.get("reference", {}))


def _goal(entry: Mapping[str, Any], row: str) -> Goal:
    what = f"row {row!r}: goal"
    _require(entry, what, _GOAL, {"defense", "metric", "op", "value"})
    if entry["op"] not in OPERATORS:
        raise BadScenario(f"{what}: op = {entry['op']!r} cannot be: it is one of {', '.join(OPERATORS)}")
    return Goal(entry["defense"], entry["metric"], entry["op"], float(entry["value"]), entry.get("of", ""))


def _require_columns(sweep: Sweep) -> None:
    """Raises BadScenario for a goal on what the table will not have: a defence that its row is not run under."""
    own = {case.name: sorted({defense for defense, _ in case.scenarios}) for case in sweep.cases}
    own[POOLED] = sorted({defense for names in own.values() for defense in names})
    columns = {f"{row}{BETWEEN}{defense}" for row, names in own.items() for defense in names}
    goals = [(case.name, goal) for case in sweep.cases for goal in case.goals]
    for row, goal in goals + [(POOLED, goal) for goal in sweep.goals]:
        what = f"row {row!r}: goal"
        if goal.defense not in own[row]:
            raise BadScenario(f"{what}: defense = {goal.defense!r} cannot be: it is one of {', '.join(own[row])}")
        if goal.of and goal.of not in columns:
            raise BadScenario(f"{what}: of = {goal.of!r} cannot be: it is ROW{BETWEEN}DEFENSE of this sweep")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_list_of(kind: type, least: int = 0) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) >= least and all(type(one) is kind for one in value)


def _is_reference(value: Any) -> bool:
    tables = isinstance(value, dict) and all(isinstance(one, dict) for one in value.values())
    return tables and all(_is_number(number) for one in value.values() for number in one.values())


Kind = tuple[str, Callable[[Any], bool]]
"""What a value is, in words, and whether it is that."""
_TEXT: Kind = ("a text", lambda value: isinstance(value, str))
_NUMBER: Kind = ("a number", _is_number)
_TABLE: Kind = ("a table", lambda value: isinstance(value, dict))
_TABLES: Kind = ("a list of tables", _is_list_of(dict))
_SEEDS: Kind = ("a list of one or more whole numbers", _is_list_of(int, 1))
_NAMES: Kind = ("a list of one or more names", _is_list_of(str, 1))
_POINT = {"name": _TEXT, "changes": _TABLE}
_GOAL = {"defense": _TEXT, "metric": _TEXT, "op": _TEXT, "value": _NUMBER, "of": _TEXT}
_REFERENCE: Kind = ("a table of defences, each a table of numbers", _is_reference)
_ROW = {**_POINT, "defenses": _NAMES, "seeds": _SEEDS, "goals": _TABLES, "reference": _REFERENCE}
_AXES: Kind = (
    "a list of lists of tables",
    lambda value: isinstance(value, list) and all(_is_list_of(dict, 1)(axis) for axis in value),
)
_SWEEP = {
    "table": _TEXT, "title": _TEXT, "cut": _TEXT, "why": _TEXT, "seeds": _SEEDS, "defenses": _NAMES,
    "searched": ("a list of names", _is_list_of(str)), "scenario": _TABLE, "axes": _AXES, "goals": _TABLES,
    "rows": ("a list of one or more tables", _is_list_of(dict, 1)),
}  # fmt: skip


def _require(table: Mapping[str, Any], what: str, kinds: Mapping[str, Kind], required: set[str]) -> None:
    """Raises BadScenario for keys that are missing or unknown, and for values of another kind."""
    missing, unknown = sorted(required - set(table)), sorted(set(table) - set(kinds))
    if missing:
        raise BadScenario(f"{what}: add the missing {', '.join(missing)}")
    if unknown:
        raise BadScenario(f"{what}: {unknown[0]} is unknown; choose from {', '.join(sorted(kinds))}")
    for key, value in table.items():
        words, fits = kinds[key]
        if not fits(value):
            raise BadScenario(f"{what}: {key} = {value!r} cannot be: it is {words}")


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
