import numpy as np
import pytest

from protos.task import ModelSpec
from silo.data import Records
from silo.errors import SiloError, UnsuitableModel
from silo.linear import LinearTrainer, initial_model, layout
from silo.trainer import SAFE_CLIP
from tests.silo.entropy import SeededEntropy
from tests.silo.examples import naive_clipped_sum, records, training

SPEC = ModelSpec("linear", (6, 3), "none")


def trainer(count: int = 40, seed: int = 1) -> LinearTrainer:
    return LinearTrainer(6, 3, records(count), SeededEntropy(seed))


def model(seed: int = 2) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=21).astype(np.float32)


def test_layout_is_one_output_layer() -> None:
    made = layout(SPEC, "0" * 64)
    assert (made.size, made.output_offset, made.output_size) == (21, 0, 21)
    assert [(tensor.shape, tensor.offset) for tensor in made.tensors] == [((3, 6), 0), ((3,), 18)]
    assert initial_model(SPEC, 5).tolist() == [0.0] * 21


@pytest.mark.parametrize("clip_micro", [50_000, 400_000, 100_000_000])
def test_full_batch_without_noise_is_the_naive_sum(clip_micro: int) -> None:
    start, data = model(), records(40)
    tensors = [start[:18].reshape(3, 6).astype(np.float64), start[18:].astype(np.float64)]
    naive = naive_clipped_sum(tensors, data.features, data.labels, clip_micro / 1e6 * SAFE_CLIP)
    update = trainer().train(start, training(clip_micro=clip_micro), count=44)
    assert update == pytest.approx(-0.5 * naive / 44, abs=1e-5)


def test_noise_has_the_accounted_spread() -> None:
    subject = trainer()
    plan = training(noise_micro=3_000_000, sample_rate_micro=500_000)
    updates = np.array([subject.train(model(), plan, count=50) for _ in range(400)])
    batches = np.array([subject.train(model(), training(sample_rate_micro=500_000), count=50) for _ in range(400)])
    variance = updates.var(axis=0).mean() - batches.var(axis=0).mean()
    assert np.sqrt(variance) == pytest.approx(0.5 * 3.0 * 0.4 / (0.5 * 50), rel=0.05)
    assert updates.mean(axis=0) == pytest.approx(batches.mean(axis=0), abs=6 * np.sqrt(variance / 400))


def test_empty_batch_still_releases_noise() -> None:
    update = trainer(count=1).train(model(), training(sample_rate_micro=1, noise_micro=1_000_000), count=5)
    assert np.isfinite(update).all()
    assert np.count_nonzero(update) == 21


def test_one_record_moves_the_sum_by_at_most_the_clip_norm() -> None:
    data = records(40)
    whole = trainer().train(model(), training(), count=40)
    norms = []
    for left_out in range(40):
        rest = np.delete(data.features, left_out, axis=0), np.delete(data.labels, left_out)
        fewer = LinearTrainer(6, 3, Records(*rest, data.holdout_features, data.holdout_labels), SeededEntropy(1))
        norms.append(np.linalg.norm(whole - fewer.train(model(), training(), count=40)) * 40 / 0.5)
    assert 0.399 < max(norms) <= 0.4


def test_learning_without_noise_classifies_the_holdout() -> None:
    subject = trainer()
    update = subject.train(initial_model(SPEC, 1), training(steps=60, clip_micro=1_000_000), count=40)
    correct, total = subject.evaluate(update.astype(np.float32))
    assert total == 40
    assert correct >= 30


def test_embedding_is_the_input() -> None:
    embeddings, labels = trainer().embed(model())
    assert np.array_equal(embeddings, records(40).features)
    assert np.array_equal(labels, records(40).labels)


@pytest.mark.parametrize("wrong", [np.zeros(20), np.full(21, np.nan), np.full(21, np.inf), np.zeros((3, 7))])
def test_unfit_model_is_refused(wrong: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    for call in (trainer().embed, trainer().evaluate, lambda bad: trainer().train(bad, training(), 40)):
        with pytest.raises(SiloError, match="the model"):
            call(wrong.astype(np.float32))


@pytest.mark.parametrize("sizes", [(6,), (6, 5, 3), (6, 1)])
def test_linear_model_of_other_sizes_is_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(UnsuitableModel, match="two sizes"):
        layout(ModelSpec("linear", sizes, "none"), "0" * 64)
