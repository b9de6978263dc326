"""Whether silos of one machine train faster as one batch: `python -m tools.bench_batching [--csv FILE]`.

The simulator trains its silos one after another, each with the trainer that ships. Here the same steps, with the same
coins and noise, are also done for all silos at once on models stacked along a first axis: by `torch.func`, which holds
every record's gradient, and for dense layers by ghost clipping with batched products, which holds none. Both give the
trainer's updates (a test shows it). Seconds of the wall clock, the fastest of several runs, all in one process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from protos.task import MICRO, ModelSpec, Training
from redteam.entropy import SeededEntropy
from silo import models
from silo.data import Records
from silo.gaussian import gaussian
from silo.sampling import poisson_batch
from silo.trainer import SAFE_CLIP, initial_model
from silo.training import trainer
from tools.timing import fastest, show

STEPS, CLIP, RATE = 5, 0.5, 0.1
MODELS = {
    "mlp": ModelSpec("mlp", (784, 32, 10), "relu"),
    "lenet": ModelSpec("lenet", (784, 6, 16, 120, 84, 10), "relu"),
}
CASES = (("mlp", 10, 240), ("mlp", 20, 1500), ("lenet", 10, 240), ("lenet", 10, 1000))
"""Model, silos, and records of each: those of tables A, G, a small one with a LeNet, and D."""

_Sums = Callable[["Stacked", Tensor, Tensor, Tensor], Tensor]
"""From rows float[S, B, inputs], labels int[S, B] and what is no padding bool[S, B] to clipped sums float[S, d]."""


@dataclass(frozen=True)
class Row:
    """Seconds for STEPS steps of all silos; `noise` is what no batching saves, `ghost` is 0 with convolutions."""

    model: str
    silos: int
    records: int
    one_by_one: float
    noise: float
    torch_func: float
    ghost: float
    fastest_by_one_by_one: float


def training(noise: float = 1.0) -> Training:
    """The round that is measured."""
    return Training(round(RATE * MICRO), STEPS, MICRO, round(CLIP * MICRO), round(noise * MICRO))


class Stacked:
    """Models of S silos, float32[S, d], and how `module` reads them."""

    def __init__(self, spec: ModelSpec, model: NDArray[np.float32], silos: int) -> None:
        self.module = models.build(spec)
        self.values = torch.from_numpy(np.tile(model, (silos, 1)))
        self.shapes = {name: one.shape for name, one in self.module.named_parameters()}

    def tensors(self) -> dict[str, Tensor]:
        """Each parameter of all models, [S, ...]."""
        parts = torch.split(self.values, [shape.numel() for shape in self.shapes.values()], dim=1)
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.reshape(len(part), *shape) for (name, shape), part in named}


def by_torch_func(stacked: Stacked, rows: Tensor, labels: Tensor, there: Tensor) -> Tensor:
    """Clipped sums from all records' gradients, [S, B, d] in memory."""

    def loss(values: dict[str, Tensor], row: Tensor, label: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(stacked.module, values, (row[None],)), label[None])

    made = vmap(vmap(grad(loss), in_dims=(None, 0, 0)))(stacked.tensors(), rows, labels)
    flat = torch.cat([one.flatten(2) for one in made.values()], dim=2)
    return torch.einsum("sb,sbd->sd", _factors(flat.square().sum(dim=2), there), flat)


def by_ghost(stacked: Stacked, rows: Tensor, labels: Tensor, there: Tensor) -> Tensor:
    """Clipped sums of dense layers: a record's squared norm is, layer by layer, |input|² + 1 times |gradient|²."""
    tensors = list(stacked.tensors().values())
    inputs, outputs = [rows], []
    for position, (weight, bias) in enumerate(zip(tensors[::2], tensors[1::2], strict=True)):
        made = torch.baddbmm(bias[:, None], inputs[-1], weight.mT)
        outputs.append(made.requires_grad_() if not position else made)
        inputs.append(torch.relu(outputs[-1]))
    losses = nn.functional.cross_entropy(outputs[-1].flatten(0, 1), labels.flatten(), reduction="sum")
    back = torch.autograd.grad(losses, outputs)
    layers = [(one.detach(), out) for one, out in zip(inputs, back, strict=False)]
    norms = sum(((one.square().sum(dim=2) + 1) * out.square().sum(dim=2) for one, out in layers), torch.zeros(()))
    scaled = [(one, _factors(norms, there)[:, :, None] * out) for one, out in layers]
    parts = [(torch.bmm(out.mT, one).flatten(1), out.sum(dim=1)) for one, out in scaled]
    return torch.cat([part for both in parts for part in both], dim=1)


def _factors(squares: Tensor, there: Tensor) -> Tensor:
    return there * (CLIP * SAFE_CLIP / squares.sqrt().clamp(min=CLIP * SAFE_CLIP))


def one_by_one(
    spec: ModelSpec, model: NDArray[np.float32], silos: Sequence[Records], rule: Training
) -> NDArray[np.float64]:
    """The trainer's updates, float64[S, d]; silo s draws from seed s."""
    made = [trainer(spec, own, SeededEntropy(seed)) for seed, own in enumerate(silos)]
    return np.stack([one.train(model, rule, len(own.labels)) for one, own in zip(made, silos, strict=True)])


def at_once(
    spec: ModelSpec, model: NDArray[np.float32], silos: Sequence[Records], rule: Training, sums: _Sums
) -> NDArray[np.float64]:
    """The same by one batch of all silos."""
    stacked, entropies = Stacked(spec, model, len(silos)), [SeededEntropy(seed) for seed in range(len(silos))]
    counts = torch.tensor([len(own.labels) for own in silos])[:, None] * RATE
    for _ in range(rule.steps):
        drawn = zip(silos, entropies, strict=True)
        batches = [poisson_batch(len(own.labels), rule.sample_rate_micro, entropy) for own, entropy in drawn]
        total = sums(stacked, *_padded(silos, batches)).double() + _noise(stacked, entropies, rule)
        stacked.values -= (total.float() / counts) * (rule.learning_rate_micro / MICRO)
    return stacked.values.numpy().astype(np.float64) - model


def _noise(stacked: Stacked, entropies: Sequence[SeededEntropy], rule: Training) -> Tensor:
    std = rule.noise_micro / MICRO * CLIP
    return torch.from_numpy(np.stack([std * gaussian(stacked.values.shape[1], one) for one in entropies]))


def _padded(silos: Sequence[Records], batches: Sequence[NDArray[np.int64]]) -> tuple[Tensor, Tensor, Tensor]:
    """Batches of unequal length side by side, filled up with zeros that do not count."""
    longest = max(map(len, batches))
    rows = np.zeros((len(silos), longest, silos[0].features.shape[1]), dtype=np.float32)
    labels, there = np.zeros((len(silos), longest), dtype=np.int64), np.zeros((len(silos), longest), dtype=np.float32)
    for position, (own, batch) in enumerate(zip(silos, batches, strict=True)):
        rows[position, : len(batch)], labels[position, : len(batch)] = own.features[batch], own.labels[batch]
        there[position, : len(batch)] = 1
    return torch.from_numpy(rows), torch.from_numpy(labels), torch.from_numpy(there)


def measured(kind: str, silos: int, records: int, repetitions: int) -> Row:
    """One row, on random records: what they say does not change the work."""
    spec, draws = MODELS[kind], np.random.default_rng(0)
    features = draws.random((silos, records, spec.sizes[0]), dtype=np.float32)
    labels = draws.integers(0, spec.sizes[-1], (silos, records))
    own = [Records(one, two, one[:1], two[:1]) for one, two in zip(features, labels, strict=True)]
    model, rule = initial_model(spec, 1), training()
    works: list[Callable[[], object]] = [
        lambda: one_by_one(spec, model, own, rule),
        lambda: [gaussian(len(model), SeededEntropy(0)) for _ in range(silos * STEPS)],
        lambda: at_once(spec, model, own, rule, by_torch_func),
    ]
    if kind == "mlp":
        works.append(lambda: at_once(spec, model, own, rule, by_ghost))
    seconds = [fastest(work, repetitions, time.perf_counter) for work in works]
    ghost = seconds[3] if kind == "mlp" else 0.0
    ratio = min(seconds[2:]) / seconds[0]
    return Row(kind, silos, records, *(round(one, 3) for one in (*seconds[:3], ghost, ratio)))


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description="silos one by one and as one batch")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the rows as CSV too")
    options = parser.parse_args()
    rows = [asdict(measured(*case, options.repetitions)) for case in CASES]
    show(rows, f"Seconds of {STEPS} steps", options.csv)


if __name__ == "__main__":
    main()
