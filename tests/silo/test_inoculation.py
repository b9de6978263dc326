from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from protos.search import Trigger
from protos.task import ModelSpec
from redteam.attacks.learner import Learner
from silo.data import Records
from silo.errors import SiloError
from silo.guidance import Guidance
from silo.inoculation import Inoculated, inoculated
from silo.searcher import Root
from silo.trainer import initial_model, layout_for, trainer_for
from tests.redteam.plain_task import plain_task
from tests.silo.entropy import SeededEntropy
from tests.silo.examples import records, training

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:Full backward hook")]

MICRO = 1_000_000
FIRST = Trigger(0, None, bytes([255, 0, 0, 0, 0, 0]), bytes([255] * 6), 0, 9 * MICRO)
SECOND = Trigger(1, None, bytes([0, 255, 0, 0, 0, 0]), bytes([0] * 6), -9 * MICRO, 9 * MICRO)
FLIP = Trigger(1, 2, b"", b"", 0, MICRO)
ROOT = Root(np.array([[7.0] * 6, [8.0] * 6, [5.0] * 6, [6.0] * 6], dtype=np.float32), np.array([2, 2, 1, 0]))
SPECS = [ModelSpec("linear", (6, 3), "tanh"), ModelSpec("mlp", (6, 5, 3), "tanh")]


class Refusing:
    is_operating_system = False

    def take(self, count: int) -> bytes:
        raise AssertionError("no entropy is needed here")


def drawn(rows: np.ndarray, *doses: tuple[Trigger, ...], entropy: object = None) -> Inoculated:
    """What becomes of rows of class 0."""
    labels, source = np.zeros(len(rows), dtype=np.int64), entropy or SeededEntropy(1)
    return inoculated(rows, labels, Guidance(doses, root=ROOT), source)  # type: ignore[arg-type]


def are(found: Inoculated, row: list[int]) -> np.ndarray:
    same: np.ndarray = (found.features == row).all(axis=1)
    return same


def test_a_quarter_of_the_rows_is_stamped_half_of_them_with_each_trigger() -> None:
    rows = np.zeros((8000, 6), dtype=np.float32)
    found = drawn(rows, (FIRST, SECOND))
    assert len(found.places) == pytest.approx(2000, abs=160)
    assert (np.diff(found.places) > 0).all()
    first, second = are(found, [9, 0, 0, 0, 0, 0]), are(found, [0, -9, 0, 0, 0, 0])
    assert (first ^ second).all()
    assert first.mean() == pytest.approx(0.5, abs=0.05)
    assert not found.labels.any(), "a stamped record keeps its label"
    assert not rows.any(), "the records themselves stay"


def test_each_dose_stamps_its_own_quarter() -> None:
    found = drawn(np.zeros((8000, 6), dtype=np.float32), (FIRST,), (), (SECOND,))
    first, second = are(found, [9, 0, 0, 0, 0, 0]), are(found, [0, -9, 0, 0, 0, 0])
    assert (first ^ second).all()
    assert first.sum() == pytest.approx(2000, abs=160)
    assert second.sum() == pytest.approx(2000, abs=160)
    assert len(set(found.places.tolist())) == len(found.places)


def test_a_flip_puts_public_records_of_its_source_in_the_place_of_a_quarter() -> None:
    found = drawn(np.zeros((8000, 6), dtype=np.float32), (FLIP,))
    assert len(found.places) == pytest.approx(2000, abs=160)
    assert (found.labels == 2).all()
    seven, eight = are(found, [7] * 6), are(found, [8] * 6)
    assert (seven ^ eight).all()
    assert seven.mean() == pytest.approx(0.5, abs=0.05)


def test_a_flip_and_a_trigger_share_a_dose() -> None:
    found = drawn(np.zeros((8000, 6), dtype=np.float32), (FIRST, FLIP))
    assert ((found.labels == 2) ^ are(found, [9, 0, 0, 0, 0, 0])).all()
    assert (found.labels == 2).mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("root", [None, Root(ROOT.features[2:], ROOT.labels[2:])])
def test_a_flip_without_public_records_of_its_source_is_refused(root: Root | None) -> None:
    rows, labels = np.zeros((80, 6), dtype=np.float32), np.zeros(80, dtype=np.int64)
    with pytest.raises(SiloError, match=r"class 2 .* give a root set"):
        inoculated(rows, labels, Guidance(((FLIP,),), root=root), SeededEntropy(1))


def test_more_doses_than_quarters_are_refused() -> None:
    with pytest.raises(SiloError, match="at most 4"):
        drawn(np.zeros((8, 6), dtype=np.float32), *[(FIRST,)] * 5, entropy=Refusing())


@pytest.mark.parametrize("doses", [(), ((),)])
def test_without_a_trigger_nothing_happens_and_no_entropy_is_taken(doses: tuple[tuple[Trigger, ...], ...]) -> None:
    found = drawn(np.ones((5, 6), dtype=np.float32), *doses, entropy=Refusing())
    assert len(found.places) == len(found.features) == len(found.labels) == 0


def test_an_empty_batch_is_stamped_nowhere() -> None:
    assert len(drawn(np.zeros((0, 6), dtype=np.float32), (FIRST, FLIP), entropy=Refusing()).places) == 0


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_one_record_gives_one_clipped_gradient_when_inoculated(spec: ModelSpec) -> None:
    """A single record in the batch: the update is no longer than lr * C / count, stamped, replaced or not."""
    model, task, own = initial_model(spec, 1), plain_task(spec), records(1)
    changes = []
    for seed in range(12):
        update = trainer_for(task, own, SeededEntropy(seed)).train(
            model, training(), 1, Guidance(((FIRST, SECOND), (SECOND,), (FLIP,)), root=ROOT)
        )
        assert np.linalg.norm(update) <= 0.5 * 0.4 * (1 + 1e-5)
        changes.append(update.round(4).tobytes())
    assert len(set(changes)) > 1, "in one of twelve rounds at least it was stamped"


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_training_unlearns_a_trigger(spec: ModelSpec) -> None:
    """A model that was taught FIRST -> 0 gives other classes their own labels back after honest, inoculated rounds."""
    own, task, plan = records(120, seed=3), plain_task(spec), training(steps=20, learning_rate_micro=2 * MICRO)
    taught = records(120, seed=3)
    taught.features[:60] = FIRST.stamp(taught.features[:60])
    taught.labels[:60] = 0
    model = initial_model(spec, 1)

    def trained(model: np.ndarray, data: object, *doses: tuple[Trigger, ...]) -> np.ndarray:
        trainer = trainer_for(task, data, SeededEntropy(5))  # type: ignore[arg-type]
        for _ in range(4):
            model = (model + trainer.train(model, plan, 120, Guidance(doses))).astype(np.float32)
        return model

    def moved(model: np.ndarray) -> float:
        wrong = own.holdout_labels != 0
        return float((Learner(spec).predict(model, FIRST.stamp(own.holdout_features[wrong])) == 0).mean())

    backdoored = trained(model, taught)
    assert moved(backdoored) > 0.6
    assert moved(trained(backdoored, own, (FIRST,))) < 0.5 * moved(trained(backdoored, own))
    assert layout_for(spec, "0" * 64).size == backdoored.size


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_training_unlearns_a_flip(spec: ModelSpec) -> None:
    """Records of class 2 are called 1: public records of class 2 win them back where the silo has none of its own."""
    everything, task, plan = records(180, seed=3), plain_task(spec), training(steps=20, learning_rate_micro=2 * MICRO)
    public = Root(everything.holdout_features, everything.holdout_labels)
    lacking = replace(
        everything,
        features=everything.features[everything.labels != 2],
        labels=everything.labels[everything.labels != 2],
    )
    flipped = replace(everything, labels=np.where(everything.labels == 2, 1, everything.labels))

    def trained(model: np.ndarray, data: Records, *doses: tuple[Trigger, ...]) -> np.ndarray:
        trainer = trainer_for(task, data, SeededEntropy(5))
        for _ in range(4):
            model = (model + trainer.train(model, plan, 120, Guidance(doses, root=public))).astype(np.float32)
        return model

    def moved(model: np.ndarray) -> float:
        twos = everything.labels == 2
        return float((Learner(spec).predict(model, everything.features[twos]) == 1).mean())

    taught = trained(initial_model(spec, 1), flipped)
    assert moved(taught) > 0.6
    assert moved(trained(taught, lacking, (FLIP,))) < 0.3 * moved(trained(taught, lacking))
