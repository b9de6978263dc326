"""Trigger optimisation of BAPFL, equation 8 (Zeng et al. 2025), in torch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from redteam.attacks.learner import Learner
from redteam.attacks.parts import Features, Floats, Trigger
from redteam.attacks.prototypes import TriggerSearch
from redteam.attacks.triggers import Masked

_START = -2.0
"""Logit of a fresh mask: mostly transparent."""


def learn_trigger(
    learner: Learner,
    model: NDArray[np.float32],
    features: Features,
    label: int,
    consensus: Floats,
    search: TriggerSearch,
    known: Trigger | None = None,
) -> Masked:
    """Mask and pattern that turn `features` into `label` and bring their embeddings to `consensus`.

    Args:
        learner: the model's architecture.
        model: its parameters, float32[d].
        features: records to stamp, float32[n, inputs].
        label: the wanted class.
        consensus: its global prototype, float64[width].
        search: weights, steps and pixel range.
        known: the trigger of the round before, to go on from.
    """
    learner.load(model)
    data, wanted = torch.from_numpy(features), torch.from_numpy(consensus).float()
    labels = torch.full((len(features),), label)
    logits, pixels = _start(features.shape[1], search, known)
    optimizer = torch.optim.Adam([logits, pixels], lr=search.learning_rate)
    for _ in range(search.steps):
        mask, pattern = torch.sigmoid(logits), pixels.clamp(search.low, search.high)
        embeddings, scores = learner.forward((1 - mask) * data + mask * pattern)
        loss = nn.functional.cross_entropy(scores, labels)
        loss = loss + search.pull * (embeddings - wanted).square().sum(dim=1).mean()
        loss = loss + search.stealth * (mask * pattern).abs().sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return Masked(_array(torch.sigmoid(logits)), _array(pixels.clamp(search.low, search.high)))


def _start(width: int, search: TriggerSearch, known: Trigger | None) -> tuple[Tensor, Tensor]:
    if isinstance(known, Masked):
        mask = torch.from_numpy(known.mask).clamp(1e-4, 1 - 1e-4)
        return torch.logit(mask).requires_grad_(), torch.from_numpy(known.pattern.copy()).requires_grad_()
    middle = (search.low + search.high) / 2
    return torch.full((width,), _START, requires_grad=True), torch.full((width,), middle, requires_grad=True)


def _array(values: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.detach().numpy().astype(np.float32)
    return array
