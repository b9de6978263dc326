"""Facts on a terminal: tables with aligned numbers, and a progress bar where somebody looks on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from audit.find_table import HONEST, LEVELS, table_of
from audit.findings import FindFacts, PartFacts, SearchFacts, described, support
from audit.intervals import percent_span
from audit.pictures import blocks
from protos.codec import decode
from protos.task import MICRO

Facts = dict[str, Any]
_WIDE = 4096
_MOST_ROUNDS = 12
"""Newest rounds of a find that are printed; the certificate has them all."""
_COLOURS = {
    "excluded": "red", "convicted": "red", "suspected": "yellow", "late": "yellow", "withdrawn": "yellow",
    "void": "yellow", "retained": "green", "adopted": "green",
}  # fmt: skip


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on stderr; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def verified(facts: Facts) -> None:
    """A log that holds."""
    console = _console()
    console.print(f"[green]The log holds[/]: {facts['records']} records, {facts['rounds']} rounds, {facts['phase']}.")
    _pairs(console, facts, ("federation", "digest", "model", "heads_checked"))
    table = _table("silo", numbers=("co-signed records",))
    for silo, size in sorted(facts["cosigned"].items()):
        table.add_row(silo, str(size))
    if facts["cosigned"]:
        console.print(table)


def overview(facts: Facts) -> None:
    """Every record in one line."""
    table = _table("time", "kind", "what", numbers=("record", "round"), lead=("record",))
    for row in facts["records"]:
        when = datetime.fromtimestamp(row["time_ms"] / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        number = "" if row["round"] is None else str(row["round"])
        table.add_row(str(row["record"]), when, row["kind"], escape(row["what"]), number)
    _console().print(table)


def round_of(facts: Facts) -> None:
    """One round."""
    console = _console()
    console.print(f"Round {facts['round']}: {_coloured(facts['result'])} {escape(facts['reason'])}")
    _pairs(console, facts, ("records", "model_before", "model_after", "quorum", "privacy_minimum", "defense", "fault"))
    _fates(console, "silo", facts["silos"])
    for search in facts["searches"]:
        _search(console, decode(SearchFacts, search))


def _search(console: Console, search: SearchFacts) -> None:
    silent = f", silent {', '.join(search.silent)}" if search.silent else ""
    console.print(f"\nSearch of model {search.model[:16]}: {search.result}, {search.reports} reports{silent}")
    for find in (*search.finds, *search.standing):
        console.print(f"[red]{escape(described(find.trigger))}[/]")
        console.print(f"  {support(search, find)}")
        for line in blocks(find.trigger):
            console.print(f"  |{line}|", markup=False)
        console.print(f"  {find.agreeing} of {find.tables} tables agree")
        if find.parts:
            console.print(_parts(find))


def _parts(find: FindFacts) -> Table:
    made = table_of(find, _MOST_ROUNDS)
    table = _table("silo", "convicted", numbers=made.columns, lead=("silo", "convicted", *made.columns))
    for part, cells in made.silos:
        table.add_row(part.silo, _guilt(part), *cells)
    if made.levels:
        table.add_row(LEVELS, "", *made.levels)
    table.add_row("the others", "", *made.others)
    table.caption = HONEST
    return table


def _guilt(part: PartFacts) -> str:
    return "[red]yes[/]" if part.convicted else "elsewhere" if part.elsewhere else ""


def silo_of(facts: Facts) -> None:
    """One silo."""
    console = _console()
    _pairs(console, facts, ("silo", "records", "classes", "signing_key", "exchange_key"))
    _fates(console, "round", facts["rounds"])


def record(facts: Facts) -> None:
    """One record as indented JSON."""
    console = _console()
    console.print(f"digest {facts['digest']}")
    console.print(json.dumps(facts["record"], indent=2, sort_keys=True), markup=False, highlight=False)


def certified(facts: Facts) -> None:
    """What a new certificate says in short."""
    console = _console()
    clauses = _table("clause", "met", "detail")
    for clause in facts["clauses"]:
        clauses.add_row(clause["name"], "[green]yes[/]" if clause["met"] else "[red]NO[/]", escape(clause["detail"]))
    console.print(clauses)
    numbers = ("records", "rounds", "excluded", "weight", "epsilon", "accuracy", "95 %")
    silos = _table("silo", "convicted", numbers=numbers, lead=("silo", *numbers))
    for silo in facts["silos"]:
        silos.add_row(*_silo_cells(silo))
    console.print(silos)
    if facts["gap"]:
        console.print(f"accuracy gap between silos: {_percent(facts['gap'])} ({_interval(facts['gap'])})")
    console.print(f"policy {'[green]met[/]' if facts['met'] else '[red]NOT met[/]'}; {escape(facts['certificate'])}")
    if facts["report"]:
        console.print(f"report: {escape(facts['report'])}")


def checked(facts: Facts) -> None:
    """A certificate that holds."""
    console = _console()
    console.print(f"[green]The certificate follows from the log[/] ({facts['records']} records).")
    console.print(f"policy {'[green]met[/]' if facts['met'] else '[red]NOT met[/]'}")
    if facts["model_checked"]:
        console.print(f"The model file is the certified one: {facts['model']}")


def _fates(console: Console, first: str, rows: list[Facts]) -> None:
    table = _table(first, "state", "verdict", "reason", numbers=("weight", "epsilon"), lead=(first, "state", "verdict"))
    for row in rows:
        epsilon = "" if row["epsilon_micro"] is None else f"{-(-row['epsilon_micro'] // 1000) / 1000:.3f}"
        weight = "" if row["weight"] is None else str(row["weight"])
        verdict = _coloured(row["verdict"] or "")
        table.add_row(str(row[first]), _coloured(row["state"]), verdict, escape(row["reason"]), weight, epsilon)
    console.print(table)


def _silo_cells(silo: Facts) -> tuple[str, ...]:
    weights = "" if silo["weight_min"] is None else f"{silo['weight_min']} to {silo['weight_max']}"
    accuracy = silo["accuracy"]
    return (
        silo["silo"],
        str(silo["records"]),
        f"{silo['taken_part']}/{silo['planned']}",
        str(silo["excluded"]),
        weights,
        f"{-(-silo['epsilon_micro'] // 1000) / 1000:.3f}",
        _percent(accuracy) if accuracy else "",
        _interval(accuracy) if accuracy else "",
        escape(silo["convicted"] or ""),
    )


def _table(*texts: str, numbers: tuple[str, ...] = (), lead: tuple[str, ...] = ()) -> Table:
    """Columns of texts (left) and numbers (right); those in `lead` come first, the others keep their order."""
    order = [*lead, *(name for name in (*texts, *numbers) if name not in lead)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in order:
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold", no_wrap=name in numbers)
    return table


def _pairs(console: Console, facts: Facts, names: tuple[str, ...]) -> None:
    for name in names:
        value = facts.get(name)
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        console.print(f"{name.replace('_', ' '):>16}  {escape(text)}", soft_wrap=True)


def _console() -> Console:
    # What goes into a file or pipe is not wrapped to the width of a terminal that nobody looks at.
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=_WIDE)


def _coloured(word: str) -> str:
    colour = _COLOURS.get(word)
    return f"[{colour}]{word}[/]" if colour else escape(word)


def _percent(accuracy: Facts) -> str:
    return f"{accuracy['estimate_micro'] / MICRO:.1%}"


def _interval(accuracy: Facts) -> str:
    return percent_span(accuracy["low_micro"], accuracy["high_micro"])
