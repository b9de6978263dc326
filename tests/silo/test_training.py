import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from protos.task import ModelSpec
from silo import models, training
from silo.errors import BadData, SiloError
from silo.linear import LinearTrainer
from silo.pack import pack_task
from silo.trainer import SAFE_CLIP, trainer_for
from tests.silo.entropy import SeededEntropy
from tests.silo.examples import description, naive_clipped_sum, records
from tests.silo.examples import training as plan

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:Full backward hook")]

SPEC = ModelSpec("mlp", (6, 5, 3), "tanh")


def trainer(count: int = 40, seed: int = 1, spec: ModelSpec = SPEC) -> training.TorchTrainer:
    return training.trainer(spec, records(count), SeededEntropy(seed))


def model(size: int = 53) -> NDArray[np.float32]:
    return np.random.default_rng(2).normal(size=size).astype(np.float32)


def tensors(flat: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    parts = np.split(flat, [30, 35, 50])
    return [parts[0].reshape(5, 6), parts[1], parts[2].reshape(3, 5), parts[3]]


def naive_update(count: int, clip: float, steps: int, public_count: int) -> NDArray[np.float64]:
    data, start = records(count), model().astype(np.float64)
    flat = start.copy()
    for _ in range(steps):
        total = naive_clipped_sum(tensors(flat), data.features, data.labels, clip * SAFE_CLIP)
        flat -= 0.5 * total / public_count
    return flat - start


@pytest.mark.parametrize("clip_micro", [50_000, 400_000, 100_000_000])
def test_full_batch_without_noise_is_the_naive_loop(clip_micro: int) -> None:
    update = trainer().train(model(), plan(clip_micro=clip_micro, steps=3), count=44)
    assert update.dtype == np.float64
    assert update == pytest.approx(naive_update(40, clip_micro / 1e6, 3, 44), abs=2e-5)


def test_batch_larger_than_memory_is_summed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_CHUNK", 7)
    update = trainer().train(model(), plan(steps=2), count=40)
    assert update == pytest.approx(naive_update(40, 0.4, 2, 40), abs=2e-5)


def test_linear_model_agrees_with_the_numpy_trainer_draw_for_draw() -> None:
    spec = ModelSpec("mlp", (6, 3), "tanh")
    noisy = plan(steps=5, noise_micro=2_000_000, sample_rate_micro=300_000)
    ours = trainer(seed=9, spec=spec).train(model(21), noisy, count=40)
    # The numpy trainer draws its noise in the same flat order: weight, then bias.
    reference = LinearTrainer(6, 3, records(40), SeededEntropy(9)).train(model(21), noisy, count=40)
    assert ours == pytest.approx(reference, abs=1e-5)
    assert np.linalg.norm(ours) > 0.1


def test_noise_has_the_accounted_spread() -> None:
    subject = trainer(count=1)
    noisy = plan(noise_micro=3_000_000, sample_rate_micro=1)  # an empty batch but for one time in a million
    updates = np.array([subject.train(model(), noisy, count=50_000_000) for _ in range(200)])
    assert updates.std() == pytest.approx(0.5 * 3.0 * 0.4 / 50, rel=0.03)
    assert abs(updates.mean()) < 4 * updates.std() / np.sqrt(updates.size)


def test_two_runs_draw_different_noise() -> None:
    subject = trainer()
    noisy = plan(noise_micro=1_000_000)
    assert not np.array_equal(subject.train(model(), noisy, 40), subject.train(model(), noisy, 40))


def test_torch_seed_does_not_reach_the_noise() -> None:
    noisy = plan(noise_micro=1_000_000)
    torch.manual_seed(1)
    first = trainer(seed=1).train(model(), noisy, 40)
    torch.manual_seed(1)
    assert not np.array_equal(first, trainer(seed=2).train(model(), noisy, 40))
    torch.manual_seed(2)
    assert np.array_equal(first, trainer(seed=1).train(model(), noisy, 40))


def test_record_whose_gradient_overflows_counts_as_little() -> None:
    data = records(40)
    data.features[0] = 3e38
    subject = training.trainer(SPEC, data, SeededEntropy(1))
    update = subject.train(model(), plan(), count=40)
    rest = naive_clipped_sum(tensors(model().astype(np.float64)), data.features[1:], data.labels[1:], 0.4 * SAFE_CLIP)
    assert np.linalg.norm(update * 40 / 0.5 + rest) <= 0.4001


def test_embedding_is_the_input_of_the_output_layer() -> None:
    embeddings, labels = trainer().embed(model())
    weight, bias, *_ = tensors(model().astype(np.float64))
    assert embeddings == pytest.approx(np.tanh(records(40).features @ weight.T + bias), abs=1e-5)
    assert np.array_equal(labels, records(40).labels)


def test_evaluation_counts_the_holdout() -> None:
    w1, b1, w2, b2 = tensors(model().astype(np.float64))
    data = records(40)
    scores = np.tanh(data.holdout_features @ w1.T + b1) @ w2.T + b2
    expected = int((scores.argmax(axis=1) == data.holdout_labels).sum())
    assert trainer().evaluate(model()) == (expected, 40)


def test_training_leaves_no_state_behind() -> None:
    subject = trainer()
    subject.train(model() + 1, plan(steps=2), count=40)
    assert subject.train(model(), plan(), count=40) == pytest.approx(naive_update(40, 0.4, 1, 40), abs=2e-5)


def test_model_with_nan_is_refused() -> None:
    with pytest.raises(SiloError, match="NaN"):
        trainer().train(np.full(53, np.nan, dtype=np.float32), plan(), count=40)


def test_records_that_do_not_fit_the_task_are_refused() -> None:
    task, _ = pack_task(description("mlp"))
    with pytest.raises(BadData, match="5 features, the model takes 6"):
        trainer_for(task, records(40, inputs=5), SeededEntropy(1))
    with pytest.raises(BadData, match="label"):
        trainer_for(task, records(40, classes=9), SeededEntropy(1))


def test_convolution_trains_through_the_same_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    def convolution(spec: ModelSpec) -> nn.Module:
        return nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))

    monkeypatch.setitem(models.MODELS, "convolution", convolution)
    spec = ModelSpec("convolution", (6, 3), "relu")
    start = training.initial_model(spec, 1)
    subject = training.trainer(spec, records(40), SeededEntropy(1))
    update = subject.train(start, plan(steps=80, clip_micro=1_000_000), count=40)
    before, after = subject.evaluate(start)[0], subject.evaluate((start + update).astype(np.float32))[0]
    assert after > max(before, 30)
    assert subject.embed(start)[0].shape == (40, 8)
