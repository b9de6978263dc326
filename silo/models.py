"""Torch models behind one factory interface: a kind's name, a `ModelSpec`, an `nn.Module`.

A flat model is the module's parameters in their order, each row-major, float32. The last `nn.Linear` is the output
layer and must come last: its weight and bias are the tail of the flat model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from protos.task import Layout, ModelSpec, TensorSpec
from silo.errors import UnsuitableModel
from silo.trainer import require_model

_ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_KERNEL = 5


def mlp(spec: ModelSpec) -> nn.Module:
    """Fully connected layers of widths `spec.sizes`, with `spec.activation` between them."""
    if len(spec.sizes) < 2:
        raise UnsuitableModel("an mlp needs at least two sizes, inputs and classes")
    return nn.Sequential(*_dense(spec.sizes, _activation(spec)))


def lenet(spec: ModelSpec) -> nn.Module:
    """LeNet-5 (LeCun et al. 1998) on square grey images: two 5 x 5 convolutions with 2 x 2 maxima, then dense layers.

    `spec.sizes` are pixels, channels of the two convolutions, hidden widths, classes: 784, 6, 16, 120, 84, 10 is the
    original. The first convolution keeps the side, so that 28 x 28 needs no border. Maxima come before the activation,
    which rises and so gives the same on a quarter of the values. No layer mixes records.
    """
    if len(spec.sizes) < 4:
        raise UnsuitableModel("a lenet needs at least four sizes: pixels, two numbers of channels, and classes")
    pixels, first, second, *widths = spec.sizes
    side = math.isqrt(pixels)
    left = (side // 2 - _KERNEL + 1) // 2
    if side * side != pixels or left < 1:
        raise UnsuitableModel(f"a lenet takes square images of at least 12 x 12 pixels, not {pixels} features: use mlp")
    activation = _activation(spec)
    convolutions = [
        nn.Unflatten(1, (1, side, side)),
        *(nn.Conv2d(1, first, _KERNEL, padding=_KERNEL // 2), nn.MaxPool2d(2), activation()),
        *(nn.Conv2d(first, second, _KERNEL), nn.MaxPool2d(2), activation(), nn.Flatten()),
    ]
    return nn.Sequential(*convolutions, *_dense((second * left * left, *widths), activation))


def _activation(spec: ModelSpec) -> type[nn.Module]:
    if spec.activation not in _ACTIVATIONS:
        raise UnsuitableModel(f"unknown activation {spec.activation!r}: use one of {', '.join(sorted(_ACTIVATIONS))}")
    return _ACTIVATIONS[spec.activation]


def _dense(widths: Sequence[int], activation: type[nn.Module]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.Linear(width, following), activation()]
    return layers[:-1]


MODELS: dict[str, Callable[[ModelSpec], nn.Module]] = {"lenet": lenet, "mlp": mlp}
"""Factories by kind; a factory takes flat rows [n, sizes[0]] and reshapes them itself."""


def build(spec: ModelSpec) -> nn.Module:
    """A module of that kind, checked to be trainable with DP-SGD; its parameters are torch's own initial ones.

    Raises:
        UnsuitableModel: unknown kind, or a layer that mixes records; the replacement is named.
    """
    if spec.kind not in MODELS:
        raise UnsuitableModel(f"unknown model kind {spec.kind!r}: use one of linear, {', '.join(sorted(MODELS))}")
    module = MODELS[spec.kind](spec).train()
    require_private(module)
    output_layer(module)
    return module


def module_for(spec: ModelSpec) -> nn.Module:
    """`build`, and a `linear` task as one `nn.Linear`, which has the same flat layout; raises UnsuitableModel."""
    return nn.Sequential(nn.Linear(spec.sizes[0], spec.sizes[1])) if spec.kind == "linear" else build(spec)


def require_private(module: nn.Module) -> None:
    """Refuse a module whose per-record gradients are not defined (Opacus' `ModuleValidator`).

    Raises:
        UnsuitableModel: names the layer and what to use instead.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, _BATCH_NORMS):
            raise UnsuitableModel(
                f"layer {name} is {type(layer).__name__}, which mixes records and cannot be private: use GroupNorm"
            )
    remembered = sorted(set(module.state_dict()) - {name for name, _ in module.named_parameters()})
    if remembered:
        raise UnsuitableModel(
            f"the model keeps {remembered[0]} outside of its parameters, where no noise reaches: set "
            "track_running_stats=False, or register constants with persistent=False"
        )
    problems = ModuleValidator.validate(module, strict=False)
    if problems:
        raise UnsuitableModel(f"the model cannot be trained privately: {' '.join(str(problems[0]).split())[:300]}")


def output_layer(module: nn.Module) -> nn.Linear:
    """The last `nn.Linear`, if its weight and bias are the module's last parameters; raises UnsuitableModel else."""
    linears = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    tail = list(module.parameters())[-2:]
    if not linears or linears[-1].bias is None or not _same(tail, [linears[-1].weight, linears[-1].bias]):
        raise UnsuitableModel("the last parameters must be weight and bias of an nn.Linear: put the output layer last")
    return linears[-1]


def layout_of(module: nn.Module, permutation: str) -> Layout:
    """The layout of the flat model; `permutation` is the public seed, 32 bytes in hex."""
    output = output_layer(module)
    tensors, offset = [], 0
    for name, parameter in module.named_parameters():
        tensors.append(TensorSpec(name, tuple(parameter.shape), offset))
        offset += parameter.numel()
    output_size = output.weight.numel() + output.bias.numel()
    return Layout(
        tuple(tensors), offset, offset - output_size, output_size, output.in_features, output.out_features, permutation
    )


def flatten(module: nn.Module) -> NDArray[np.float32]:
    """The parameters in order as one vector, float32[d]."""
    flat: NDArray[np.float32] = torch.cat([p.detach().cpu().reshape(-1) for p in module.parameters()]).float().numpy()
    return flat.copy()


def unflatten(module: nn.Module, flat: NDArray[np.float32]) -> None:
    """Set the parameters from a flat model; raises SiloError for another size or values that are not finite."""
    parameters = list(module.parameters())
    require_model(flat, sum(parameter.numel() for parameter in parameters))
    values = torch.from_numpy(flat.astype(np.float32))  # a copy: flat may be read-only
    with torch.no_grad():
        for parameter, part in zip(parameters, torch.split(values, [p.numel() for p in parameters]), strict=True):
            parameter.copy_(part.reshape(parameter.shape))


def _same(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    return len(left) == len(right) and all(a is b for a, b in zip(left, right, strict=True))
