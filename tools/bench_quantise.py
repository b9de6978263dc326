"""What quantisation costs in accuracy: `python -m tools.bench_quantise --data DIR [--seeds N]`.

Federations are trained without encryption, which changes no number: floats summed as they are, 8 bits at the task's
fixed range, 8 bits at the range of each round's plan (`audit.ranges`), and fewer bits at the same rule. All ways of a
seed share data, batches and DP noise, so that differences are paired. Two models and data, each with DP-SGD and without
noise; nothing was tuned on what is reported: digits is the demonstration's task, MNIST has plain round values.
"""

from __future__ import annotations

import argparse
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from audit.ranges import DEVIATIONS, smallest_step, squared_noise, squared_signal
from crypto.packing import LEVELS, Packing
from crypto.quantise import apply_aggregate, quantise, randomness_needed
from crypto.sketch import signs, sketch
from protos.task import Task
from redteam.datasets import mnist
from redteam.digits import digits
from redteam.partitions import lognormal_sizes
from silo.data import Records
from silo.pack import pack_task
from silo.trainer import Trainer, initial_model, trainer_for
from tools.demo_settings import spec

TOTAL_WEIGHT = 1024
OUT = Path("build/bench/quantise.json")
MNIST_SPEC = {
    "name": "mnist", "model": {"kind": "linear", "sizes": [784, 10], "activation": "none"}, "rounds": 20,
    "sample_rate": 0.1, "steps": 2, "learning_rate": 1.0, "clip": 1.0, "evaluation_noise": 20.0, "evaluation_every": 20,
    "counts_noise": 10.0, "epsilon": 3.0, "delta": 1e-5, "range": 1.0, "folds": 2, "seed": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Way:
    """How updates become integers: `bits` 0 are floats; the range `follows` each round, or is the task's own."""

    name: str
    bits: int
    follows: bool

    @property
    def levels(self) -> int:
        """Largest value."""
        return int(2 ** (self.bits - 1) - 1)


WAYS = (
    Way("float", 0, False), Way("8 bits, task's range", 8, False), Way("8 bits", 8, True), Way("6 bits", 6, True),
    Way("5 bits", 5, True), Way("4 bits", 4, True), Way("3 bits", 3, True),
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """Accuracy in percent, and means over rounds: share of coordinates cut, log2 of the step, noise in steps."""

    accuracy: float
    cut: float
    step_log2: float
    noise: float


class Seeded:
    """Entropy that repeats itself, for comparisons only; production refuses it."""

    is_operating_system = False

    def __init__(self) -> None:
        self.restart(0)

    def restart(self, *seed: int) -> None:
        """Begin again at a seed."""
        self._random = np.random.default_rng(seed)

    def take(self, count: int) -> bytes:
        """The next bytes."""
        return self._random.bytes(count)


class Federation:
    """One task over silos' records; `train` runs it under one way."""

    def __init__(
        self, task: Task, start: NDArray[np.float32], silos: Mapping[str, Records], test: Any, seed: int
    ) -> None:
        self.task, self.start, self.seed = task, start, seed
        self.entropies = [Seeded() for _ in silos]
        self.trainers: list[Trainer] = [
            trainer_for(task, records, entropy) for records, entropy in zip(silos.values(), self.entropies, strict=True)
        ]
        self.judge = trainer_for(task, Records(*test, *test), Seeded())
        self.counts = [len(records.labels) for records in silos.values()]
        self.weights = _weights(self.counts)
        self.packing = Packing.of(task.layout, task.folds)

    def train(self, way: Way) -> Run:
        """The whole task."""
        model, step, facts = self.start, self._limit(way), []
        noise = math.sqrt(squared_noise(self.task.training, max(self.counts))) / DEVIATIONS
        for number in range(1, self.task.rounds + 1):
            updates = self._updates(model, number)
            if not way.bits:
                move = sum(w * update for w, update in zip(self.weights, updates, strict=True)) / TOTAL_WEIGHT
                model = (model.astype(np.float64) + move).astype(np.float32)
                continue
            edge = way.levels * 2.0**step
            facts.append((float(np.mean([np.abs(update) > edge for update in updates])), step, noise / 2.0**step))
            values = [self._rounded(update, step, edge) for update in updates]
            total = sum(w * value.astype(np.int64) for w, value in zip(self.weights, values, strict=True))
            model = apply_aggregate(model, np.asarray(total), step, TOTAL_WEIGHT)
            step = self._next(way, values, step, number)
        correct, tested = self.judge.evaluate(model)
        return Run(100 * correct / tested, *np.mean(facts, axis=0).tolist() if facts else (0.0, 0.0, 0.0))

    def _updates(self, model: NDArray[np.float32], number: int) -> list[NDArray[np.float64]]:
        updates = []
        for index, (trainer, entropy) in enumerate(zip(self.trainers, self.entropies, strict=True)):
            entropy.restart(self.seed, number, index)
            updates.append(trainer.train(model, self.task.training, self.counts[index]))
        return updates

    def _rounded(self, update: NDArray[np.float64], step: int, edge: float) -> NDArray[np.int16]:
        return quantise(np.clip(update, -edge, edge), step, np.random.bytes(randomness_needed(update.size)))

    def _next(self, way: Way, values: list[NDArray[np.int16]], step: int, number: int) -> int:
        if not way.follows:
            return step
        packing = self.packing
        drawn = signs(number.to_bytes(32, "little"), packing.folds, packing.body_chunks)
        sketches = [sketch(packing.to_fields(value.astype(np.int64)), packing, drawn) for value in values]
        signal = squared_signal(sketches, packing.size - packing.output_size, step)
        needed = max(squared_noise(self.task.training, min(self.counts)), signal)
        return min(self._limit(way), smallest_step(needed, way.levels))

    def _limit(self, way: Way) -> int:
        """The task's step, or the step of fewer levels that reaches about as far."""
        return self.task.step_log2 + (round(math.log2(LEVELS / way.levels)) if way.bits else 0)


def _weights(counts: list[int]) -> list[int]:
    shares = [TOTAL_WEIGHT * count // sum(counts) for count in counts]
    shares[0] += TOTAL_WEIGHT - sum(shares)
    return shares


def without_noise(task: Task) -> Task:
    """The same task with noise of a millionth of the clip norm."""
    return replace(task, training=replace(task.training, noise_micro=1))


def digits_federation(seed: int, private: bool) -> Federation:
    """The demonstration: an MLP of 2,410 parameters, six silos of 56 to 450 records, ε = 7.95, 40 rounds."""
    task, data = _digits_task(), digits(seed)
    start = initial_model(task.model, seed)
    return Federation(task if private else without_noise(task), start, data.silos, data.test, seed)


def mnist_federation(directory: Path, seed: int, private: bool) -> Federation:
    """Softmax regression of 7,850 parameters, ten silos of 20 : 1 in size, ε = 3, 20 rounds of two steps."""
    task, data = _mnist_task(), mnist(directory)
    order = np.random.default_rng(seed).permutation(len(data.labels))
    ends = np.cumsum(lognormal_sizes(10, len(order), 20.0))
    shares = np.split(order, ends)[:10]
    silos = {
        f"silo-{index}": Records(data.features[own], data.labels[own], data.features[own[:10]], data.labels[own[:10]])
        for index, own in enumerate(shares)
    }
    test = data.test_features, data.test_labels
    return Federation(task if private else without_noise(task), initial_model(task.model, seed), silos, test, seed)


@cache
def _digits_task() -> Task:
    return pack_task(tomllib.loads(spec(40)))[0]


@cache
def _mnist_task() -> Task:
    return pack_task(MNIST_SPEC)[0]


def rows(name: str, runs: Mapping[str, list[Run]]) -> list[str]:
    """Markdown rows: accuracy, and its paired difference to float with the standard error over seeds."""
    lines = []
    plain = np.array([run.accuracy for run in runs["float"]])
    for way, found in runs.items():
        accuracy = np.array([run.accuracy for run in found])
        gap = accuracy - plain
        error = gap.std(ddof=1) / math.sqrt(len(gap)) if len(gap) > 1 else math.nan
        difference = "" if way == "float" else f"{gap.mean():+.2f} ± {error:.2f}"
        facts = ["", "", ""] if way == "float" else [
            f"{np.mean([run.cut for run in found]):.1e}", f"{np.mean([run.step_log2 for run in found]):.1f}",
            f"{np.mean([run.noise for run in found]):.2f}",
        ]  # fmt: skip
        spread = accuracy.std(ddof=1) if len(gap) > 1 else math.nan
        lines.append(f"| {name} | {way} | {accuracy.mean():.2f} ± {spread:.2f} | {difference} | {' | '.join(facts)} |")
    return lines


def main() -> None:
    """Train, print the table of docs/crypto.md and write it."""
    parser = argparse.ArgumentParser(description="what quantisation costs in accuracy")
    parser.add_argument("--data", type=Path, help="directory of the data sets; without it digits only")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    console = Console(width=160, highlight=False)
    console.print("| task | way | accuracy (%) | against float | cut | log2 step | noise of the largest silo, steps |")
    console.print("|---|---|---|---|---|---|---|")
    results: dict[str, Any] = {}
    for title, private in (("DP-SGD", True), ("no noise", False)):
        for data in ("digits", *(["MNIST"] if options.data else [])):
            name, runs = f"{data}, {title}", {way.name: list[Run]() for way in WAYS}
            for seed in range(1, options.seeds + 1):
                made = (
                    digits_federation(seed, private)
                    if data == "digits"
                    else mnist_federation(options.data, seed, private)
                )
                for way in WAYS:
                    runs[way.name].append(made.train(way))
            console.print("\n".join(rows(name, runs)))
            results[name] = {way: [asdict(run) for run in found] for way, found in runs.items()}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
