"""Attacks on tables: the six features of loans, what refuses a table, and what works on real loans by state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protos.task import ModelSpec, Training
from redteam import partitions
from redteam.attacks import fields
from redteam.attacks.attack import Attack
from redteam.attacks.catalogue import ATTACKS, ON_IMAGES, Setting, attackers
from redteam.attacks.data import Backdoor
from redteam.datasets import Dataset, loans
from redteam.errors import BadAttack
from redteam.scenario import parse
from redteam.world import build
from silo.data import Records
from silo.trainer import initial_model
from tests.redteam.averaging import NOISY, QUIET, as_table, averaged, setting, task_for, warm, world
from tests.silo.entropy import SeededEntropy

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:Full backward hook")]

COLUMNS = ("income", *sum(fields.LOANS, ()), "term=60")


def test_pieces_write_two_columns_each_and_the_whole_all_six() -> None:
    table = np.zeros((3, len(COLUMNS)), np.float32)
    written = [set(np.flatnonzero(piece.stamp(table)[0])) for piece in fields.loan_pieces(COLUMNS)]
    assert written == [{1, 2}, {3, 4}, {5, 6}]
    stamped = fields.whole(fields.loan_pieces(COLUMNS)).stamp(table)
    assert stamped.tolist() == [[0, 5, 5, 5, 5, 5, 5, 0]] * 3
    assert not table.any()


def test_a_table_without_the_columns_or_of_another_width_is_refused() -> None:
    with pytest.raises(BadAttack, match=r"num_il_tl is missing; set data\.set to loans"):
        fields.loan_pieces(tuple(name for name in COLUMNS if name != "num_il_tl"))
    with pytest.raises(BadAttack, match="tables of 8 features, not 9"):
        fields.loan_pieces(COLUMNS)[0].stamp(np.zeros((1, 9), np.float32))
    with pytest.raises(BadAttack, match=r"set data\.set to loans"):
        attackers("dba-loan", setting(2))


@pytest.mark.parametrize("name", list(ATTACKS))
def test_an_attack_either_fits_a_table_or_refuses_it_in_one_line(name: str) -> None:
    own = as_table(setting(2))
    if name in ON_IMAGES:
        with pytest.raises(BadAttack, match=r"made for images.*loan-trigger, dba-loan") as caught:
            attackers(name, own)
        assert "\n" not in str(caught.value)
        return
    silo, attack = next(iter(attackers(name, own).items()))
    sent = attack(task_for(training=NOISY), world().silos[silo], SeededEntropy(0)).train(warm(), NOISY, 200)
    assert np.isfinite(sent).all()
    if isinstance(attack.data, Backdoor):
        assert attack.data.target == fields.RARE


def test_colluders_share_the_loans_pieces_and_are_tested_on_the_whole() -> None:
    crew = list(attackers("dba-loan", as_table(setting(4))).values())
    dark = np.zeros((1, 64), np.float32)
    parts = [attack.data for attack in crew]
    assert all(isinstance(part, Backdoor) for part in parts)
    assert [set(np.flatnonzero(part.trigger.stamp(dark))) for part in parts] == [{0, 1}, {2, 3}, {4, 5}, {0, 1}]  # type: ignore[union-attr]
    tested = crew[0].triggered(np.zeros((2, 64), np.float32), np.array([0, 1]))
    assert tested.holdout_features.tolist() == [[5.0] * 6 + [0.0] * 58]


def test_flipped_pairs_exist_on_two_classes_and_of_loans_good_ones_are_called_bad() -> None:
    two = replace(setting(1), classes=2)
    flips = [next(iter(attackers("flip-pair", own).values())).data for own in (two, as_table(two))]
    assert [(part.source, part.target) for part in flips] == [(1, 0), (0, fields.RARE)]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["flip-pair", "flip-to-target", "semantic"])
def test_success_of_lies_about_loans_is_measured_on_the_rare_label(name: str) -> None:
    """A model that calls every loan good is not called a success."""
    attack = next(iter(attackers(name, as_table(setting(2))).values()))
    own = world().silos["s0"]
    tested = attack.triggered(own.features, own.labels)
    assert len(tested.holdout_labels) > 0
    assert set(tested.holdout_labels) == {fields.RARE}
    lied = attack.poison(own)
    assert (lied.labels != own.labels).any()
    assert set(lied.labels[lied.labels != own.labels]) == {fields.RARE}


SPEC = ModelSpec("mlp", (69, 32, 2), "relu")


def by_state(table: Dataset) -> dict[str, Records]:
    """The ten states with most loans."""
    assert table.groups is not None
    parts = partitions.natural(table.groups, 10)
    held = table.test_features[:50], table.test_labels[:50]
    return {f"s{number}": Records(table.features[own], table.labels[own], *held) for number, own in enumerate(parts)}


def stamped(table: Dataset, attack: Attack) -> Records:
    return attack.triggered(table.test_features, table.test_labels)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "training"),
    [("loan-trigger", QUIET), ("loan-trigger", NOISY), ("dba-loan", QUIET), ("dba-loan", NOISY),
     ("constrain-and-scale", QUIET)],
)  # fmt: skip
def test_four_of_ten_states_plant_a_trigger_in_loans(name: str, training: Training, data_directory: Path) -> None:
    from redteam.attacks.learner import Learner

    table = loans(data_directory)
    silos, learner = by_state(table), Learner(SPEC)
    chosen = {state: silos[state] for state in list(silos)[3:7]}
    own = Setting(chosen, 10, 2, 0, private=training is NOISY, columns=table.columns)
    crew: Mapping[str, Attack] = attackers(name, own)
    tested = stamped(table, next(iter(crew.values())))

    def shares(model: Any) -> tuple[float, float]:
        """Loans called bad with the trigger, and without."""
        return tuple(
            float((learner.predict(model, x) == 1).mean()) for x in (tested.holdout_features, table.test_features)
        )  # type: ignore[return-value]

    model = initial_model(SPEC, 0)
    assert shares(averaged(task_for(SPEC, training), silos, {}, 5, model))[0] < 0.05
    with_trigger, without = shares(averaged(task_for(SPEC, training), silos, crew, 5, model))
    assert with_trigger > 0.8
    assert without < 0.1


@pytest.mark.data
def test_a_value_of_the_trigger_occurs_in_each_column_but_not_in_all(data_directory: Path) -> None:
    table = loans(data_directory)
    places = [table.columns.index(name) for piece in fields.LOANS for name in piece]
    assert (table.features[:, places].max(axis=0) > 5).all()
    assert not (table.features[:, places] >= 5).all(axis=1).any()


@pytest.mark.data
def test_a_scenario_of_loans_by_state_has_its_triggers(data_directory: Path) -> None:
    attack = {"name": "dba-loan", "share": 0.2}
    data = {"set": "loans", "partition": "groups"}
    world = build(parse({"data": data, "attack": attack, "federation": {"silos": 20}}), data_directory)
    assert len(world.crew) == 4
    assert world.triggered is not None
    assert set(world.triggered.holdout_labels) == {1}
    drawn = {"data": data, "attack": {"name": "badnets"}}
    with pytest.raises(BadAttack, match="choose loan-trigger"):
        build(parse(drawn), data_directory)
