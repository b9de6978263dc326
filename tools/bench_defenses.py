"""Benchmark of the defences: `python -m tools.bench_defenses [--quick] [--csv FILE]` (`make bench-defenses`).

Every defence of the registry judges rounds of n honest silos: MNIST's network of 101,770 parameters in four folds, with
output layer and prototypes. So do the rules that a policy cannot name: one more silo is the root of FLTrust, the first
one MoNNA's pivot, and losses are of as many rounds as the Guard remembers. Times are processor seconds of one `decide`,
the fastest of several (a busy machine disturbs them least); memory is the peak above what the exhibits hold. FLAME
stands beside them twice: its filter on sketches, as in the registry, and whole, on updates in plaintext, which is what
its authors describe. The Guard stands there twice too: in the first round, and with all the past that it reads. Bytes
are what a silo sends for the coordinator to read; all weighting rules read the same. `OMP_NUM_THREADS=1` keeps linear
algebra on one thread.

Aggregation rules get updates in plaintext of the size that FLAME whole gets, and assume a tenth of the silos to be
liars; `fedpd` gets prototypes, which is what it combines. Those that compare whole updates two by two would take many
minutes for a thousand silos: beyond a hundred they get a hundredth of the parameters, say so, and have no ratio.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from crypto.packing import Packing
from defenses import aggregation, registry
from defenses.decide import decide
from defenses.drift import WINDOW
from defenses.errors import DefenseError
from defenses.evidence import Earlier, Exhibit, Setting
from defenses.fairness import Afl, QFedAvg
from defenses.geometric import Monna
from defenses.laws import noise_of
from defenses.rule import Defense
from defenses.similarity import FlTrust, majority_cluster
from defenses.sketches import Floats
from protos.records import Judgement
from protos.task import PROTOTYPE_GRID, Layout, TensorSpec

OUT = Path("build/bench/defenses.json")
SILOS = (10, 100, 1000)
REFERENCE, WHOLE = "flame-filter", "flame (plaintext, whole)"
WITH_PAST = "guard, with a past"
PLAINTEXT = "reads updates in plaintext"
TWO_BY_TWO, WHOLE_UP_TO, CUT = ("arc", "bulyan", "nnm"), 100, 100
"""Rules whose time grows with n² d, the silos up to which they get whole updates, and the part they get of more."""
REPETITIONS, ENOUGH = 9, 10.0
"""Runs of each, and the seconds after which no further one is begun."""
GOAL_RATIO, GOAL_SECONDS = 2.0, 10.0
EMBEDDING, CLASSES, INPUTS, FOLDS = 128, 10, 784, 4


@dataclass(frozen=True)
class Row:
    """Cost of one defence at one number of silos. Ratios are to FLAME's filter and to FLAME whole in the same run."""

    defense: str
    silos: int
    seconds: float
    slowest: float
    megabytes: float
    bytes_per_silo: int
    to_filter: float | None
    to_flame: float | None
    note: str = ""


@dataclass(frozen=True)
class Cost:
    """Processor seconds of each repetition, none where the rule refused, and peak megabytes.

    `note` says why it refused, or what it read; `cut` that it was less than the others read.
    """

    seconds: list[float]
    megabytes: float
    bytes_per_silo: int
    note: str = ""
    cut: bool = False


def a_round(silos: int, seed: int = 1) -> tuple[Setting, list[Exhibit]]:
    """A round of honest silos with 300 to 3,000 records each: noise of DP-SGD and prototypes about common centres."""
    rng = np.random.default_rng(seed)
    packing = Packing.of(_layout(), FOLDS)
    setting = Setting(
        learning_rate=2.0, clip=1.0, noise_multiplier=1.0, sample_rate=0.1, steps=10, step=2.0**-9,
        column_counts=packing.column_counts, folds=FOLDS,
        signs=rng.choice(np.array([-1, 1], dtype=np.int8), (FOLDS, packing.body_chunks)),
        body_size=packing.size - packing.output_size, output_size=packing.output_size, embedding=EMBEDDING,
        classes=CLASSES, prototype_clip=1.0, prototype_noise=3.0, floor=0.5, cap=2.0,
        total_weight=1024, fdr=0.01, count_noise=5.0,
    )  # fmt: skip
    centres = rng.normal(0, 0.5 / np.sqrt(EMBEDDING), (CLASSES, EMBEDDING))
    return setting, [_exhibit(setting, _silo(place), centres, rng) for place in range(silos)]


def a_past(setting: Setting, exhibits: Sequence[Exhibit], rounds: int, seed: int = 3) -> list[Earlier]:
    """Earlier rounds in which every silo was retained, with output layers of noise."""
    rng = np.random.default_rng(seed)
    judgements = tuple(Judgement(one.silo, one.count, (), "retained", "", 1) for one in exhibits)
    return [
        Earlier(setting, judgements, {one.silo: rng.permutation(one.output) for one in exhibits}) for _ in range(rounds)
    ]


def with_arguments(root: Exhibit, silos: int) -> tuple[Defense, ...]:
    """The rules that read what stands in no log, with a root update, a pivot and losses for rounds of so many silos."""
    drawn = np.random.default_rng(4).uniform(0.05, 0.5, (WINDOW, silos))
    losses = [{_silo(place): float(loss) for place, loss in enumerate(row)} for row in drawn]
    return FlTrust(lambda _: root), Monna(_silo(0)), QFedAvg(lambda _: losses), Afl(lambda _: losses)


def judging(name: str, setting: Setting, exhibits: Sequence[Exhibit], repetitions: int, rounds: int = 0) -> Cost:
    """What a weighting rule takes; `rounds` is how many earlier rounds it may remember."""
    # Integer weights need W at least some times n; the policy's 1,024 do not go round among a thousand silos.
    setting = replace(setting, total_weight=1024 * max(1, len(exhibits) // 50))
    try:
        past = a_past(setting, exhibits, rounds)
        return Cost(*timed(lambda: decide(setting, exhibits, name, {}, past), repetitions), _bytes_sent())
    except DefenseError as error:
        return Cost([], 0.0, _bytes_sent(), str(error)[:120])


def aggregating(name: str, updates: Floats, repetitions: int) -> Cost:
    """What an aggregation rule takes with updates float64[n, d], or with the part of them that it gets."""
    silos, size = updates.shape
    sent, note = 4 * size, PLAINTEXT
    cut = name in TWO_BY_TWO and silos > WHOLE_UP_TO
    if cut:
        note = f"{PLAINTEXT}, {size // CUT:,} of {size:,} parameters"
        updates = updates[:, : size // CUT].copy()
    if name == "fedpd":
        sent, note = 8 * CLASSES * EMBEDDING, "reads prototypes in plaintext"
        updates = updates[:, : CLASSES * EMBEDDING].copy()
    rule, weights, rng = aggregation.get(name).aggregate, np.ones(silos), np.random.default_rng(2)
    return Cost(*timed(lambda: rule(updates, weights, silos // 10, rng), repetitions), sent, note, cut)


def timed(work: Callable[[], object], repetitions: int) -> tuple[list[float], float]:
    """Processor seconds of each run after a first one, whose peak memory in megabytes is the second value.

    Of what takes long there are fewer runs than `repetitions`, at least one.
    """
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    seconds: list[float] = []
    while len(seconds) < repetitions and sum(seconds) < ENOUGH:
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return seconds, peak


def costs(silos: int, repetitions: int) -> dict[str, Cost]:
    """Costs by name of every weighting rule, of the Guard with a past, of FLAME whole and of every aggregation rule."""
    setting, (*exhibits, root) = a_round(silos + 1)
    with registry.registered(*with_arguments(root, silos)):
        found = {name: judging(name, setting, exhibits, repetitions) for name in registry.names()}
    found[WITH_PAST] = judging("guard", setting, exhibits, repetitions, WINDOW)
    updates = np.random.default_rng(2).normal(size=(silos, _layout().size))
    found[WHOLE] = aggregating("flame", updates, repetitions)
    for name in aggregation.names():
        if name != "flame":
            found[name] = aggregating(name, updates, repetitions)
    return found


def measured(silos: Sequence[int], repetitions: int) -> list[Row]:
    """All rows, at every number of silos."""
    # Loads scikit-learn, whose memory is no rule's.
    majority_cluster(np.zeros((3, 3)))
    rows = []
    for number in silos:
        found = costs(number, repetitions)
        by_filter, by_flame = min(found[REFERENCE].seconds), min(found[WHOLE].seconds)
        for name, cost in found.items():
            size, note = cost.bytes_per_silo, cost.note
            if not cost.seconds:
                rows.append(Row(name, number, 0.0, 0.0, 0.0, size, None, None, note))
                continue
            best = min(cost.seconds)
            to_filter, to_flame = (None if cost.cut else round(best / one, 3) for one in (by_filter, by_flame))
            times = round(best, 5), round(max(cost.seconds), 5)
            rows.append(Row(name, number, *times, round(cost.megabytes, 2), size, to_filter, to_flame, note))
    return rows


def entries(rows: Sequence[Row]) -> list[dict[str, object]]:
    """The rows as `table`, `row`, `metric`, `goal`, `measured`, `low`, `high`."""
    made: list[dict[str, object]] = []
    for row in rows:
        guard = row.defense == "guard"
        goals = {
            "seconds": GOAL_SECONDS if guard and row.silos == 1000 else None,
            "ratio to FLAME whole": GOAL_RATIO if guard and row.silos == 100 else None,
            "ratio to FLAME's filter": GOAL_RATIO if guard and row.silos == 100 else None,
        }
        values = {
            "seconds": row.seconds, "megabytes": row.megabytes, "bytes per silo": row.bytes_per_silo,
            "ratio to FLAME whole": row.to_flame, "ratio to FLAME's filter": row.to_filter,
        }  # fmt: skip
        for metric, value in values.items():
            # Rows without a ratio are of rules that refused, or that read less than the others.
            if value is None or row.to_flame is None:
                continue
            spread = (row.seconds, row.slowest) if metric == "seconds" else (value, value)
            made.append(
                {
                    "table": "J",
                    "row": f"{row.defense}, n = {row.silos}",
                    "metric": metric,
                    "goal": goals.get(metric),
                    "measured": value,
                    "low": spread[0],
                    "high": spread[1],
                }
            )
    return made


def table(rows: Sequence[Row]) -> Table:
    """The result for a terminal."""
    made = Table(title="Seconds and memory of one decision", title_justify="left")
    for name in ("defence", "silos", "seconds", "MB", "bytes a silo", "to filter", "to FLAME", ""):
        made.add_column(name, justify="left" if name in ("defence", "") else "right")
    for row in rows:
        ratios = ["" if ratio is None else f"{ratio:.2f}" for ratio in (row.to_filter, row.to_flame)]
        numbers = (f"{row.seconds:.4f}", f"{row.megabytes:.1f}", f"{row.bytes_per_silo:,}")
        made.add_row(row.defense, str(row.silos), *numbers, *ratios, row.note)
    return made


def run(silos: Sequence[int], repetitions: int, out: Path, csv_file: Path | None = None) -> list[Row]:
    """Measure, print and write."""
    before = os.getloadavg()[0]
    rows = measured(silos, repetitions)
    console = Console(width=160)
    console.print(table(rows))
    load = f"{before:.1f} at the start, {os.getloadavg()[0]:.1f} at the end"
    console.print(f"Processes that wanted one of {os.cpu_count()} processors, on average over a minute: {load}.")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(entries(rows), indent=1) + "\n", encoding="utf-8")
    if csv_file:
        with csv_file.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
    return rows


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description="benchmark of the defences")
    parser.add_argument("--quick", action="store_true", help="10 and 100 silos only, one repetition")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the rows as CSV too")
    options = parser.parse_args()
    run(SILOS[:2] if options.quick else SILOS, 1 if options.quick else REPETITIONS, OUT, options.csv)


def _silo(place: int) -> str:
    return f"silo{place:04d}"


def _layout() -> Layout:
    hidden, output = EMBEDDING * (INPUTS + 1), CLASSES * (EMBEDDING + 1)
    tensors = (TensorSpec("hidden", (hidden,), 0), TensorSpec("output", (output,), hidden))
    return Layout(tensors, hidden + output, hidden, output, EMBEDDING, CLASSES, "0" * 64)


def _exhibit(setting: Setting, silo: str, centres: np.ndarray, rng: np.random.Generator) -> Exhibit:
    count = int(rng.integers(300, 3000))
    deviation = float(np.sqrt(noise_of(setting, count).gaussian))
    folds = rng.normal(0, deviation, (setting.folds, setting.width)) * np.sqrt(setting.column_counts)
    each = count // CLASSES
    spread = np.hypot(setting.prototype_noise, 0.5 * np.sqrt(each / EMBEDDING))
    prototypes = (each * centres + rng.normal(0, spread, centres.shape)) * PROTOTYPE_GRID
    output = rng.normal(0, deviation, setting.output_size)
    whole = [np.rint(part).astype(np.int64) for part in (folds, output, prototypes)]
    return Exhibit(silo, count, np.full(CLASSES, each), *whole)


def _bytes_sent() -> int:
    setting, exhibits = a_round(1)
    prototypes = exhibits[0].prototypes
    return 4 * (setting.folds * setting.width + setting.output_size) + 8 * (
        0 if prototypes is None else prototypes.size
    )


if __name__ == "__main__":
    main()
