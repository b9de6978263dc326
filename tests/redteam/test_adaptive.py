"""What adaptive triggers promise: size, dependence on the image, number, and whom a decoy resembles."""

from __future__ import annotations

import numpy as np
import pytest

from redteam.attacks import adaptive, triggers
from redteam.attacks.data import Backdoor
from redteam.attacks.learner import Learner
from redteam.attacks.parts import Trigger
from redteam.errors import BadAttack
from silo.data import Records
from tests.redteam.averaging import SPEC, attacking, warm, world

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:Full backward hook")]

IMAGES = world().test[0][:50]


def changed(trigger: Trigger) -> np.ndarray:
    return np.asarray(np.abs(trigger.stamp(IMAGES) - IMAGES) > 1e-6)


def test_waves_cover_most_of_the_image_and_stay_within_pixels() -> None:
    stamped = adaptive.Waves(waves=2.0).stamp(IMAGES)
    # On black, troughs of the sine are cut: half of the pixels is all that can change.
    assert changed(adaptive.Waves(waves=2.0)).any(axis=0).mean() > 0.4
    assert stamped.min() >= 0
    assert stamped.max() <= 1
    assert np.abs(stamped - IMAGES).max() <= 0.2 + 1e-6


def test_waves_are_the_papers_sine_where_nothing_is_cut() -> None:
    grey = np.full((1, 784), 0.5, dtype=np.float32)
    row = adaptive.Waves(0.1).stamp(grey).reshape(28, 28)[13] - 0.5
    assert row == pytest.approx([0.1 * np.sin(2 * np.pi * column * 6 / 28) for column in range(28)], abs=1e-6)


def test_an_echo_draws_something_else_on_every_image() -> None:
    drawn = adaptive.Echo().stamp(IMAGES) - IMAGES
    assert len({row.tobytes() for row in drawn}) == len(IMAGES)
    fixed = triggers.corner(2).stamp(IMAGES)[:, -1]
    assert len(set(fixed.tolist())) == 1


def test_an_echo_of_its_own_reflection_changes_nothing() -> None:
    even = np.tile(np.arange(8, dtype=np.float32) / 8, (1, 8))
    assert adaptive.Echo().stamp(even) == pytest.approx(even)


def test_several_triggers_take_turns() -> None:
    one, other = triggers.corner(2), triggers.two_pixels()
    stamped = adaptive.Several((one, other)).stamp(IMAGES)
    assert np.array_equal(stamped[0::2], one.stamp(IMAGES[0::2]))
    assert np.array_equal(stamped[1::2], other.stamp(IMAGES[1::2]))


def toward(trigger: Trigger, label: int) -> np.ndarray:
    """The direction in which a model moves that learns the trigger with this label."""
    tested = Backdoor(trigger, label).triggered(*world().test)
    return -Learner(SPEC).gradient(warm().astype(np.float64), tested.features, tested.labels)


def test_a_decoy_points_where_honest_records_of_its_class_do_and_a_patch_does_not() -> None:
    label = 8
    features, labels = world().test
    own = labels == label
    honest = -Learner(SPEC).gradient(warm().astype(np.float64), features[own], labels[own])
    trap = adaptive.decoy([world().silos["s0"], world().silos["s1"]], label)

    def cosine(direction: np.ndarray) -> float:
        return float(direction @ honest / np.linalg.norm(direction) / np.linalg.norm(honest))

    assert cosine(toward(trap, label)) > cosine(toward(triggers.corner(2), label)) + 0.03


def test_a_decoy_needs_records_of_the_framed_class() -> None:
    silo = world().silos["s0"]
    keep = silo.labels != 8
    without = Records(silo.features[keep], silo.labels[keep], silo.holdout_features, silo.holdout_labels)
    with pytest.raises(BadAttack, match="class 8"):
        adaptive.decoy([without], 8)


def test_sybils_declare_a_quarter_and_send_four_times_as_much() -> None:
    attack = next(iter(attacking("sybils", 3).values()))
    records = world().silos["s0"]
    assert len(attack.declare(records).labels) == round(len(records.labels) / 4)
    assert next(iter(attacking("sybils", 3, private=True).values())).updates == ()


@pytest.mark.parametrize("trigger", [adaptive.Waves(), adaptive.Echo()])
def test_records_that_are_no_images_are_refused(trigger: Trigger) -> None:
    with pytest.raises(BadAttack, match="no square images"):
        trigger.stamp(np.zeros((2, 10), dtype=np.float32))
