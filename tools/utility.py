"""Table H, utility under DP without an attack: `python -m tools.utility --data DIR [--csv FILE] [ROW ...]`.

MNIST on ten equal silos, delta 1e-5: a linear head on fixed public features.
A plain loop over the parts of production: the task is packed and its noise solved for all channels by the accountant,
`silo.linear` trains with noise from the operating system, updates are quantised and summed as whole numbers with
equal weights, and every round takes its rate and step from the task's schedule. Left out are encryption, signatures
and the defence, which weighs equal honest silos alike.

Rates and rounds were chosen on seed 1000, trained on the first 50,000 images and tried on the next 9,000; the test
images and the seeds below were used for nothing else. The row with 200 features was added, and chosen there, after
400 had missed the goal at epsilon 1. Accuracy is of the last round's model.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from audit.accounting import task_epsilon
from audit.schedule import training_in_round
from crypto.quantise import apply_aggregate, quantise, randomness_needed
from protos.task import MICRO, ModelSpec, Task
from redteam.datasets import Dataset, mnist
from redteam.featured import OUTPUTS, through_scattering
from redteam.tables import interval
from silo.data import Records
from silo.entropy import OsEntropy
from silo.pack import pack_task, step_log2
from silo.trainer import trainer_for

SILOS, SEEDS, TOTAL_WEIGHT = 10, (1, 2, 3), 1024


@dataclass(frozen=True)
class Setting:
    """One row: data, rounds and rate of ten steps a round at sample rate 0.1 and clip norm 0.5.

    `momentum`: the server adds that part of its last move to the average (Hsu, Qi and Brown 2019), which production
    does not (docs/features.md).
    """

    data: Callable[[Path], Dataset]
    epsilon: float
    rounds: int
    learning_rate: float
    goal: float | None
    papers: str = ""
    schedule: str = "cosine"
    momentum: float = 0.0


def _features(directory: Path, outputs: int = OUTPUTS) -> Dataset:
    return through_scattering(mnist(directory), outputs).seen


ROWS = {
    "200 features, epsilon 1": Setting(partial(_features, outputs=200), 1.0, 40, 20.0, 0.975),
    "features, epsilon 1": Setting(_features, 1.0, 40, 20.0, None),
    "features, epsilon 3": Setting(_features, 3.0, 80, 40.0, 0.980, "98.0 (first study)"),
    "features, epsilon 8": Setting(_features, 8.0, 80, 80.0, None),
    "features, epsilon 3, constant rate": Setting(_features, 3.0, 80, 20.0, None, schedule="constant"),
    "features, epsilon 3, server momentum 0.5": Setting(_features, 3.0, 80, 40.0, None, momentum=0.5),
}


def task_of(setting: Setting, inputs: int) -> Task:
    """The packed task: its noise covers training, counts and one evaluation."""
    model = {"kind": "linear", "sizes": [inputs, 10], "activation": "none"}
    spec: dict[str, Any] = {
        "name": "utility", "model": model, "rounds": setting.rounds, "sample_rate": 0.1, "steps": 10,
        "learning_rate": setting.learning_rate, "clip": 0.5, "schedule": setting.schedule,
        "evaluation_noise": 20.0, "evaluation_every": setting.rounds, "counts_noise": 20.0,
        "epsilon": setting.epsilon, "delta": 1e-5, "range": 1.0, "folds": 4, "seed": 1,
    }  # fmt: skip
    task, _ = pack_task(spec)
    # Four deviations of a round's noise fit the range, so that hardly a coordinate is cut.
    noise = task.training.noise_micro / MICRO * 0.5 * setting.learning_rate * 10**0.5 / (0.1 * 5900)
    return replace(task, step_log2=step_log2(4 * noise))


def accuracy(setting: Setting, data: Dataset, seed: int, limit: int | None = None) -> tuple[float, Task]:
    """Test accuracy after the last round; `limit` cuts the records for a quick look."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(data.labels))[:limit]
    parts = np.array_split(order, SILOS)
    task = task_of(setting, data.features.shape[1])
    entropy = OsEntropy()
    trainers = [trainer_for(task, _records(data, part), entropy) for part in parts]
    weights = [TOTAL_WEIGHT // SILOS + (place < TOTAL_WEIGHT % SILOS) for place in range(SILOS)]
    model, move = np.zeros(task.layout.size, dtype=np.float32), np.zeros(task.layout.size)
    for number in range(1, task.rounds + 1):
        training = training_in_round(task, number)
        # Noise keeps its size in steps, within a factor of two.
        step = task.step_log2 - (task.training.learning_rate_micro // training.learning_rate_micro).bit_length() + 1
        total = np.zeros(task.layout.size, dtype=np.int64)
        for trainer, part, weight in zip(trainers, parts, weights, strict=True):
            update = trainer.train(model, training, len(part))
            total += weight * quantise(update, step, entropy.take(randomness_needed(update.size)))
        move = setting.momentum * move + (apply_aggregate(model, total, step, TOTAL_WEIGHT).astype(np.float64) - model)
        model = (model + move).astype(np.float32)
    return _correct(task.model, data, model), task


def entry(name: str, setting: Setting, data: Dataset, seeds: Sequence[int], limit: int | None) -> dict[str, Any]:
    """A line of the table: mean over the seeds and its 95 % t interval."""
    found = []
    for seed in seeds:
        share, task = accuracy(setting, data, seed, limit)
        found.append(share)
        print(f"{name}, seed {seed}: {share:.4f}", file=sys.stderr, flush=True)
    mean, low, high = interval(found) if len(found) > 1 else (found[0],) * 3
    return {
        "table": "H", "row": name, "metric": "accuracy", "goal": setting.goal, "measured": round(mean, 4),
        "low": round(low, 4), "high": round(high, 4), "papers": setting.papers,
        "seeds": " ".join(f"{share:.4f}" for share in found), "epsilon": task_epsilon(task) / MICRO,
        "parameters": task.layout.size, "rounds": task.rounds, "noise": task.training.noise_micro / MICRO,
    }  # fmt: skip


def run(data: Path, names: Sequence[str], out: Path | None, limit: int | None = None) -> list[dict[str, Any]]:
    """Measure the named rows, print them, and write them after each row, so that a stop loses one row at most."""
    entries: list[dict[str, Any]] = []
    for name in names:
        setting = ROWS[name]
        entries.append(entry(name, setting, setting.data(data), SEEDS, limit))
        if out:
            with out.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(entries[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(entries)
    return entries


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description="utility without an attack")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"some of: {'; '.join(ROWS)} (default: all)")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="directory with the data sets")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the rows there")
    options = parser.parse_args()
    unknown = sorted(set(options.rows) - set(ROWS))
    if unknown:
        parser.error(f"no row is named {unknown[0]!r}: choose from {'; '.join(ROWS)}")
    for line in run(options.data, options.rows or list(ROWS), options.csv):
        print(f"{line['row']}: {line['measured']:.4f} ({line['low']:.4f} to {line['high']:.4f}), goal {line['goal']}")


def _records(data: Dataset, part: np.ndarray) -> Records:
    # Nothing is held out: the loop evaluates on the test set, once.
    return Records(data.features[part], data.labels[part], data.test_features[:1], data.test_labels[:1])


def _correct(spec: ModelSpec, data: Dataset, model: np.ndarray) -> float:
    inputs, classes = spec.sizes
    weight, bias = model[: inputs * classes].reshape(classes, inputs), model[inputs * classes :]
    return float(((data.test_features @ weight.T + bias).argmax(axis=1) == data.test_labels).mean())


if __name__ == "__main__":
    main()
