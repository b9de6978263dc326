"""What attackers compute beyond production's trainers: gradients, plain SGD, embeddings, learned triggers. In torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from protos.task import ModelSpec
from redteam.attacks.parts import Features, Floats, Labels
from redteam.attacks.triggers import HIGH
from silo import models
from silo.data import Records

if TYPE_CHECKING:
    from redteam.attacks.local import LocalSgd


class Learner:
    """The task's model, for any flat parameters."""

    def __init__(self, spec: ModelSpec) -> None:
        self.module = models.module_for(spec)

    def load(self, model: NDArray[np.float32]) -> nn.Module:
        """The module with these parameters."""
        models.unflatten(self.module, model)
        return self.module

    def gradient(self, model: Floats, features: Features, labels: Labels) -> Floats:
        """Gradient of the mean cross-entropy, float64[d]."""
        module = self.load(model.astype(np.float32))
        module.zero_grad()
        self._loss(torch.from_numpy(features), torch.from_numpy(labels)).backward()  # type: ignore[no-untyped-call]
        return np.concatenate([_gradient(p).double().numpy().ravel() for p in module.parameters()])

    def predict(self, model: NDArray[np.float32], features: Features) -> Labels:
        """The most likely class of each record, int64[n]."""
        with torch.no_grad():
            predicted: Labels = self.load(model)(torch.from_numpy(features)).argmax(dim=1).numpy()
        return predicted

    def embed(self, model: NDArray[np.float32], features: Features) -> Floats:
        """Inputs of the output layer, float64[n, width]."""
        self.load(model)
        with torch.no_grad():
            embeddings: Floats = self.forward(torch.from_numpy(features))[0].double().numpy()
        return embeddings

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings and scores under the loaded parameters, with gradients."""
        parts: list[Tensor] = []
        output = models.output_layer(self.module)
        hook = output.register_forward_pre_hook(lambda _, inputs: parts.append(inputs[0]))
        try:
            scores = self.module(features)
        finally:
            hook.remove()
        return parts[0], scores

    def perturb(
        self, model: NDArray[np.float32], features: Features, labels: Labels, epsilon: float, steps: int, low: float
    ) -> Features:
        """Images within `epsilon` in each pixel that the model gets most wrong (PGD: Madry et al. 2018, section 2.1).

        Steps of 2.5 * epsilon / steps along the sign of the gradient, as in that paper; pixels stay in [low, HIGH].
        """
        self.load(model)
        start, right = torch.from_numpy(features), torch.from_numpy(labels)
        moved = start.clone()
        for _ in range(steps):
            moved.requires_grad_()
            (gradient,) = torch.autograd.grad(self._loss(moved, right), moved)
            moved = moved.detach() + 2.5 * epsilon / steps * gradient.sign()
            moved = torch.clamp(torch.clamp(moved, start - epsilon, start + epsilon), low, HIGH)
        perturbed: Features = moved.detach().numpy()
        return perturbed

    def descend(
        self,
        model: NDArray[np.float32],
        records: Records,
        how: LocalSgd,
        random: np.random.Generator,
        alpha: float = 1.0,
        allowed: NDArray[np.bool_] | None = None,
    ) -> Floats:
        """The update of plain SGD on α * cross-entropy + (1 - α) * distance, float64[d].

        Args:
            model: where to start, and what the distance is from.
            records: trained on.
            how: epochs, rate and batch.
            random: the order of records.
            alpha: weight of the class loss.
            allowed: coordinates that may move, bool[d]; None: all.
        """
        parameters = list(self.load(model).parameters())
        start = [p.detach().clone() for p in parameters]
        masks = None if allowed is None else _split(torch.from_numpy(allowed), parameters)
        optimizer = torch.optim.SGD(parameters, lr=how.learning_rate)
        features, labels = torch.from_numpy(records.features), torch.from_numpy(records.labels)
        for _ in range(how.epochs):
            order = torch.from_numpy(random.permutation(len(labels)))
            for batch in torch.split(order, how.batch):
                optimizer.zero_grad()
                loss = alpha * self._loss(features[batch], labels[batch])
                if alpha < 1:
                    loss = loss + (1 - alpha) * _distance(parameters, start)
                loss.backward()  # type: ignore[no-untyped-call]
                _mask(parameters, masks)
                optimizer.step()
        return models.flatten(self.module).astype(np.float64) - model.astype(np.float64)

    def _loss(self, features: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.module(features), labels)


def _distance(parameters: list[nn.Parameter], start: list[Tensor]) -> Tensor:
    """L2 distance; the small constant gives it a gradient at zero."""
    squares = torch.stack([(p - s).square().sum() for p, s in zip(parameters, start, strict=True)])
    return (squares.sum() + 1e-12).sqrt()


def _split(flat: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    parts = torch.split(flat, [p.numel() for p in parameters])
    return [part.reshape(p.shape) for part, p in zip(parts, parameters, strict=True)]


def _mask(parameters: list[nn.Parameter], masks: list[Tensor] | None) -> None:
    for parameter, mask in zip(parameters, masks or [], strict=False):
        _gradient(parameter).mul_(mask)


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
