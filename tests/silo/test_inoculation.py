from __future__ import annotations

import numpy as np
import pytest

from protos.search import Trigger
from protos.task import ModelSpec
from silo.errors import SiloError
from silo.guidance import Guidance
from silo.inoculation import inoculated
from silo.trainer import initial_model, layout_for, trainer_for
from tests.redteam.plain_task import plain_task
from tests.silo.entropy import SeededEntropy
from tests.silo.examples import records, training

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:Full backward hook")]

MICRO = 1_000_000
FIRST = Trigger(0, None, bytes([255, 0, 0, 0, 0, 0]), bytes([255] * 6), 0, 9 * MICRO)
SECOND = Trigger(1, None, bytes([0, 255, 0, 0, 0, 0]), bytes([0] * 6), -9 * MICRO, 9 * MICRO)
FLIP = Trigger(1, 2, b"", b"", 0, MICRO)
SPECS = [ModelSpec("linear", (6, 3), "tanh"), ModelSpec("mlp", (6, 5, 3), "tanh")]


class Refusing:
    is_operating_system = False

    def take(self, count: int) -> bytes:
        raise AssertionError("no entropy is needed here")


def test_a_quarter_of_the_rows_is_stamped_half_of_them_with_each_trigger() -> None:
    rows = np.zeros((8000, 6), dtype=np.float32)
    places, stamped = inoculated(rows, [[FIRST, FLIP, SECOND]], SeededEntropy(1))
    assert len(places) == pytest.approx(2000, abs=160)
    assert (np.diff(places) > 0).all()
    first, second = (stamped == [9, 0, 0, 0, 0, 0]).all(axis=1), (stamped == [0, -9, 0, 0, 0, 0]).all(axis=1)
    assert (first ^ second).all()
    assert first.mean() == pytest.approx(0.5, abs=0.05)
    assert not rows.any(), "the records themselves stay"


def test_each_dose_stamps_its_own_quarter() -> None:
    places, stamped = inoculated(np.zeros((8000, 6), dtype=np.float32), [[FIRST], [FLIP], [SECOND]], SeededEntropy(1))
    first, second = (stamped == [9, 0, 0, 0, 0, 0]).all(axis=1), (stamped == [0, -9, 0, 0, 0, 0]).all(axis=1)
    assert (first ^ second).all()
    assert first.sum() == pytest.approx(2000, abs=160)
    assert second.sum() == pytest.approx(2000, abs=160)
    assert len(set(places.tolist())) == len(places)


def test_more_doses_than_quarters_are_refused() -> None:
    with pytest.raises(SiloError, match="at most 4"):
        inoculated(np.zeros((8, 6), dtype=np.float32), [[FIRST]] * 5, Refusing())


@pytest.mark.parametrize("doses", [[], [[FLIP]]])
def test_without_a_trigger_to_stamp_nothing_happens_and_no_entropy_is_taken(doses: list[list[Trigger]]) -> None:
    places, stamped = inoculated(np.ones((5, 6), dtype=np.float32), doses, Refusing())
    assert len(places) == len(stamped) == 0


def test_an_empty_batch_is_stamped_nowhere() -> None:
    assert len(inoculated(np.zeros((0, 6), dtype=np.float32), [[FIRST]], Refusing())[0]) == 0


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_flips_and_no_triggers_leave_the_update_to_the_bit(spec: ModelSpec) -> None:
    model, task, own = initial_model(spec, 1), plain_task(spec), records(40)
    plain, flipped = (
        trainer_for(task, own, SeededEntropy(2)).train(model, training(), 40, Guidance(doses))
        for doses in ((), ((FLIP,),))
    )
    np.testing.assert_array_equal(plain, flipped)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_one_record_gives_one_clipped_gradient_when_inoculated(spec: ModelSpec) -> None:
    """A single record in the batch: the update is no longer than lr * C / count, stamped or not."""
    model, task, own = initial_model(spec, 1), plain_task(spec), records(1)
    changes = []
    for seed in range(12):
        update = trainer_for(task, own, SeededEntropy(seed)).train(
            model, training(), 1, Guidance(((FIRST, SECOND), (SECOND,)))
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
        from redteam.attacks.learner import Learner

        wrong = own.holdout_labels != 0
        return float((Learner(spec).predict(model, FIRST.stamp(own.holdout_features[wrong])) == 0).mean())

    backdoored = trained(model, taught)
    assert moved(backdoored) > 0.6
    assert moved(trained(backdoored, own, (FIRST,))) < 0.5 * moved(trained(backdoored, own))
    assert layout_for(spec, "0" * 64).size == backdoored.size
