"""FedProto's pull in DP-SGD: the right gradient of each record, clipped as ever, and what it does to embeddings."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from audit.prototypes import GlobalPrototypes
from protos.task import MICRO, ModelSpec, PrototypeRule
from silo import models, training
from silo.data import Records
from silo.errors import UnsuitableModel
from silo.guidance import NONE, Guidance, Pull
from silo.linear import LinearTrainer
from silo.pack import pack_task
from silo.trainer import SAFE_CLIP, initial_model, trainer_for
from tests.redteam.plain_task import plain_task
from tests.silo.entropy import SeededEntropy
from tests.silo.examples import description, records
from tests.silo.examples import training as plan

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:Full backward hook")]

MLP = ModelSpec("mlp", (6, 5, 3), "tanh")
DEEP = ModelSpec("mlp", (6, 7, 4, 3), "relu")
LENET = ModelSpec("lenet", (144, 2, 3, 5, 3), "tanh")
WIDTHS = {MLP: 5, DEEP: 4, LENET: 5}


def pull(width: int, strength: float = 3.0, known: tuple[bool, ...] = (True, False, True)) -> Pull:
    """Towards random centres of the known classes of three."""
    there = np.array(known)
    centres = np.random.default_rng(5).normal(size=(len(known), width)) * there[:, None]
    return Pull(strength, GlobalPrototypes(1, centres, there))


def trainer(spec: ModelSpec, own: Records, seed: int = 1) -> training.TorchTrainer:
    return training.trainer(spec, own, SeededEntropy(seed))


def one_by_one(spec: ModelSpec, model: NDArray[np.float32], own: Records, towards: Pull, clip: float) -> Tensor:
    """Sum of the records' clipped gradients: autograd in float64 on each record alone, no Opacus and no hooks."""
    module = models.build(spec).double()
    models.unflatten(module, model)
    body, head = module[:-1], module[-1]  # type: ignore[index]
    total = torch.zeros(model.size, dtype=torch.float64)
    for row, label in zip(own.features, own.labels, strict=True):
        embedding = body(torch.from_numpy(row)[None].double())
        loss = nn.functional.cross_entropy(head(embedding), torch.tensor([int(label)]))
        if towards.prototypes.known[label]:
            distance = (embedding[0] - torch.from_numpy(towards.prototypes.centres[label])) ** 2
            loss = loss + towards.strength * distance.sum() / distance.numel()
        parts = torch.autograd.grad(loss, list(module.parameters()))
        gradient = torch.cat([part.reshape(-1) for part in parts])
        total += gradient * min(1.0, clip / float(gradient.norm()))
    return total


@pytest.mark.parametrize("clip_micro", [50_000, 900_000, 100 * MICRO])
@pytest.mark.parametrize("spec", [MLP, DEEP, LENET], ids=["mlp", "deep", "lenet"])
def test_clipped_sum_with_a_pull_is_that_of_each_record_alone(spec: ModelSpec, clip_micro: int) -> None:
    own, model, towards = records(40, inputs=spec.sizes[0]), initial_model(spec, 3), pull(WIDTHS[spec])
    update = trainer(spec, own).train(model, plan(clip_micro=clip_micro), 40, Guidance(pull=towards))
    expected = one_by_one(spec, model, own, towards, clip_micro / MICRO * SAFE_CLIP)
    assert update == pytest.approx(-0.5 / 40 * expected.numpy(), abs=2e-5)
    without = trainer(spec, own).train(model, plan(clip_micro=clip_micro), 40)
    assert np.linalg.norm(update - without) > 0.02 * np.linalg.norm(without)


def test_gradient_of_the_pull_by_hand() -> None:
    """One record, tanh(w x + b) with one hidden unit: 2 λ (e - p) (1 - e²) x on the weight, nothing on the output."""
    spec, label = ModelSpec("mlp", (1, 1, 2), "tanh"), np.array([1])
    x = np.array([[0.5]], dtype=np.float32)
    own, model = Records(x, label, x, label), np.array([0.8, 0.1, 0.3, -0.2, 0.0, 0.4], dtype=np.float32)
    towards = Pull(1.5, GlobalPrototypes(1, np.array([[9.0], [-0.7]]), np.array([True, True])))
    wide = plan(clip_micro=100 * MICRO)
    with_it, without = (trainer(spec, own).train(model, wide, 1, Guidance(pull=one)) for one in (towards, None))
    e = np.tanh(0.8 * 0.5 + 0.1)
    slope = 2 * 1.5 * (e + 0.7) * (1 - e**2)
    # The noise of either update has a deviation of 5e-5.
    assert with_it - without == pytest.approx(np.array([-0.5 * slope * 0.5, -0.5 * slope, 0, 0, 0, 0]), abs=5e-4)


def test_batch_larger_than_memory_is_summed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    own, model, towards = records(40), initial_model(MLP, 3), Guidance(pull=pull(5))
    whole = trainer(MLP, own).train(model, plan(steps=2), 40, towards)
    monkeypatch.setattr(training, "_CHUNK", 7)
    assert trainer(MLP, own).train(model, plan(steps=2), 40, towards) == pytest.approx(whole, abs=2e-5)


@pytest.mark.parametrize("without", [NONE, Guidance(pull=pull(5, 0.0)), Guidance(pull=pull(5, 3.0, (False,) * 3))])
def test_no_pull_and_prototypes_of_no_class_leave_the_update_to_the_bit(without: Guidance) -> None:
    model, noisy = initial_model(MLP, 3), plan(steps=3, sample_rate_micro=300_000, noise_micro=MICRO)
    plain = trainer(MLP, records(40)).train(model, noisy, 40)
    assert np.array_equal(plain, trainer(MLP, records(40)).train(model, noisy, 40, without))
    assert not np.array_equal(plain, trainer(MLP, records(40)).train(model, noisy, 40, Guidance(pull=pull(5))))


def test_a_trainer_forgets_the_pull_of_the_round_before() -> None:
    subject, model = trainer(MLP, records(40)), initial_model(MLP, 3)
    subject.train(model, plan(), 40, Guidance(pull=pull(5)))
    assert subject.train(model, plan(), 40) == pytest.approx(
        trainer(MLP, records(40)).train(model, plan(), 40), abs=1e-5
    )


@pytest.mark.parametrize("strength", [0.1, 1e3, 1e30])
def test_one_record_moves_the_update_by_no_more_than_the_clip_norm(strength: float) -> None:
    model, own = initial_model(MLP, 3), records(1)
    update = trainer(MLP, own).train(model, plan(), 1, Guidance(pull=pull(5, strength, (True, True, True))))
    assert np.linalg.norm(update) <= 0.5 * 0.4 * (1 + 1e-5)


def test_embeddings_come_closer_to_the_prototypes_of_their_class() -> None:
    own, towards = records(200), pull(5, 2.0, (True, True, True))
    centres = np.tanh(towards.prototypes.centres)
    reached = Pull(2.0, GlobalPrototypes(1, centres, towards.prototypes.known))

    def distance(guidance: Guidance) -> float:
        subject, model = trainer(MLP, own), initial_model(MLP, 3)
        for _ in range(3):
            model = (model + subject.train(model, plan(steps=20), 200, guidance)).astype(np.float32)
        embeddings, labels = subject.embed(model)
        return float(np.square(embeddings - centres[labels]).mean())

    assert distance(Guidance(pull=reached)) < 0.3 * distance(NONE)


@pytest.mark.parametrize("spec", [ModelSpec("linear", (6, 3), "none"), ModelSpec("mlp", (6, 3), "tanh")])
def test_a_pull_on_records_themselves_is_refused_when_packed_and_when_trained(spec: ModelSpec) -> None:
    rule = {"clip": 2.0, "noise": 6.8, "every": 1}
    model = {"kind": spec.kind, "sizes": list(spec.sizes), "activation": spec.activation}
    with pytest.raises(UnsuitableModel, match=r"nothing that prototypes could pull: leave prototypes\.pull out"):
        pack_task(description(model=model, prototypes=rule | {"pull": 0.1}))
    task = dataclasses.replace(plain_task(spec), prototypes=PrototypeRule(MICRO, 1, 1, pull_micro=1))
    with pytest.raises(UnsuitableModel, match="use an mlp with a hidden layer"):
        trainer_for(task, records(40), SeededEntropy(1))


def test_a_linear_trainer_refuses_a_pull_that_it_is_handed() -> None:
    subject = LinearTrainer(6, 3, records(40), SeededEntropy(1))
    with pytest.raises(UnsuitableModel, match="no embedding that prototypes could pull"):
        subject.train(np.zeros(21, np.float32), plan(), 40, Guidance(pull=pull(6)))
