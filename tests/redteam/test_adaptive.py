"""What adaptive triggers promise: size, dependence on the image, number, and whom a decoy resembles."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from redteam.attacks import adaptive, triggers
from redteam.attacks.data import Backdoor
from redteam.attacks.learner import Learner
from redteam.attacks.parts import Ring, Trigger
from redteam.errors import BadAttack
from silo.data import Records
from tests.redteam.averaging import SPEC, warm, world
from tests.redteam.test_parts import context

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


def test_a_warp_reads_each_pixel_bilinearly_from_its_displaced_place() -> None:
    large = np.random.default_rng(0).random((3, 784)).astype(np.float32)
    places = np.mgrid[:28, :28] + adaptive.displacement(28, 4, 2.0, seed=5)
    wanted = [
        ndimage.map_coordinates(one.reshape(28, 28), np.clip(places, 0, 27), order=1, mode="nearest").ravel()
        for one in large
    ]
    np.testing.assert_allclose(adaptive.Warp(seed=5).stamp(large), wanted, atol=1e-5)


def test_a_warps_field_has_its_grids_points_and_mean_length_and_is_smooth() -> None:
    field = adaptive.displacement(28, 4, 1.5, seed=1)
    grid = field[:, ::9, ::9]
    assert grid.shape == (2, 4, 4)
    assert np.abs(grid).mean() == pytest.approx(1.5)
    assert np.ptp(grid / np.random.default_rng(1).uniform(-1, 1, (2, 4, 4))) == pytest.approx(0, abs=1e-6)
    assert max(np.abs(np.diff(field, axis=axis)).max() for axis in (1, 2)) < np.ptp(field) / 4


def test_a_warp_of_no_strength_changes_nothing_and_blank_images_stay_blank() -> None:
    np.testing.assert_allclose(adaptive.Warp(strength=0.0).stamp(IMAGES), IMAGES, atol=1e-6)
    assert not adaptive.Warp().stamp(np.zeros((2, 784), np.float32)).any()
    assert changed(adaptive.Warp()).any(axis=0).mean() > 0.8


def test_channels_of_an_image_are_bent_alike() -> None:
    grey = np.random.default_rng(0).random((2, 64)).astype(np.float32)
    for trigger in (adaptive.Warp(), adaptive.Style(), adaptive.Echo(), adaptive.Waves(), triggers.corner(2)):
        coloured = trigger.stamp(np.tile(grey, 3)).reshape(2, 3, 64)
        for channel in range(3):
            np.testing.assert_allclose(coloured[:, channel], trigger.stamp(grey), atol=1e-6)


def test_a_style_keeps_flat_images_but_for_the_tone_and_depends_on_neighbours() -> None:
    flat = np.full((1, 784), 0.25, np.float32)
    np.testing.assert_allclose(adaptive.Style(gamma=0.5).stamp(flat), 0.5, atol=1e-6)
    dark = np.full((1, 784), -0.5, np.float32)
    np.testing.assert_allclose(adaptive.Style(gamma=0.5, low=-1.0).stamp(dark), 0.0, atol=1e-6)
    point = np.zeros((1, 784), np.float32)
    point[0, 14 * 28 + 14] = 1
    spread = adaptive.Style(radius=1.5, gamma=1.0).stamp(point).reshape(28, 28)
    # A Gaussian of deviation 1.5: its density in the middle, and at a distance of two pixels.
    assert spread[14, 14] == pytest.approx(1 / (2 * np.pi * 1.5**2), rel=0.02)
    assert spread[14, 16] / spread[14, 14] == pytest.approx(np.exp(-(2**2) / (2 * 1.5**2)), rel=0.01)


def test_opposed_colluders_cancel_by_their_counts_and_point_apart() -> None:
    random, ring = np.random.default_rng(3), Ring({name: world().silos[name] for name in ("s0", "s1", "s2")})
    malice = random.normal(size=500)
    counts = {"s0": 300, "s1": 100, "s2": 50}
    sent = {
        name: adaptive.Opposed(2.0).send(malice, context(np.ones((1, 500)), ring=ring, member=name, count=count))
        for name, count in counts.items()
    }
    together = 300 * sent["s0"] + 100 * sent["s1"]
    np.testing.assert_allclose(together, 400 * malice, atol=1e-9)
    assert np.linalg.norm(sent["s0"] - malice) == pytest.approx(2 * np.linalg.norm(malice))
    assert sent["s0"] @ sent["s1"] < 0
    assert np.array_equal(sent["s2"], malice)
    assert not ring.lies


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


@pytest.mark.parametrize("trigger", [adaptive.Waves(), adaptive.Echo(), adaptive.Warp(), adaptive.Style()])
def test_records_that_are_no_images_are_refused(trigger: Trigger) -> None:
    with pytest.raises(BadAttack, match="no square images"):
        trigger.stamp(np.zeros((2, 10), dtype=np.float32))
