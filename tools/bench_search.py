"""Benchmark of searches: `python -m tools.bench_search --data DATA [--csv FILE]`.

What a silo does in a round with a search, in processor seconds on one core: the search of a clean model, and of one
with a backdoor, in which the second optimisation is made; measuring a trigger; and the directions of as many triggers
and flips as are ever attributed at one past model, which each silo that attributes computes for every round since the
last search. (What is new is projected on all rounds that the task remembers.) The root set has thirty images of each
class.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from audit.searches import MAX_ATTRIBUTED
from protos.search import Trigger
from protos.task import MICRO, ModelSpec
from redteam import datasets
from redteam.attacks import data, local, triggers
from redteam.attacks.learner import Learner
from silo.data import Records
from silo.search import searcher
from silo.searcher import Root
from silo.trainer import initial_model
from tools.timing import fastest, show

GOAL_SECONDS = 20.0
PER_CLASS, TRAINED, NEW_ROUNDS = 30, 6000, 2
MODELS = {
    "linear": ModelSpec("linear", (784, 10), "none"),
    "mlp": ModelSpec("mlp", (784, 128, 10), "tanh"),
    "lenet": ModelSpec("lenet", (784, 6, 16, 120, 84, 10), "relu"),
}


@dataclass(frozen=True)
class Row:
    """Processor seconds of one kind of model; `whole` is a search that attributes as much as one ever does."""

    model: str
    parameters: int
    clean: float
    backdoored: float
    measure: float
    directions: float
    whole: float
    goal: float = GOAL_SECONDS


def measured(kind: str, dataset: datasets.Dataset, repetitions: int) -> Row:
    """One row: the fastest of several runs each."""
    spec = MODELS[kind]
    chosen = np.concatenate([np.flatnonzero(dataset.test_labels == one)[:PER_CLASS] for one in range(10)])
    root = Root(dataset.test_features[chosen], dataset.test_labels[chosen])
    own = Records(dataset.features[:TRAINED], dataset.labels[:TRAINED], root.features, root.labels)
    backdoor = data.Backdoor(triggers.corner(), share=0.1)
    clean, bad = (_trained(spec, one) for one in (own, backdoor.poison(own, np.random.default_rng(0))))
    found = searcher(spec).search(bad, root)
    if not found:
        raise SystemExit(f"nothing was found in a {kind} model with a backdoor: this measures no whole search")
    times = [
        fastest(work, repetitions, time.process_time)
        for work in (
            lambda: searcher(spec).search(clean, root),
            lambda: searcher(spec).search(bad, root),
            lambda: searcher(spec).success(bad, root, found[0]),
            lambda: _directions(spec, bad, root, found[0]),
        )
    ]
    whole = max(times[:2]) + 2 * MAX_ATTRIBUTED * times[2] + NEW_ROUNDS * times[3]
    return Row(kind, len(bad), *(round(one, 3) for one in (*times, whole)))


def _directions(spec: ModelSpec, model: NDArray[np.float32], root: Root, found: Trigger) -> None:
    """Those of as many triggers and flips as are ever attributed, at a model that was not looked at before."""
    seek = searcher(spec)
    for target in range(MAX_ATTRIBUTED):
        seek.directions(model, root, found)
        seek.directions(model, root, Trigger(target, 7, b"", b"", 0, MICRO))


def _trained(spec: ModelSpec, records: Records) -> NDArray[np.float32]:
    model = initial_model(spec, 1)
    update = Learner(spec).descend(model, records, local.LocalSgd(epochs=3, batch=32), np.random.default_rng(2))
    return (model + update).astype(np.float32)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description="benchmark of searches")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), metavar="DIR", help="the data sets")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the rows as CSV too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = datasets.mnist(options.data)
    rows = [asdict(measured(kind, dataset, options.repetitions)) for kind in MODELS]
    show(rows, "Processor seconds of a search", options.csv)


if __name__ == "__main__":
    main()
