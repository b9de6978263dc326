import hashlib
import tomllib
from typing import Any

import numpy as np
import pytest

from audit.accounting import task_epsilon
from protos import codec
from protos.task import Task
from silo.errors import BadTask, ImpossiblePrivacyTarget
from silo.pack import LEVELS, draft_task, pack_task, step_log2
from tests.silo.examples import description


def test_task_pins_its_model_and_keeps_its_budget() -> None:
    task, model = pack_task(description())
    assert hashlib.sha256(model).hexdigest() == task.initial_model
    assert len(model) == 4 * task.layout.size
    assert 7_990_000 <= task_epsilon(task) <= task.budget.epsilon_micro == 8_000_000
    assert 2_350_000 < task.training.noise_micro < 2_400_000
    assert codec.unpack(Task, codec.pack(task)) == task


def test_same_seed_gives_the_same_task_and_none_a_new_permutation() -> None:
    seeded = description()
    assert pack_task(seeded) == pack_task(seeded)
    del seeded["seed"]
    assert pack_task(seeded)[0].layout.permutation != pack_task(seeded)[0].layout.permutation


def test_numbers_written_in_toml_are_exact() -> None:
    text = "sample_rate = 0.1\nlearning_rate = 0.3\nclip = 1.1\nevaluation_noise = 33.3\ndelta = 1e-5"
    task, _ = pack_task(description(**tomllib.loads(text)))
    assert (task.training.sample_rate_micro, task.training.learning_rate_micro) == (100_000, 300_000)
    assert (task.training.clip_micro, task.evaluation_noise_micro) == (1_100_000, 33_300_000)
    assert task.budget.delta_nano == 10_000


@pytest.mark.torch
def test_mlp_of_the_demo_is_packed() -> None:
    model = {"kind": "mlp", "sizes": [64, 32, 10], "activation": "tanh"}
    task, data = pack_task(description(model=model))
    flat = np.frombuffer(data, "<f4")
    assert flat.size == task.layout.size == 64 * 32 + 32 + 32 * 10 + 10
    assert 0 < np.abs(flat).max() < 1


@pytest.mark.parametrize(("largest", "exponent"), [(1.6, -6), (127.0, 0), (127.1, 1), (127 / 64, -6), (2.0, -5)])
def test_step_is_the_smallest_power_of_two_that_reaches_the_range(largest: float, exponent: int) -> None:
    assert step_log2(largest) == exponent
    assert LEVELS * 2.0**exponent >= largest > LEVELS * 2.0 ** (exponent - 1)


def test_impossible_target_names_an_epsilon_that_is_possible() -> None:
    with pytest.raises(ImpossiblePrivacyTarget, match="least possible epsilon") as caught:
        pack_task(description(epsilon=2))
    least = float(str(caught.value).partition("of this task is ")[2].partition(";")[0])
    assert 2 < least < 8
    assert task_epsilon(pack_task(description(epsilon=least))[0]) <= round(least * 1e6)


RULE = {"clip": 2.0, "noise": 6.8, "every": 1}


@pytest.mark.torch
def test_pull_is_in_the_task_in_millionths() -> None:
    task, _ = pack_task(description("mlp", prototypes=RULE | {"pull": 0.25}))
    assert task.prototypes is not None
    assert task.prototypes.pull_micro == 250_000
    assert codec.unpack(Task, codec.pack(task)) == task
    assert task.digest != pack_task(description("mlp"))[0].digest


def test_task_without_a_pull_has_the_bytes_and_the_digest_that_it_had_before_there_was_one() -> None:
    task, _ = draft_task(description())
    assert codec.pack(task.prototypes) == b'{"clip_micro":2000000,"every":1,"noise_micro":6800000}'
    assert task.digest == "36671fcdb97794daff522a52dd172a4d3c992907a1df17a00dc0b64f3a0c1a1d"
    assert draft_task(description(prototypes=RULE | {"pull": 0}))[0] == task


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in description().items() if name != key}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (without("clip"), "add the missing clip"),
        (description(colour="red"), "remove the unknown colour"),
        (description(sample_rate=0), "sample_rate must be a positive number"),
        (description(sample_rate=1.5), "sample_rate_micro: 1500000 is not within"),
        (description(sample_rate=0.1234567), "sample_rate has more than 6 decimals"),
        (description(delta=1e-10), "delta has more than 9 decimals"),
        (description(delta=1), "delta must be below 1"),
        (description(epsilon=float("nan")), "epsilon must be a positive number"),
        (description(epsilon=float("inf")), "epsilon must be a positive number"),
        (description(clip="1"), "clip must be a positive number"),
        (description(rounds=2.5), "rounds must be a whole number"),
        (description(rounds=True), "rounds must be a whole number"),
        (description(rounds=0), "rounds: 0 is not within"),
        (description(folds=9), "folds: 9 is not within"),
        (description(range=0), "range must be a positive number"),
        (description(range=1e30), "step_log2: .* is not within"),
        (description(name="Two words"), "name: 'Two words' has not the form"),
        (description(name=3), "name must be text"),
        (description(model="mlp"), "model must be a table with activation, kind, sizes"),
        (description(model={"kind": "linear", "sizes": "6", "activation": "none"}), "must be a list"),
        (description(model={"kind": "linear", "sizes": [0, 3], "activation": "none"}), "sizes: 0 is not within"),
        (description(prototypes={"clip": 1.0, "noise": 6.8}), "prototypes: add the missing every"),
        (description(prototypes={"clip": 1.0, "noise": 6.8, "every": 0}), "every: 0 is not within"),
        (description("mlp", prototypes=RULE | {"pull": -0.1}), r"prototypes\.pull must be 0 or a positive number"),
        (description("mlp", prototypes=RULE | {"pull": True}), r"prototypes\.pull must be 0 or a positive number"),
        (description("mlp", prototypes=RULE | {"pull": "1"}), r"prototypes\.pull must be 0 or a positive number"),
        (description("mlp", prototypes=RULE | {"pull": 1e-7}), r"prototypes\.pull has more than 6 decimals"),
        (description("mlp", prototypes=RULE | {"lambda": 1}), "prototypes: remove the unknown lambda"),
    ],
)
def test_bad_description_is_refused_with_what_to_do(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(BadTask, match=message):
        pack_task(spec)
