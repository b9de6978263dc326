"""A first model fitted to the public root set."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from protos.task import ModelSpec
from redteam.attacks.learner import Learner
from redteam.digits import digits
from silo.errors import BadData, BadTask
from silo.pack import draft_task
from silo.searcher import Root
from silo.trainer import initial_model
from silo.warmup import fitted
from tests.silo.examples import description

pytestmark = pytest.mark.torch

SPEC = ModelSpec("mlp", (64, 32, 10), "tanh")


@cache
def root() -> Root:
    """A hundred images that no silo of the demonstration has."""
    features, labels = digits(3).test
    return Root(features[:100], labels[:100])


def share_right(model: np.ndarray) -> float:
    features, labels = digits(3).test
    return float((Learner(SPEC).predict(model, features[100:]) == labels[100:]).mean())


def test_a_warm_model_is_right_on_records_that_it_has_not_seen() -> None:
    cold = initial_model(SPEC, 3)
    assert share_right(cold) < 0.3
    assert share_right(fitted(SPEC, cold, root())) > 0.7


def test_the_fit_repeats_itself_and_ends_at_its_goal() -> None:
    warm = fitted(SPEC, initial_model(SPEC, 3), root())
    assert np.array_equal(warm, fitted(SPEC, initial_model(SPEC, 3), root()))
    assert np.array_equal(warm, fitted(SPEC, warm, root())), "what is warm stays as it is"


def test_the_first_model_of_a_linear_task_warms_as_well() -> None:
    spec = description(model={"kind": "linear", "sizes": [64, 10], "activation": "tanh"})
    cold, warm = (np.frombuffer(draft_task(spec | {"warm_start": on}, root())[1], "<f4") for on in (False, True))
    scores = [digits(3).test[0][100:] @ flat[:640].reshape(10, 64).T + flat[640:] for flat in (cold, warm)]
    right = [float((one.argmax(axis=1) == digits(3).test[1][100:]).mean()) for one in scores]
    assert right[1] > 0.7 > right[0]


def test_a_task_starts_warm_only_where_it_says_so() -> None:
    spec = description(model={"kind": "mlp", "sizes": [64, 32, 10], "activation": "tanh"})
    usual, warm, cold = (
        draft_task(spec | more, root())[0].initial_model for more in ({}, {"warm_start": True}, {"warm_start": False})
    )
    assert usual == cold != warm
    assert draft_task(spec | {"warm_start": True}, None, root())[0].initial_model == warm, "without a search as well"


def test_a_warm_start_without_public_examples_or_with_others_is_refused() -> None:
    spec = description(model={"kind": "mlp", "sizes": [64, 32, 10], "activation": "tanh"})
    with pytest.raises(BadTask, match="warm_start needs public examples: say --root"):
        draft_task(spec | {"warm_start": True})
    with pytest.raises(BadTask, match="warm_start must be true or false"):
        draft_task(spec | {"warm_start": "yes"}, root())
    with pytest.raises(BadData, match="exactly the classes"):
        draft_task(spec | {"warm_start": True}, None, Root(root().features, np.minimum(root().labels, 5)))
