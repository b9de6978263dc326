"""`concordat-redteam`: attacks and defences on the engine that ships. It parses, wires, prints and exits."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from protos.program import OK, REFUSED, UNUSABLE, Program
from redteam.errors import BadScenario, RedTeamError, SweepFailed

if TYPE_CHECKING:
    from redteam.sweep import Runner, Sweep
    from redteam.tables import Entry

DATA = Path("../shared/data")


def main() -> None:
    """Entry point of the command."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and give its exit code; errors go to stderr in one line."""
    return _PROGRAM.run(_parser(), arguments)


def _code_of(error: Exception) -> int | None:
    from silo.errors import SiloError

    if isinstance(error, SweepFailed):
        return REFUSED
    return UNUSABLE if isinstance(error, RedTeamError | SiloError | OSError) else None


_PROGRAM = Program(
    "concordat-redteam",
    "Run attacks against defences in a simulated federation, and make tables of what came of it.",
    """exit codes:
  0  done
  1  a cell of a sweep failed; the others are kept
  2  wrong usage, a scenario that cannot be, or data that are absent
""",
    _code_of,
    interrupted="interrupted; finished cells are kept, run it again to go on",
)


def _parser() -> argparse.ArgumentParser:
    parser = _PROGRAM.parser()
    commands = _PROGRAM.commands(parser)
    one = _PROGRAM.command(commands, "run", _run, "run one scenario and print its row")
    one.add_argument("scenario", type=Path, metavar="SCENARIO.toml")
    _add_data(one)
    one.add_argument("--out", type=Path, metavar="FILE", help="write the whole row as JSON")
    many = _PROGRAM.command(commands, "sweep", _sweep, "run the cells of sweeps that are not there yet")
    _add_sweeps(many)
    _add_data(many)
    many.add_argument("--workers", type=_positive, default=None, metavar="N", help="processes (default: all cores)")
    many.add_argument("--ray", metavar="ADDRESS", help="use a Ray cluster instead; `local` starts one here")
    table = _PROGRAM.command(commands, "table", _table, "make tables of the cells of sweeps")
    _add_sweeps(table)
    table.add_argument("--csv", type=Path, metavar="DIR", help="write a CSV for each table, and sweeps.md")
    table.add_argument("--json", type=Path, metavar="FILE", help="write rows of goal and measured as JSON")
    plot = _PROGRAM.command(commands, "plot", _plot, "draw a metric of sweeps as SVG")
    _add_sweeps(plot)
    plot.add_argument("--metric", default="success", help="a metric within 0 and 1 (default: success)")
    plot.add_argument("--svg", type=Path, required=True, metavar="DIR", help="where to write one SVG for each table")
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR", help=f"the data sets (default: {DATA})")


def _add_sweeps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweeps", type=Path, nargs="+", metavar="SWEEP.toml")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where results of cells are kept")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is no number of processes")
    return value


def _run(options: argparse.Namespace) -> int:
    from audit.display import progress
    from redteam.run import run as run_scenario
    from redteam.scenario import read

    scenario = read(options.scenario)
    if options.out is not None:
        _require_writable(options.out)
    with progress("rounds") as bar:
        row = run_scenario(scenario, options.data, bar)
    if options.out is not None:
        options.out.write_text(json.dumps(row.to_json(), indent=1) + "\n")
    from redteam.display import show_row

    show_row(row)
    return OK


def _require_writable(path: Path) -> None:
    """Before a run that may take hours; raises OSError where its result could not be written."""
    if not path.parent.is_dir():
        raise FileNotFoundError(
            errno.ENOENT, "no such directory: make it first, or name another --out", str(path.parent)
        )
    absent = not path.exists()
    with path.open("a"):
        pass
    if absent:
        path.unlink()


def _sweep(options: argparse.Namespace) -> int:
    from redteam.sweep import Cells, read_sweep, run_sweeps

    sweeps = [read_sweep(path) for path in options.sweeps]
    options.out.mkdir(parents=True, exist_ok=True)
    with _watched(sweeps) as on_cell:
        tally = run_sweeps(sweeps, options.data, Cells(options.out), _runner(options), on_cell)
    print(f"{tally.before} cells were there, {tally.done} were run, {len(tally.failed)} failed")
    for label, reason in tally.failed.items():
        sys.stderr.write(f"concordat-redteam: {label}: {reason}\n")
    return REFUSED if tally.failed else OK


def _runner(options: argparse.Namespace) -> Runner:
    from redteam.runners import processes, ray_cluster

    return ray_cluster(options.ray) if options.ray else processes(options.workers or _cores())


def _cores() -> int:
    return len(os.sched_getaffinity(0))


@contextmanager
def _watched(sweeps: Sequence[Sweep]) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on a terminal; else one line a cell on stderr."""
    from audit.display import progress

    with progress(f"tables {', '.join(sweep.table for sweep in sweeps)}") as bar:

        def on_cell(done: int, total: int, label: str) -> None:
            if bar is not None:
                bar(done, total)
            else:
                sys.stderr.write(f"{done}/{total} {label}\n")

        yield on_cell


def _entries(options: argparse.Namespace) -> list[tuple[Sweep, list[Entry]]]:
    """What is measured of each sweep; raises BadScenario where that is nothing, and says how much is missing."""
    from redteam.sweep import Cells, read_sweep
    from redteam.tables import entries

    sweeps, cells = [read_sweep(path) for path in options.sweeps], Cells(options.out)
    for path, sweep in zip(options.sweeps, sweeps, strict=True):
        wanted = len(sweep.cells)
        missing = sum(not cells.has(cell.scenario) for cell in sweep.cells)
        how = f"run `concordat-redteam sweep {path} --out {options.out}`"
        if missing == wanted:
            raise BadScenario(f"table {sweep.table}: none of its {wanted} cells is in {options.out}: {how} first")
        if missing:
            sys.stderr.write(
                f"concordat-redteam: table {sweep.table}: {missing} of {wanted} cells are missing in {options.out}; "
                f"{how} for all of them\n"
            )
    return [(sweep, entries(sweep, cells)) for sweep in sweeps]


def _table(options: argparse.Namespace) -> int:
    from redteam.display import show_table
    from redteam.results import file_name, readme
    from redteam.tables import to_bench, to_csv

    found = _entries(options)
    for sweep, entries in found:
        show_table(sweep, entries)
    if options.csv is not None:
        options.csv.mkdir(parents=True, exist_ok=True)
        for sweep, entries in found:
            (options.csv / file_name(sweep.table, "csv")).write_text(to_csv(entries))
        (options.csv / "sweeps.md").write_text(readme(found, {path.name for path in options.csv.glob("table-*.csv")}))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        rows = [row for _, entries in found for row in to_bench(entries)]
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return OK


def _plot(options: argparse.Namespace) -> int:
    from redteam.plots import plot
    from redteam.results import file_name

    plots = {sweep.table: plot(entries, options.metric) for sweep, entries in _entries(options)}
    options.svg.mkdir(parents=True, exist_ok=True)
    for table, drawn in plots.items():
        (options.svg / file_name(f"{table}-{options.metric}", "svg")).write_text(drawn)
    return OK


if __name__ == "__main__":
    main()
