"""Images come back from what is seen without privacy, and do not with it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from crypto import sketch
from crypto.packing import Packing
from redteam.privacy import inversion, reconstruction
from redteam.privacy.reconstruction import Kind, psnr
from redteam.privacy.settings import Design, task_at
from redteam.privacy.views import fold_matrix, observe
from tests.redteam.privacy.digits import digits
from tests.silo.entropy import SeededEntropy

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:Full backward hook")]

torch.set_num_threads(1)
DESIGN = Design((64, 32, 10))
KINDS: tuple[Kind, ...] = ("analytic", "update", "coordinator", "prototypes")
PUBLIC = digits()[0][800:]


def images(kind: Kind, epsilon: float, number: int = 3) -> list[reconstruction.Image]:
    task, model = task_at(epsilon, DESIGN)
    features, labels = digits()
    found = []
    for place in range(number):
        others = np.flatnonzero(labels[:400] != labels[place])[:40] if kind == "prototypes" else []
        own = np.concatenate([[place], others]).astype(np.int64)
        records = features[own], labels[own]
        found.append(reconstruction.attack(kind, task, model, records, 0, PUBLIC, SeededEntropy(place)))
    return found


@pytest.mark.parametrize(
    ("kind", "better"), [("analytic", 10.0), ("update", 8.0), ("coordinator", 8.0), ("prototypes", 2.0)]
)
def test_without_privacy_images_are_reconstructed_far_better_than_by_the_mean(kind: Kind, better: float) -> None:
    found = images(kind, math.inf)
    assert np.mean([one.attack - one.mean for one in found]) > better


@pytest.mark.parametrize("epsilon", [8.0, 3.0])
@pytest.mark.parametrize("kind", KINDS)
def test_with_privacy_the_mean_image_is_as_good_as_any_reconstruction(kind: Kind, epsilon: float) -> None:
    found = images(kind, epsilon, number=2)
    assert np.mean([one.attack - one.mean for one in found]) < 0.5


def test_the_first_layer_gives_back_the_single_record_up_to_quantisation() -> None:
    task, model = task_at(math.inf, DESIGN)
    features, labels = digits()[0][:1], digits()[1][:1]
    seen = observe(task, model, features, labels, SeededEntropy(0))
    assert np.abs(reconstruction.first_layer(task, seen.update) - features[0]).max() < 0.1


def test_the_fold_matrix_is_the_sketch_of_production() -> None:
    task, _ = task_at(math.inf, DESIGN)
    packing = Packing.of(task.layout, task.folds)
    values = np.random.default_rng(0).integers(-127, 128, task.layout.size)
    signs = sketch.signs(b"any", packing.folds, packing.body_chunks)
    folds, _ = sketch.sketch(packing.to_fields(values), packing, signs)
    places, coordinates, sign = fold_matrix(task, signs)
    again = np.zeros(folds.size)
    np.add.at(again, places, sign * values[coordinates])
    assert np.array_equal(again, folds.ravel())


def test_the_coordinator_sees_no_more_of_the_body_than_its_folds() -> None:
    task, model = task_at(8.0, DESIGN)
    seen = observe(task, model, *(part[:1] for part in digits()), SeededEntropy(0))
    assert seen.folds.size < (task.layout.size - task.layout.output_size) / 4
    assert seen.output.size == task.layout.output_size


def test_what_is_seen_of_production_is_bound_to_one_update() -> None:
    task, model = task_at(math.inf, DESIGN)
    seen = observe(task, model, *(part[:30] for part in digits()), SeededEntropy(0))
    output = slice(task.layout.output_offset, task.layout.output_offset + task.layout.output_size)
    assert np.array_equal(seen.update[output], seen.output)
    places, coordinates, sign = fold_matrix(task, seen.signs)
    again = np.zeros(seen.folds.size)
    np.add.at(again, places, sign * seen.update[coordinates])
    assert again == pytest.approx(seen.folds.ravel())


def test_psnr_has_its_definition_and_clips_pixels() -> None:
    truth = np.zeros(4)
    assert psnr(np.full(4, 0.1), truth) == pytest.approx(20.0)
    assert psnr(np.full(4, -3.0), truth) == reconstruction.CEILING
    assert psnr(np.full(4, 7.0), truth) == pytest.approx(0.0)


def test_total_variation_of_a_flat_image_is_zero_and_of_a_step_is_not() -> None:
    flat, step = torch.ones(16), torch.tensor([0.0, 0, 1, 1] * 4)
    assert float(inversion._variation(flat)) == 0
    assert float(inversion._variation(step)) == pytest.approx(4 / 12)
