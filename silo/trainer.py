"""What a silo asks of its learning side, and which implementation answers for which kind of model.

Torch takes seconds to import, so a kind's module is imported when it is first needed: `linear` never needs torch.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from crypto import sketch
from crypto.packing import Packing
from protos.task import Layout, ModelSpec, Task, Training
from silo.data import Records
from silo.entropy import Entropy
from silo.errors import SiloError, UnsuitableModel
from silo.guidance import NONE, Guidance
from silo.searcher import Searcher

SAFE_CLIP = 1 - 2.0**-16
"""Gradients are clipped to this part of C, so that float32 rounding of a norm cannot exceed the accounted C."""


class Trainer(Protocol):
    """DP-SGD and its by-products on one silo's records. Models are flat float32[d] in the task's layout."""

    def train(
        self, model: NDArray[np.float32], training: Training, count: int, guidance: Guidance = NONE
    ) -> NDArray[Any]:
        """The update of one round, float64[d] (or float32[d], for half the memory): new model minus `model`.

        Each of `training.steps` steps takes a Poisson batch, clips every record's gradient to C, adds N(0, (σC)²) and
        moves by -lr · (sum + noise) / (sample_rate · count) (Abadi et al. 2016, Algorithm 1). An empty batch still
        releases the noise.

        Args:
            model: where to start.
            training: the plan's DP-SGD parameters.
            count: the *public*, noised record count; the true one would be one more release.
            guidance: public; it changes the gradients that are clipped, and costs no privacy.

        Raises:
            SiloError: the model has another size or is not finite.
        """

    def embed(self, model: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Output layer inputs under `model`, float64[n, embedding], and labels, int64[n], of all training records."""

    def evaluate(self, model: NDArray[np.float32]) -> tuple[int, int]:
        """Correctly classified and all hold-out records. Exact: noise them before they leave."""


class _SearchFamily(Protocol):
    """The module that searches."""

    def searcher(self, spec: ModelSpec, blur: NDArray[np.float64]) -> Searcher: ...


class _Family(Protocol):
    """The module behind a kind of model."""

    def layout(self, spec: ModelSpec, permutation: str) -> Layout: ...

    def initial_model(self, spec: ModelSpec, seed: int) -> NDArray[np.float32]: ...

    def trainer(self, spec: ModelSpec, records: Records, entropy: Entropy) -> Trainer: ...


_MODULES = {"linear": "silo.linear"}
_TORCH = "silo.training"
_SEARCH = "silo.search"


def layout_for(spec: ModelSpec, permutation: str) -> Layout:
    """How the flat model of `spec` is laid out; `permutation` is 32 bytes in hex.

    Raises:
        UnsuitableModel: unknown kind, or a model that cannot be trained privately; the fix is named.
    """
    return _family(spec).layout(spec, permutation)


def initial_model(spec: ModelSpec, seed: int) -> NDArray[np.float32]:
    """A first global model, float32[d]; the seed is public and reaches no noise."""
    return _family(spec).initial_model(spec, seed)


def trainer_for(task: Task, records: Records, entropy: Entropy) -> Trainer:
    """The trainer of the task's model on these records.

    Raises:
        BadData: the records do not fit the task.
        UnsuitableModel: this build cannot train the model, builds it with another layout than the task's, or see
            `require_pullable`.
    """
    records.require_fit(task.model.sizes[0], task.layout.classes, task.model.features)
    require_pullable(task)
    return _family(task.model).trainer(task.model, records, entropy)


def searcher_for(task: Task) -> Searcher:
    """The searcher of the task's models; needs torch for every kind.

    Raises:
        UnsuitableModel: this build cannot build the model.
    """
    blur = sketch.blur(Packing.of(task.layout, task.folds))
    return cast(_SearchFamily, importlib.import_module(_SEARCH)).searcher(task.model, blur)


def require_pullable(task: Task) -> None:
    """Refuse a pull on embeddings that nothing makes: with the output layer alone they are the records themselves.

    Raises:
        UnsuitableModel: says what to change.
    """
    pull = task.prototypes is not None and task.prototypes.pull_micro
    if pull and task.layout.output_size == task.layout.size:
        raise UnsuitableModel(
            "the model has no layer before its output layer, so there is nothing that prototypes could pull: leave "
            "prototypes.pull out, or use an mlp with a hidden layer"
        )


def require_model(model: NDArray[np.float32], size: int) -> None:
    """Refuse a flat model of another size or with values that are not finite; for trainers."""
    if model.shape != (size,):
        raise SiloError(f"the model has shape {model.shape}, the task's layout says ({size},); fetch it again")
    if not np.isfinite(model).all():
        raise SiloError("the model holds NaN or infinite values; go back to an earlier one and lower the learning rate")


def _family(spec: ModelSpec) -> _Family:
    return cast(_Family, importlib.import_module(_MODULES.get(spec.kind, _TORCH)))
