import numpy as np
import pytest
import torch
from torch import nn

from protos.task import ModelSpec
from silo import models
from silo.errors import SiloError, UnsuitableModel
from silo.trainer import initial_model, layout_for

pytestmark = pytest.mark.torch

SPEC = ModelSpec("mlp", (6, 5, 3), "tanh")
SEED = "ab" * 32


class OutputFirst(nn.Module):
    """Its output layer is not the tail of the parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Linear(6, 3)
        self.scale = nn.GroupNorm(1, 3)


def test_layout_names_every_coordinate_once() -> None:
    layout = layout_for(SPEC, SEED)
    ends = [tensor.offset + int(np.prod(tensor.shape)) for tensor in layout.tensors]
    assert [tensor.offset for tensor in layout.tensors] == [0, *ends[:-1]]
    assert ends[-1] == layout.size == 6 * 5 + 5 + 5 * 3 + 3
    assert (layout.output_offset, layout.output_size) == (35, 18)
    assert (layout.embedding, layout.classes, layout.permutation) == (5, 3, SEED)
    assert layout.tensors[-2].shape == (3, 5)


def test_flattening_is_undone_by_unflattening() -> None:
    module = models.build(SPEC)
    flat = np.random.default_rng(1).normal(size=53).astype(np.float32)
    flat.setflags(write=False)
    models.unflatten(module, flat)
    assert np.array_equal(models.flatten(module), flat)
    layout = models.layout_of(module, SEED)
    for tensor, parameter in zip(layout.tensors, module.parameters(), strict=True):
        part = flat[tensor.offset : tensor.offset + parameter.numel()].reshape(tensor.shape)
        assert np.array_equal(parameter.detach().numpy(), part)


@pytest.mark.parametrize("wrong", [np.zeros(52), np.full(53, np.nan)])
def test_flat_model_of_other_size_or_with_nan_is_refused(wrong: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    module = models.build(SPEC)
    before = models.flatten(module)
    with pytest.raises(SiloError, match="the model"):
        models.unflatten(module, wrong.astype(np.float32))
    assert np.array_equal(models.flatten(module), before)


def test_initial_model_follows_its_seed_and_leaves_torch_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = initial_model(SPEC, 7)
    assert torch.equal(torch.rand(1), expected)
    assert np.array_equal(first, initial_model(SPEC, 7))
    assert not np.array_equal(first, initial_model(SPEC, 8))
    assert first.dtype == np.float32


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(5), nn.SyncBatchNorm(5)])
def test_batch_norm_is_refused_and_group_norm_named(monkeypatch: pytest.MonkeyPatch, layer: nn.Module) -> None:
    module = nn.Sequential(nn.Linear(6, 5), layer, nn.Linear(5, 3))
    monkeypatch.setitem(models.MODELS, "normed", lambda spec: module)
    with pytest.raises(UnsuitableModel, match=r"layer 1 is \w*BatchNorm\w*, .*GroupNorm"):
        layout_for(ModelSpec("normed", (6, 3), "tanh"), SEED)


def test_group_norm_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        models.MODELS, "grouped", lambda spec: nn.Sequential(nn.Linear(6, 4), nn.GroupNorm(2, 4), nn.Linear(4, 3))
    )
    assert layout_for(ModelSpec("grouped", (6, 3), "tanh"), SEED).output_size == 15


def test_layer_that_opacus_refuses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.MultiheadAttention(6, 1), nn.Linear(6, 3))
    monkeypatch.setitem(models.MODELS, "attention", lambda spec: module)
    with pytest.raises(UnsuitableModel, match="cannot be trained privately"):
        layout_for(ModelSpec("attention", (6, 3), "tanh"), SEED)


def test_layer_that_remembers_data_outside_its_parameters_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.Linear(6, 5), nn.InstanceNorm1d(5, track_running_stats=True), nn.Linear(5, 3))
    monkeypatch.setitem(models.MODELS, "tracked", lambda spec: module)
    with pytest.raises(UnsuitableModel, match=r"keeps 1\.\w+ outside .*track_running_stats=False"):
        layout_for(ModelSpec("tracked", (6, 3), "tanh"), SEED)


@pytest.mark.parametrize(
    "module",
    [OutputFirst(), nn.Sequential(nn.Linear(6, 3, bias=False)), nn.Sequential(nn.Conv1d(1, 2, 1))],
)
def test_output_layer_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch, module: nn.Module) -> None:
    monkeypatch.setitem(models.MODELS, "odd", lambda spec: module)
    with pytest.raises(UnsuitableModel, match="put the output layer last"):
        models.build(ModelSpec("odd", (6, 3), "tanh"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ModelSpec("transformer", (6, 3), "tanh"), "use one of linear, lenet, mlp"),
        (ModelSpec("mlp", (6, 3), "gelu"), "use one of relu, tanh"),
        (ModelSpec("mlp", (6,), "tanh"), "at least two sizes"),
    ],
)
def test_unknown_model_is_refused_with_the_choices(spec: ModelSpec, message: str) -> None:
    with pytest.raises(UnsuitableModel, match=message):
        layout_for(spec, SEED)


def test_a_lenet_of_the_papers_widths_has_its_parameters_and_trains() -> None:
    spec = ModelSpec("lenet", (784, 6, 16, 120, 84, 10), "tanh")
    assert layout_for(spec, SEED).size == 61_706
    module = models.build(spec)
    assert module(torch.zeros(3, 784)).shape == (3, 10)


def test_a_lenet_sees_images_and_not_columns() -> None:
    """Convolutions and maxima commute with a shift by what they reduce: 4 pixels move the last map by one cell."""
    module = models.build(ModelSpec("lenet", (784, 2, 3, 10), "relu"))
    assert isinstance(module, nn.Sequential)
    image = torch.zeros(1, 28, 28)
    image[0, 10:14, 10:14] = 1
    shifted = torch.roll(image, 4, dims=2)
    maps = [nn.Sequential(*list(module)[:-2])(one.reshape(1, 784)).reshape(3, 5, 5) for one in (image, shifted)]
    assert torch.allclose(maps[0][:, 1:4, 1:3], maps[1][:, 1:4, 2:4], atol=1e-6)
    assert not torch.allclose(maps[0], maps[1])


@pytest.mark.parametrize(
    ("sizes", "message"), [((784, 6, 10), "at least four sizes"), ((783, 6, 16, 10), "square"), ((64, 6, 16, 10), "12")]
)
def test_a_lenet_on_other_features_is_refused(sizes: tuple[int, ...], message: str) -> None:
    with pytest.raises(UnsuitableModel, match=message):
        layout_for(ModelSpec("lenet", sizes, "relu"), SEED)
