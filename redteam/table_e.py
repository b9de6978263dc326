"""Table E: BAPFL on FedProto, by share of attackers, flip and defence; and its small version for the bench."""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import repeat
from pathlib import Path

import numpy as np

from redteam.attacks.attack import Attack
from redteam.attacks.catalogue import Setting, attackers
from redteam.attacks.parts import ClassSums, Context
from redteam.attacks.prototypes import Bapfl, TriggerSearch
from redteam.datasets import Dataset, load
from redteam.errors import RedTeamError
from redteam.fedproto import Federation, Plan, population
from redteam.prototype_defences import Combine, fedpd, guard, mean
from redteam.rows import Row, over_seeds, shown, write
from silo.data import Records

SEEDS = (1, 2, 3)
"""Seed 0 was for choosing the trigger search and the length of training."""
SEARCH = TriggerSearch(steps=6, stealth=1.0)
SHARE = 0.3
"""Of its records, an attacker selects so many for each trigger."""
PLAN = Plan()
CONTROL = "trigger alone"


@dataclass(frozen=True)
class Cell:
    """One row: attack (empty for none), how many of the silos attack, defence, whether honest silos inoculate."""

    attack: str
    attackers: int
    defence: str
    inoculate: bool = False

    @property
    def name(self) -> str:
        """As the table shows it."""
        who = f"{self.attack}, {100 * self.attackers // PLAN.silos} %" if self.attack else "no attack"
        return f"{who}, {self.defence}{' and inoculation' * self.inoculate}"


DEFENCES: dict[str, Combine] = {"mean": mean, "fedpd": fedpd, "guard": guard}
SMALL = (
    Cell("", 0, "mean"),
    Cell("bapfl-pfs", 6, "mean"),
    Cell(CONTROL, 6, "mean"),
    Cell("bapfl-pfs", 6, "fedpd"),
    Cell("bapfl-pfs", 6, "guard"),
    Cell("bapfl-pfs", 6, "guard", True),
)
CELLS = (
    *SMALL,
    Cell("", 0, "guard", True),
    *(Cell(f"bapfl-{kind}", 6, "mean") for kind in ("pfs-clamped", "obf", "gpf")),
    *(Cell(f"bapfl-{kind}", 6, "guard", True) for kind in ("pfs-clamped", "obf", "gpf")),
    *(Cell("bapfl-pfs", bad, how, also) for bad in (2, 4, 8) for how, also in (("mean", False), ("guard", True))),
)


@dataclass(frozen=True)
class TriggerAlone(Bapfl):
    """The control: triggers are learned, and honest prototypes sent."""

    def send(self, prototypes: ClassSums, context: Context) -> ClassSums:
        """See `Prototypes.send`."""
        super().send(prototypes, context)
        return prototypes


def measure(data: Dataset, cell: Cell, seed: int, plan: Plan = PLAN) -> tuple[float, float | None]:
    """Accuracy of the benign silos' models and, under attack, its success; both in percent."""
    silos = population(data, plan, np.random.default_rng(seed))
    crew = _crew(cell, {name: silos[name] for name in list(silos)[: cell.attackers]}, plan) if cell.attack else {}
    plan = replace(plan, inoculate=cell.inoculate)
    run = Federation(plan, silos, crew, DEFENCES[cell.defence], seed=seed).run()
    success = 100 * run.success(next(iter(crew.values())).ring.triggers) if crew else None
    return 100 * run.accuracy(), success


def small_table_e(
    seed: int, data: Dataset | None = None, plan: Plan = PLAN, workers: int = 1
) -> tuple[dict[str, str | float], ...]:
    """The rows that a bench repeats, one seed: `table`, `row`, `metric`, `goal`, `measured`, `low`, `high`."""
    chosen = data or load("mnist", Path("../shared/data"))
    if workers == 1:
        measured = [measure(chosen, cell, seed, plan) for cell in SMALL]
    else:
        # As sweeps do: never forked, as torch has threads, and one core for each.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            measured = list(pool.map(measure, repeat(chosen), SMALL, repeat(seed), repeat(plan)))
    found = {cell: [one] for cell, one in zip(SMALL, measured, strict=True)}
    return tuple(asdict(row) for row in _rows(SMALL, found))


def _crew(cell: Cell, silos: dict[str, Records], plan: Plan) -> dict[str, Attack]:
    name = "bapfl-pfs" if cell.attack == CONTROL else cell.attack
    crew = attackers(name, Setting(silos, plan.silos))
    for silo, attack in crew.items():
        part = attack.prototypes
        assert isinstance(part, Bapfl)
        kind = TriggerAlone if cell.attack == CONTROL else Bapfl
        part = kind(part.kind, SHARE, part.labels, part.trigger, SEARCH, part.clamped)
        crew[silo] = replace(attack, prototypes=part)
    return crew


def _rows(cells: Sequence[Cell], found: dict[Cell, list[tuple[float, float | None]]]) -> Iterator[Row]:
    """Rows of all cells that were measured; the accuracy's goal is within a point of no attack and no defence."""
    honest = float(np.mean([accuracy for accuracy, _ in found[cells[0]]]))
    for cell in cells:
        values = found.get(cell, [])
        if not values:
            continue
        guarded = cell.defence == "guard"
        goal = f">= {honest - 1:.1f}" if guarded else ""
        yield over_seeds("E", cell.name, "accuracy %", goal, [accuracy for accuracy, _ in values])
        if cell.attack:
            shares = [share for _, share in values if share is not None]
            yield over_seeds("E", cell.name, "attack success %", "<= 15" if guarded else "", shares)


def main() -> None:
    """The small table's cells first; the table is written after every cell, so that a kill leaves what there is."""
    parser = argparse.ArgumentParser(prog="python -m redteam.fedproto", description="Make table E from MNIST.")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="directory with the data sets")
    parser.add_argument("--out", type=Path, default=Path("docs/results/table-e.csv"))
    parser.add_argument("--bench", type=Path, metavar="FILE", help="add the small cells of one seed to this JSON")
    options = parser.parse_args()
    try:
        data = load("mnist", options.data)
    except RedTeamError as error:
        sys.exit(f"redteam.fedproto: error: {error}")
    if options.bench is not None:
        rows = small_table_e(SEEDS[0], data, workers=os.cpu_count() or 1)
        earlier = json.loads(options.bench.read_text()) if options.bench.exists() else []
        options.bench.write_text(json.dumps([*earlier, *rows], indent=1) + "\n")
        print("\n".join(f"{row['row']}: {row['metric']} {row['measured']} {row['goal']}" for row in rows))
        return
    found: dict[Cell, list[tuple[float, float | None]]] = {}
    for cells in (SMALL, CELLS[len(SMALL) :]):
        for seed, cell in itertools.product(SEEDS, cells):
            found.setdefault(cell, []).append(measure(data, cell, seed))
            print(f"seed {seed}  {cell.name}: accuracy, success {found[cell][-1]}", flush=True)
            write(_rows(CELLS, found), options.out)
    for row in _rows(CELLS, found):
        print(shown(row))
