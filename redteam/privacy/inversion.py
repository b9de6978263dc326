"""Reconstruction by optimisation: an image whose gradient, folds or embedding look like those seen. In torch.

Gradient inversion as in Geiping et al. 2020 (eq. 4): cosine distance of the gradients plus total variation, by Adam on
the signs of the gradient. Here it matches any linear image of the update, so that the coordinator's view is attacked
in the same way as the update itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from protos.task import Task
from redteam.attacks.learner import Learner
from redteam.attacks.parts import Floats
from redteam.privacy.views import Seen, fold_matrix

STEPS = 200
RATE = 0.05
SMOOTHNESS = 0.02
"""Weight of the total variation, of the order that the paper uses for untrained networks."""


@dataclass(frozen=True)
class Clues:
    """What an image must explain.

    Attributes:
        label: its class.
        views: linear maps of a flat gradient, each with what was seen of the update through it.
        embedding: the class sum, which of a single record is its embedding, float[width].
    """

    label: int
    views: tuple[tuple[Callable[[Tensor], Tensor], Tensor], ...] = ()
    embedding: Tensor | None = None


def clues(kind: str, task: Task, seen: Seen, label: int) -> Clues:
    """What the named attack goes by: `update`, or `coordinator` (folds, output layer and prototypes)."""
    embedding = _tensor(seen.prototypes[label])
    if kind == "update":
        return Clues(label, ((lambda flat: flat, _tensor(seen.update)),))
    places, coordinates, signs = fold_matrix(task, seen.signs)
    where, which, sign = torch.from_numpy(places), torch.from_numpy(coordinates), _tensor(signs)

    def folded(flat: Tensor) -> Tensor:
        return torch.zeros(seen.folds.size).index_add(0, where, flat[which] * sign)

    views: list[tuple[Callable[[Tensor], Tensor], Tensor]] = [(folded, _tensor(seen.folds.ravel()))]
    if seen.output.size:
        offset, size = task.layout.output_offset, task.layout.output_size
        views.append((lambda flat: flat[offset : offset + size], _tensor(seen.output)))
    return Clues(label, tuple(views), embedding)


def invert(task: Task, model: NDArray[np.float32], wanted: Clues, start: Floats) -> Floats:
    """The image that explains the clues best, from `start`; float64[inputs] in [0, 1]."""
    learner = Learner(task.model)
    parameters = list(learner.load(model).parameters())
    image = _tensor(start).clone().requires_grad_()
    optimizer = torch.optim.Adam([image], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    label = torch.tensor([wanted.label])
    for _ in range(STEPS):
        embeddings, scores = learner.forward(image[None, :])
        loss = SMOOTHNESS * _variation(image)
        if wanted.embedding is not None:
            distance = (embeddings[0] - wanted.embedding).square().sum()
            loss = loss + distance / wanted.embedding.square().sum().clamp(min=1e-12)
        if wanted.views:
            entropy = nn.functional.cross_entropy(scores, label)
            parts = torch.autograd.grad(entropy, parameters, create_graph=True)
            flat = -torch.cat([part.reshape(-1) for part in parts])
            for view, seen in wanted.views:
                loss = loss + 1 - nn.functional.cosine_similarity(view(flat), seen, dim=0)
        image.grad = torch.autograd.grad(loss, [image])[0].sign()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            image.clamp_(0.0, 1.0)
    found: Floats = image.detach().double().numpy()
    return found


def _variation(image: Tensor) -> Tensor:
    """Total variation of a square image, mean over pixels; zero for records that are no squares."""
    side = round(image.numel() ** 0.5)
    if side * side != image.numel():
        return image.sum() * 0.0
    square = image.reshape(side, side)
    return (square[1:] - square[:-1]).abs().mean() + (square[:, 1:] - square[:, :-1]).abs().mean()


def _tensor(array: Floats) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).float()
