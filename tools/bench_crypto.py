"""Benchmark of the secure sum: `python -m tools.bench_crypto [--quick]` (`make bench-crypto`).

In one process, on the same vectors: the usual way (`tools.bench_usual`), ours, and plain float32. The three take turns
in every repetition, so that a busy machine slows them alike. Every result is checked before it counts. What is timed:

- *bytes*: all that a silo uploads for one update (usual: vectors and context; ours: chunks and tags).
- *encrypt*: from numbers to bytes (usual: floats; ours: quantised fields, range check and tags included).
- *load and weighted sum*: from the bytes of all silos to the sum, tensor by tensor or chunk by chunk. The usual way
  adds only, since its silos weight before they encrypt; a second row has it multiply at the coordinator, as ours does.
- *decrypt*: from the bytes of the sum to numbers in the model's order (ours with all checks: whole, range, tags).
  Multiplied sums of the usual way have lost a modulus, and decrypt faster: again a second row.

Times are the fastest of several repetitions (what a busy machine disturbs least); the slowest stand beside them.

Five different updates stand for any number of silos: bytes of one update cost what bytes of another do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from crypto import ring, tags
from crypto.ckks import CkksKey
from crypto.packing import Packing
from crypto.quantise import quantise, randomness_needed
from crypto.secure_sum import Contribution, Protected, SiloSum, deal
from crypto.sketch import signs, sketch
from protos.task import Layout
from tools.bench_usual import Usual

GOALS = {"bytes": 0.19, "encrypt": 0.15, "load and weighted sum": 0.12, "decrypt": 0.12}
GOALS_S_PER_MILLION = {"sketch": 0.060, "tags": 0.040}
TOTAL_WEIGHT, STEP_LOG2 = 1024, -12
PLAN = "b5" * 32
OUT = Path("build/bench/crypto.json")


@dataclass(frozen=True)
class Case:
    """One size of model: parameters, folds of a sketch, numbers of silos, repetitions, different updates.

    Eight folds need 64 chunks, 524,288 parameters, lest chunks be padded; two need 16, 131,072.
    """

    parameters: int
    folds: int
    silos: tuple[int, ...]
    repetitions: int
    updates: int


CASES = (Case(100_000, 2, (5, 20), 7, 5), Case(1_000_000, 8, (5, 20), 5, 5), Case(11_000_000, 8, (5,), 2, 1))


@dataclass(frozen=True)
class Row:
    """A line of the result: least bytes a parameter or seconds, the ratio of these, and ours' least and most."""

    metric: str
    parameters: int
    silos: int
    usual: float | None
    ours: float
    plain: float | None
    ratio: float | None
    goal: float | None
    goal_kind: str
    spread: tuple[float, float]
    ratios: tuple[float, float] | None
    """Smallest and largest among the repetitions."""

    @property
    def met(self) -> bool | None:
        """Whether the figure meets the goal; None without one."""
        if self.goal is None:
            return None
        return (self.ours if self.ratio is None else self.ratio) <= self.goal


class Bench:
    """One case: the same updates for the three ways."""

    def __init__(self, case: Case) -> None:
        self.case = case
        size, output = case.parameters, case.parameters // 20
        self.packing = Packing.of(Layout((), size, size - output, output, 512, 10, permutation="5c" * 32), case.folds)
        self.usual = Usual(size)
        self.keys = SiloSum(deal("bench", 1))
        self.rng = np.random.default_rng(5)
        self.updates = [self.rng.normal(0, 30 * 2.0**STEP_LOG2, size) for _ in range(case.updates)]
        self.plain_sent = [update.astype("<f4").tobytes() for update in self.updates]
        self.values: dict[int, NDArray[np.int16]] = {}
        self.usual_sent: dict[int, list[bytes]] = {}
        self.ours_sent: dict[int, Protected] = {}

    def fields(self, index: int) -> NDArray[np.int64]:
        """The fields of an update."""
        return self.packing.to_fields(self.values[index].astype(np.int64))

    def rows(self) -> Iterator[Row]:
        """Measure everything."""
        yield self._start()
        yield from self._sending()
        yield from self._opening()
        for silos in self.case.silos:
            yield from self._summing(silos)

    def _start(self) -> Row:
        begin = time.perf_counter()
        self.keys._prepare(self.packing)
        key = self.keys._key
        assert isinstance(key, CkksKey)
        for helper in key._helpers:
            helper.take(60)
        taken = time.perf_counter() - begin
        return self._row("start of helper processes, once", 1, {"ours": [taken]})

    def _sending(self) -> Iterator[Row]:
        times: dict[str, list[float]] = {"usual": [], "ours": [], "plain": []}
        layout: list[float] = []
        for number in range(max(self.case.repetitions, self.case.updates)):
            index = number % self.case.updates
            usual = _timed(times["usual"], self.usual.encrypt, self.updates[index])
            fields = _timed(layout, self._laid_out, index)
            ours = _timed(times["ours"], self._protect, fields, index)
            _timed(times["plain"], self.updates[index].astype, "<f4")
            self.usual_sent[index], self.ours_sent[index] = usual, ours
        sizes = {
            "usual": [sum(map(len, sent)) + len(self.usual.context) for sent in self.usual_sent.values()],
            "ours": [sum(map(len, sent.chunks)) + len(sent.tags) for sent in self.ours_sent.values()],
            "plain": [len(sent) for sent in self.plain_sent],
        }
        per_parameter = {way: [size / self.case.parameters for size in found] for way, found in sizes.items()}
        yield self._row("bytes", 1, per_parameter)
        yield self._row("encrypt", 1, times)
        yield self._row("quantise and lay out", 1, {"ours": layout})

    def _laid_out(self, index: int) -> NDArray[np.int64]:
        update = self.updates[index]
        values = quantise(update, STEP_LOG2, os.urandom(randomness_needed(update.size)))
        self.values[index] = values
        return self.packing.to_fields(values.astype(np.int64))

    def _protect(self, fields: NDArray[np.int64], index: int) -> Protected:
        made = self.keys.protect(fields, self.packing, plan=PLAN, silo=f"silo-{index}")
        return Protected(list(made.chunks), made.tags)

    def _opening(self) -> Iterator[Row]:
        fields = self.fields(0)
        sketches: list[float] = []
        tagged: list[float] = []
        folded: list[float] = []
        drawn = self._signs()
        chunks = list(self.ours_sent[0].chunks)[: self.packing.body_chunks]
        for _ in range(self.case.repetitions):
            _timed(sketches, self._sketch, fields)
            _timed(tagged, self._tag, fields)
            _timed(folded, self._fold, chunks, drawn)
        yield self._row("sketch", 1, {"ours": sketches})
        yield self._row("tags", 1, {"ours": tagged})
        yield self._row("fold of the ciphertext", 1, {"ours": folded})

    def _sketch(self, fields: NDArray[np.int64]) -> Any:
        return sketch(fields, self.packing, self._signs())

    def _tag(self, fields: NDArray[np.int64]) -> bytes:
        return tags.tag(fields, bytes(32), plan=PLAN, silo="silo-0", salt=bytes(32))

    def _fold(self, chunks: list[bytes], drawn: NDArray[np.int8]) -> Any:
        return ring.fold(map(ring.parse_fresh, chunks), drawn)

    def _signs(self) -> NDArray[np.int8]:
        return signs(bytes(32), self.case.folds, self.packing.body_chunks)

    def _summing(self, silos: int) -> Iterator[Row]:
        weights = [TOTAL_WEIGHT // silos + (number < TOTAL_WEIGHT % silos) for number in range(silos)]
        of = [number % self.case.updates for number in range(silos)]
        ours = {"sum": list[float](), "open": list[float]()}
        plain = {"sum": list[float](), "open": list[float]()}
        usual = {way: {"sum": list[float](), "open": list[float]()} for way in ("added", "multiplied")}
        for _ in range(self.case.repetitions):
            for way, factors in (("added", None), ("multiplied", weights)):
                total = self._usual_sum(of, factors, usual[way]["sum"])
                mean = _timed(usual[way]["open"], self.usual.decrypt, total)
                self._verify_usual(of, factors or [1] * silos, mean)
            chunks = _timed(ours["sum"], self._our_sum, of, weights)
            aggregate = _timed(ours["open"], self._open, chunks, of, weights)
            self._verify(of, weights, aggregate)
            sent = _timed(plain["sum"], self._plain_sum, of, weights).tobytes()
            _timed(plain["open"], np.frombuffer, sent, "<f4")
        for name, step in (("load and weighted sum", "sum"), ("decrypt", "open")):
            for way, label in (("added", name), ("multiplied", f"{name}, usual multiplied")):
                times = {"usual": usual[way][step], "ours": ours[step], "plain": plain[step]}
                yield self._row(label, silos, times)

    def _usual_sum(self, of: list[int], weights: list[int] | None, times: list[float]) -> list[bytes]:
        # The time of writing the sum does not count; the tensors come one by one, so that no sum is held as objects.
        spent, total = 0.0, []
        stream = self.usual.add_up([self.usual_sent[index] for index in of], weights)
        while True:
            begin = time.perf_counter()
            vector = next(stream, None)
            spent += time.perf_counter() - begin
            if vector is None:
                break
            total.append(vector.serialize())
        times.append(spent)
        return total

    def _our_sum(self, of: list[int], weights: list[int]) -> list[bytes]:
        streams = [map(ring.parse_fresh, self.ours_sent[index].chunks) for index in of]
        return [ring.to_bytes(words) for words in ring.weighted_sum(streams, weights)]

    def _plain_sum(self, of: list[int], weights: list[int]) -> NDArray[np.float32]:
        total = np.zeros(self.case.parameters, dtype=np.float32)
        for index, weight in zip(of, weights, strict=True):
            total += np.float32(weight) * np.frombuffer(self.plain_sent[index], dtype="<f4")
        return total

    def _open(self, chunks: list[bytes], of: list[int], weights: list[int]) -> NDArray[np.int32]:
        # Silos that send the same bytes are one silo with the sum of their weights to the tags.
        joint = {index: sum(w for i, w in zip(of, weights, strict=True) if i == index) for index in of}
        parts = [Contribution(f"silo-{i}", weight, self.ours_sent[i].tags) for i, weight in joint.items()]
        return self.keys.open_sum(chunks, self.packing, plan=PLAN, contributions=parts, total_weight=TOTAL_WEIGHT)

    def _verify(self, of: list[int], weights: list[int], aggregate: NDArray[np.int64]) -> None:
        exact = sum(weight * self.values[i].astype(np.int64) for i, weight in zip(of, weights, strict=True))
        if not np.array_equal(aggregate, exact):
            raise SystemExit("our sum is wrong: these measurements say nothing")

    def _verify_usual(self, of: list[int], weights: list[int], total: NDArray[np.float64]) -> None:
        close = sum(weight * self.updates[i] for i, weight in zip(of, weights, strict=True))
        if np.abs(total - close).max() > 1e-3:
            raise SystemExit("the usual sum is wrong: these measurements say nothing")

    def _row(self, metric: str, silos: int, times: dict[str, list[float]]) -> Row:
        least = {way: min(found) for way, found in times.items()}
        ratio, spread = None, None
        goal, kind = GOALS.get(metric), "ratio"
        if "usual" in times:
            ratios = [ours / usual for ours, usual in zip(times["ours"], times["usual"], strict=True)]
            ratio, spread = least["ours"] / least["usual"], (min(ratios), max(ratios))
        elif metric in GOALS_S_PER_MILLION:
            goal, kind = GOALS_S_PER_MILLION[metric] * self.case.parameters / 1e6, "seconds"
        ends = min(times["ours"]), max(times["ours"])
        return Row(
            metric, self.case.parameters, silos, least.get("usual"), least["ours"], least.get("plain"),
            ratio, goal, kind, ends, spread,
        )  # fmt: skip


def _timed(times: list[float], work: Callable[..., Any], *arguments: Any) -> Any:
    begin = time.perf_counter()
    result = work(*arguments)
    times.append(time.perf_counter() - begin)
    return result


def machine() -> str:
    """Processor, cores and versions, in one line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    cores = len(os.sched_getaffinity(0))
    versions = ", ".join(f"{package} {version(package)}" for package in ("tenseal", "numpy", "cryptography"))
    load = os.getloadavg()[0]
    return f"{name}, {cores} cores, load {load:.1f} before; Python {platform.python_version()}, {versions}"


def table(rows: list[Row], title: str) -> Table:
    """The result for a terminal."""
    made = Table(title=title, title_justify="left")
    for name in ("metric", "parameters", "silos", "usual", "ours", "to", "plain", "ratio", "goal", ""):
        made.add_column(name, justify="left" if name == "metric" else "right", no_wrap=True)
    for row in rows:
        unit = "B" if row.metric == "bytes" else "s"
        spread = _number(row.spread[1], unit)
        goal = "" if row.goal is None else f"{row.goal:.2f}" + ("" if row.goal_kind == "ratio" else " s")
        made.add_row(
            row.metric, f"{row.parameters:,}", str(row.silos),
            _number(row.usual, unit), _number(row.ours, unit), spread,
            _number(row.plain, unit), "" if row.ratio is None else f"{row.ratio:.3f}", goal,
            {None: "", True: "met", False: "missed"}[row.met],
        )  # fmt: skip
    return made


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.3f} {unit}"


def run(cases: tuple[Case, ...], out: Path) -> list[Row]:
    """Measure, print and write all cases."""
    console = Console(width=150)
    where = machine()
    rows: list[Row] = []
    for case in cases:
        console.print(f"{case.parameters:,} parameters ...", highlight=False)
        rows += Bench(case).rows()
    console.print(table(rows, where))
    out.parent.mkdir(parents=True, exist_ok=True)
    entries = [asdict(row) | {"met": row.met, "machine": where} for row in rows]
    out.write_text(json.dumps(entries, indent=1) + "\n")
    return rows


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description="benchmark of the secure sum")
    parser.add_argument("--quick", action="store_true", help="0.1 million parameters only")
    run(CASES[:1] if parser.parse_args().quick else CASES, OUT)


if __name__ == "__main__":
    main()
