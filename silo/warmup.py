"""A first model that already knows a little: fitted to the federation's public root set before genesis pins it.

It spares the rounds in which a model from scratch is at chance, cannot be searched (`silo.search`), and learns nothing
where a majority holds it there. Public records cost no privacy. What it does not bring, and why it is off by default,
is in decision 21.

The fit is light on purpose. Searches look at the same records: what a model has learned by heart it is right on,
whatever else it was taught. Weights move by Adam (Kingma and Ba 2015) on all records at once.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from protos.task import ModelSpec
from silo import models
from silo.searcher import Root

LOSS = 0.5
"""Mean cross-entropy at which the fit ends. 300 images of MNIST take an MLP there with 0.8 of others right."""
STEPS = 400
"""Most steps; a model that does not get there keeps what it has."""
RATE = 0.003


def fitted(spec: ModelSpec, model: NDArray[np.float32], root: Root) -> NDArray[np.float32]:
    """The model, float32[d] in the task's layout, after a light fit to the public records.

    Draws nothing at random; float rounding differs between machines, so it is made once and pinned by digest.
    """
    module = models.module_for(spec)
    models.unflatten(module, model)
    features, labels = torch.from_numpy(root.features.copy()), torch.from_numpy(root.labels)
    optimizer = torch.optim.Adam(module.parameters(), lr=RATE)
    for _ in range(STEPS):
        loss = nn.functional.cross_entropy(module(features), labels)
        if loss.item() <= LOSS:
            break
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return models.flatten(module)
