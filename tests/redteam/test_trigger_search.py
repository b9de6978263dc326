"""Equation 8 against a forward pass and a loss written here: which way Adam starts, and what each weight does."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from redteam.attacks.learner import Learner
from redteam.attacks.prototypes import TriggerSearch
from redteam.attacks.trigger_search import learn_trigger
from redteam.attacks.triggers import Masked
from tests.redteam.averaging import CLASSES, SIDE, SPEC, warm, world

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:Full backward hook")]

LABEL = 3
IMAGES = world().test[0][world().test[1] != LABEL][:40]
Doubles = NDArray[np.float64]


def consensus() -> Doubles:
    features, labels = world().test
    return Learner(SPEC).embed(warm(), features[labels == LABEL]).mean(axis=0)


def forward(images: Doubles) -> tuple[Doubles, Doubles]:
    """Embeddings and scores of the small MLP, by hand."""
    inputs, hidden = SIDE * SIDE, SPEC.sizes[1]
    first, bias, second, last = np.split(
        warm().astype(np.float64), np.cumsum([inputs * hidden, hidden, hidden * CLASSES])
    )
    embeddings = np.maximum(images @ first.reshape(hidden, inputs).T + bias, 0)
    return embeddings, embeddings @ second.reshape(CLASSES, hidden).T + last


def parts(mask: Doubles, pattern: Doubles) -> tuple[float, float, float]:
    """L1, L2 and L3 of equation 8."""
    embeddings, scores = forward((1 - mask) * IMAGES + mask * pattern)
    entropy = np.log(np.exp(scores).sum(axis=1)) - scores[:, LABEL]
    distance = ((embeddings - consensus()) ** 2).sum(axis=1)
    return float(entropy.mean()), float(distance.mean()), float(np.abs(mask * pattern).sum())


def searched(known: Masked | None = None, **weights: float) -> Masked:
    search = TriggerSearch(**weights)  # type: ignore[arg-type]
    return learn_trigger(Learner(SPEC), warm(), IMAGES, LABEL, consensus(), search, known)


def of(found: Masked) -> tuple[float, float, float]:
    return parts(found.mask.astype(np.float64), found.pattern.astype(np.float64))


def test_the_first_step_goes_down_the_sum_of_the_three_losses() -> None:
    """Adam's first step has the learning rate's length in every coordinate, against the gradient's sign."""
    search = TriggerSearch(steps=1)
    logits, pattern = np.full(SIDE * SIDE, -2.0), np.full(SIDE * SIDE, 0.5)

    def loss(logits: Doubles, pattern: Doubles) -> float:
        entropy, distance, ink = parts(1 / (1 + np.exp(-logits)), pattern)
        return entropy + search.pull * distance + search.stealth * ink

    found = searched(steps=1)
    moved = np.log(found.mask / (1 - found.mask)) - logits
    for place in range(0, SIDE * SIDE, 5):
        step = np.zeros(SIDE * SIDE)
        step[place] = 1e-4
        slope = loss(logits + step, pattern) - loss(logits - step, pattern)
        assert moved[place] == pytest.approx(-0.1 * np.sign(slope), abs=2e-3)
        slope = loss(logits, pattern + step) - loss(logits, pattern - step)
        assert found.pattern[place] - 0.5 == pytest.approx(-0.1 * np.sign(slope), abs=2e-3)


def test_each_weight_lowers_its_own_loss() -> None:
    plain, stealthy = of(searched(steps=30, stealth=0.0)), of(searched(steps=30, stealth=1.0))
    assert stealthy[2] < 0.5 * plain[2]
    apart, pulled = of(searched(steps=30, pull=0.0)), of(searched(steps=30, pull=10.0))
    assert pulled[1] < apart[1]


def test_a_learned_trigger_turns_images_and_brings_them_to_the_prototype() -> None:
    found = searched()
    turned = Learner(SPEC).predict(warm(), found.stamp(IMAGES)) == LABEL
    untouched = np.full(SIDE * SIDE, 0.0)
    assert turned.mean() > 0.9
    assert of(found)[1] < 0.5 * parts(untouched, untouched)[1]


def test_pixels_stay_in_their_range_and_masks_between_zero_and_one() -> None:
    found = searched(low=0.2, high=0.6, steps=40)
    assert found.pattern.min() >= np.float32(0.2)
    assert found.pattern.max() <= np.float32(0.6)
    assert (found.mask > 0).all()
    assert (found.mask < 1).all()


def test_a_known_trigger_is_taken_further() -> None:
    first = searched(steps=20)
    again = searched(first, steps=20)
    assert sum(of(again)) < sum(of(first))
    assert np.abs(searched(first, steps=1).mask - first.mask).max() < 0.05
