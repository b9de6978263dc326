"""DP-SGD with PyTorch and Opacus, for every kind of model in `silo.models`.

Opacus computes the norms of per-record gradients, of dense layers without ever holding such a gradient ("ghost
clipping", Li et al. 2022, section 4); the clipped sum is then the gradient of the records' losses, each multiplied by
its clipping factor. Two of Opacus' parts are replaced: its noise and its sampler draw from a Mersenne twister with a
small seed (`secure_mode` needs torchcsprng, which is no longer built), ours from the operating system. CUDA is used
where there is any; noise is made on the CPU and moved.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizerFastGradientClipping
from torch import Tensor, nn

from protos.task import MICRO, Layout, ModelSpec, Training
from silo import models
from silo.data import Records
from silo.entropy import Entropy
from silo.gaussian import gaussian
from silo.guidance import NONE, Guidance, Pull
from silo.inoculation import inoculated
from silo.sampling import poisson_batch
from silo.trainer import SAFE_CLIP

_Losses = Callable[[Tensor, Tensor], Tensor]
"""From rows and labels to the loss of each record, float[n]."""
_CHUNK = 512
"""Records that are in memory at once, with their gradients of one layer; a larger Poisson batch is summed in parts."""


def layout(spec: ModelSpec, permutation: str) -> Layout:
    """The layout of `spec`; see `silo.trainer.layout_for`."""
    return models.layout_of(models.build(spec), permutation)


def initial_model(spec: ModelSpec, seed: int) -> NDArray[np.float32]:
    """Torch's own initial values under a public seed, float32[d]; torch's global generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return models.flatten(models.build(spec))


def trainer(spec: ModelSpec, records: Records, entropy: Entropy) -> TorchTrainer:
    """The trainer of `spec` on these records."""
    return TorchTrainer(models.build(spec), records, entropy)


# Data need no gradient, which torch mentions once for Opacus' hooks on the first layer.
warnings.filterwarnings("ignore", message="Full backward hook is firing")


class TorchTrainer:
    """The `silo.trainer.Trainer` of a torch module."""

    def __init__(self, module: nn.Module, records: Records, entropy: Entropy) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._module = module.to(self._device)
        self._private = GradSampleModuleFastGradientClipping(self._module, loss_reduction="sum")
        self._entropy = entropy
        self._labels = records.labels
        self._train = self._tensors(records.features, records.labels)
        self._holdout = self._tensors(records.holdout_features, records.holdout_labels)

    def train(
        self, model: NDArray[np.float32], training: Training, count: int, guidance: Guidance = NONE
    ) -> NDArray[np.float64]:
        """See `Trainer.train`."""
        models.unflatten(self._module, model)
        self._module.train()
        optimizer = self._optimizer(training, count)
        losses = self._entropies if guidance.pull is None else self._pulled(guidance.pull)
        for _ in range(training.steps):
            batch = poisson_batch(len(self._labels), training.sample_rate_micro, self._entropy)
            self._step(optimizer, torch.from_numpy(batch).to(self._device), guidance, losses)
        optimizer.zero_grad(set_to_none=True)
        return models.flatten(self._module).astype(np.float64) - model.astype(np.float64)

    def embed(self, model: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """See `Trainer.embed`."""
        with self._embeddings() as parts:
            for _ in self._outputs(model, self._train[0]):
                pass
        embeddings: NDArray[np.float64] = torch.cat(parts).double().cpu().numpy()
        return embeddings, self._labels

    def evaluate(self, model: NDArray[np.float32]) -> tuple[int, int]:
        """See `Trainer.evaluate`."""
        features, labels = self._holdout
        predictions = torch.cat([scores.argmax(dim=1) for scores in self._outputs(model, features)])
        return int((predictions == labels).sum()), len(labels)

    def _optimizer(self, training: Training, count: int) -> _OsNoiseOptimizer:
        clip = training.clip_micro / MICRO
        return _OsNoiseOptimizer(
            torch.optim.SGD(self._private.parameters(), lr=training.learning_rate_micro / MICRO),
            noise_std=training.noise_micro / MICRO * clip,
            clip=clip * SAFE_CLIP,
            expected_batch_size=training.sample_rate_micro / MICRO * count,
            entropy=self._entropy,
        )

    def _step(self, optimizer: _OsNoiseOptimizer, batch: Tensor, guidance: Guidance, losses: _Losses) -> None:
        """One noisy step on the records of `batch`, whose gradients are summed chunk by chunk."""
        features, labels = self._train
        chunks = torch.split(batch, _CHUNK)  # an empty batch is one empty chunk
        for position, chunk in enumerate(chunks):
            self._clipped_sum(optimizer, *self._inoculated(features[chunk], labels[chunk], guidance), losses)
            optimizer.signal_skip_step(do_skip=position + 1 < len(chunks))
            optimizer.step()

    def _clipped_sum(self, optimizer: _OsNoiseOptimizer, rows: Tensor, labels: Tensor, losses: _Losses) -> None:
        """Set the parameters' gradients to the sum of the records' clipped gradients.

        A record whose gradient overflows counts as zero: it is left out before it can spoil the sum.
        """
        optimizer.zero_grad(set_to_none=True)
        if not len(rows):
            for parameter in optimizer.params:
                parameter.grad = torch.zeros_like(parameter)
            return
        values = losses(rows, labels)
        factors = self._factors(values, optimizer.max_grad_norm)
        sound = factors > 0
        if not sound.all():
            self._clipped_sum(optimizer, rows[sound], labels[sound], losses)
            return
        optimizer.zero_grad(set_to_none=True)
        self._private.disable_hooks()
        (factors * values).sum().backward()  # type: ignore[no-untyped-call]
        self._private.enable_hooks()

    def _entropies(self, rows: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of each record, float[n]."""
        return nn.functional.cross_entropy(self._private(rows), labels, reduction="none")

    def _pulled(self, pull: Pull) -> _Losses:
        """Cross-entropy and the pull's term; nothing in it depends on another record, so gradients stay per record."""
        centres = torch.from_numpy(pull.prototypes.centres).float().to(self._device)
        strengths = pull.strength * torch.from_numpy(pull.prototypes.known).float().to(self._device)

        def losses(rows: Tensor, labels: Tensor) -> Tensor:
            with self._embeddings() as parts:
                values = self._entropies(rows, labels)
            return values + strengths[labels] * (parts[0] - centres[labels]).square().mean(dim=1)

        return losses

    def _factors(self, losses: Tensor, clip: float) -> Tensor:
        """What clips each record's gradient to `clip`, float[n]; 0 where it is not finite."""
        losses.sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
        norms = self._private.get_norm_sample()
        return torch.where(norms.isfinite(), clip / norms.clamp(min=clip), 0.0)

    def _inoculated(self, rows: Tensor, labels: Tensor, guidance: Guidance) -> tuple[Tensor, Tensor]:
        """Rows and labels of a batch, their own copies, inoculated."""
        if guidance.doses:
            other = inoculated(rows.cpu().numpy(), labels.cpu().numpy(), guidance, self._entropy)
            places = torch.from_numpy(other.places).to(self._device)
            rows[places] = torch.from_numpy(other.features).to(self._device)
            labels[places] = torch.from_numpy(other.labels).to(self._device)
        return rows, labels

    @contextmanager
    def _embeddings(self) -> Iterator[list[Tensor]]:
        """Collects the inputs of the output layer, float[n, embedding] for each pass of the model within."""
        parts: list[Tensor] = []
        hook = models.output_layer(self._module).register_forward_pre_hook(lambda _, inputs: parts.append(inputs[0]))
        try:
            yield parts
        finally:
            hook.remove()

    def _outputs(self, model: NDArray[np.float32], features: Tensor) -> Iterator[Tensor]:
        models.unflatten(self._module, model)
        self._module.eval()
        with torch.no_grad():
            for chunk in torch.split(features, 8 * _CHUNK):
                yield self._module(chunk)

    def _tensors(self, features: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(features).to(self._device), torch.from_numpy(labels).to(self._device)


class _OsNoiseOptimizer(DPOptimizerFastGradientClipping):  # type: ignore[misc]  # opacus has no types
    """Opacus' optimizer for sums that are clipped already, with noise from `Entropy`, added in float64.

    `loss_reduction="mean"` makes it divide by `expected_batch_size`, which is set by hand to the public value.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        noise_std: float,
        clip: float,
        expected_batch_size: float,
        entropy: Entropy,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=noise_std / clip,
            max_grad_norm=clip,
            expected_batch_size=expected_batch_size,
            loss_reduction="mean",
        )
        self._noise_std = noise_std
        self._entropy = entropy

    def add_noise(self) -> None:
        """Add N(0, noise_std²) to every coordinate of the clipped sum."""
        sizes = [parameter.numel() for parameter in self.params]
        noise = torch.from_numpy(self._noise_std * gaussian(sum(sizes), self._entropy))
        for parameter, part in zip(self.params, torch.split(noise, sizes), strict=True):
            total = parameter.summed_grad.double() + part.reshape(parameter.shape).to(parameter.device)
            parameter.grad = total.to(parameter.dtype)
