"""Who takes part: the reference run without the silos that would attack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from redteam.errors import BadScenario
from redteam.run import run
from redteam.scenario import parse
from redteam.world import World, build

NOWHERE = Path("no directory is needed for digits")
TINY: dict[str, Any] = {
    "data": {"test": 200, "alpha": 0.5, "ratio": 4.0},
    "model": {"kind": "linear"},
    "training": {"rounds": 2, "sample_rate": 0.3, "learning_rate": 2.0, "clip": 5.0},
    "federation": {"silos": 6, "folds": 2, "defense": "plain"},
}


def world(**attack: Any) -> World:
    return build(parse(TINY | {"attack": {"name": "badnets", "share": 0.3, "by": "weight", **attack}}), NOWHERE)


def test_honest_silos_have_the_same_records_and_task_whether_attackers_come_or_not() -> None:
    there, absent = world(), world(absent=True)
    honest = set(there.records) - set(there.crew)
    assert there.crew
    assert set(absent.records) == set(absent.seats) == honest
    assert absent.crew == {}
    for name in honest:
        for one, other in ((there, absent), (absent, there)):
            seat = one.seats[name].records
            assert all(
                np.array_equal(getattr(seat, part), getattr(other.records[name], part))
                for part in ("features", "labels", "holdout_features", "holdout_labels")
            )
    assert absent.task == there.task
    assert absent.model == there.model
    assert np.array_equal(absent.test.features, there.test.features)


def test_the_absent_are_those_of_every_attack_of_the_same_seed_and_share() -> None:
    """So one row without attackers serves all rows of a table."""
    assert set(world(absent=True).records) == set(world(absent=True, name="flip-pair").records)


def test_success_is_measured_though_nobody_attacks() -> None:
    scenario = parse(TINY | {"attack": {"name": "badnets", "share": 0.4, "absent": True}})
    result = run(scenario, NOWHERE)
    assert result.success is not None
    assert result.success < 0.2
    assert len(result.silos) == 4
    assert not any(one.attacks for one in result.silos)
    assert "attackers_weight" not in result.metrics


def test_a_federation_that_would_be_too_small_without_them_is_refused() -> None:
    with pytest.raises(BadScenario, match="leaves 2 silos, and a federation needs 3"):
        world(absent=True, share=0.7, by="silos")
    needs_five = {**TINY["federation"], "privacy_minimum": 5}
    attack = {"name": "badnets", "share": 0.3, "absent": True}
    with pytest.raises(BadScenario, match="leaves 4 silos, and a federation needs 5"):
        build(parse(TINY | {"federation": needs_five, "attack": attack}), NOWHERE)


def test_the_task_has_the_scenarios_activation_and_schedule() -> None:
    usual = build(parse(TINY), NOWHERE).task
    other = {"model": {"kind": "linear", "activation": "tanh"}, "training": {**TINY["training"], "schedule": "cosine"}}
    task = build(parse(TINY | other), NOWHERE).task
    assert (usual.model.activation, usual.schedule) == ("relu", "constant")
    assert (task.model.activation, task.schedule) == ("tanh", "cosine")


@pytest.mark.torch
def test_the_task_has_the_scenarios_pull_on_prototypes() -> None:
    for pull, micro in ((0.0, 0), (0.25, 250_000)):
        changes = {"model": {"hidden": [4]}, "training": {**TINY["training"], "prototypes_every": 1, "pull": pull}}
        rule = build(parse(TINY | changes), NOWHERE).task.prototypes
        assert rule is not None
        assert rule.pull_micro == micro


def test_referee_is_an_honest_silo_where_the_scenario_has_one() -> None:
    for seed in range(3):
        changes = {"attack": {"name": "badnets", "share": 0.5, "by": "silos"}, "seed": seed}
        world = build(parse(TINY | changes | {"engine": {"search": True, "referee": True}}), NOWHERE)
        assert world.task.search is not None
        assert world.task.search.referee in set(world.records) - set(world.crew)
        assert world.crew


def test_task_is_searched_as_often_as_the_scenario_says() -> None:
    for engine, every in (({}, None), ({"search": True}, 2), ({"search": True, "search_every": 5}, 5)):
        rule = build(parse(TINY | {"engine": engine}), NOWHERE).task.search
        assert (None if rule is None else rule.every) == every
