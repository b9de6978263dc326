"""A silo's class share is inferred where it shows, and not where nothing of the kind is seen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from redteam.privacy import properties
from redteam.privacy.bounds import Guesses
from redteam.privacy.properties import Property
from redteam.privacy.settings import Design, task_at
from tests.redteam.privacy.digits import digits
from tests.silo.entropy import SeededEntropy

DESIGN = Design((64, 10), steps=5, learning_rate=1.0, folds=2)


def inferred(epsilon: float, what: Property, seed: int = 1) -> dict[str, Guesses]:
    features, labels = digits()
    task, model = task_at(epsilon, DESIGN)
    data = (features[:900], labels[:900]), (features[900:], labels[900:])
    random = np.random.default_rng(seed)
    return dict(properties.infer(task, model, data, what, (60, 60), random, SeededEntropy(seed)))


def test_without_privacy_the_share_of_a_class_shows_in_update_prototypes_and_sketch() -> None:
    found = inferred(math.inf, Property())
    for view in ("update", "prototypes", "sketch and output layer"):
        assert found[view].interval(1e-4)[0] > 0.3


def test_privacy_of_records_does_not_hide_a_share_of_many_records_from_the_update() -> None:
    assert inferred(8.0, Property())["update"].interval(1e-4)[0] > 0.1


def test_equal_shares_cannot_be_told_apart_from_anything() -> None:
    for guesses in inferred(math.inf, Property(shares=(0.2, 0.2))).values():
        assert guesses.interval(1e-4)[0] < 0


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_a_drawn_silo_has_the_wanted_share_and_no_record_twice(share: float) -> None:
    features, labels = digits()
    what = Property()
    own, classes = what.draw((features, np.arange(len(labels)) % 10), share, np.random.default_rng(0))
    assert len(own) == what.size
    assert (classes == what.label).sum() == round(share * what.size)
