from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.task import ModelSpec
from redteam.attacks import data, updates
from redteam.attacks.attack import Attack
from redteam.attacks.catalogue import ATTACKS, Setting
from redteam.cast import Within, adjusted, attacking, triggered
from redteam.errors import BadScenario
from redteam.scenario import AttackSpec, parse
from redteam.split import Split
from redteam.world import build, sampled
from silo.data import Records
from silo.trainer import trainer_for
from tests.redteam.plain_task import PLAN, plain_task
from tests.silo.entropy import SeededEntropy

COUNTS = {f"s{number:03d}": count for number, count in enumerate((500, 300, 200, 100, 80, 60, 40, 20, 10, 10))}


@given(st.integers(0, 500), st.floats(0.05, 0.9))
def test_attackers_by_weight_come_as_near_as_their_order_allows(seed: int, share: float) -> None:
    chosen = attacking(AttackSpec("badnets", share, "weight"), COUNTS, seed)
    total, reached = sum(COUNTS.values()), sum(COUNTS[name] for name in chosen)
    assert chosen == tuple(sorted(set(chosen)))
    wanted = share * total
    # Silos left out that bring it nearer would have been taken when their turn came, with less reached by then.
    assert reached <= 2 * wanted or chosen in {("s008",), ("s009",)}


@given(st.integers(0, 500), st.sampled_from([0.1, 0.3, 0.5, 0.9]))
def test_attackers_by_silos_are_that_part_of_them(seed: int, share: float) -> None:
    assert len(attacking(AttackSpec("badnets", share), COUNTS, seed)) == round(share * 10)


def test_nobody_attacks_without_attack_or_share() -> None:
    assert attacking(AttackSpec("none", 0.5), COUNTS, 0) == ()
    assert attacking(AttackSpec("badnets", 0.0), COUNTS, 0) == ()


def test_the_choice_depends_on_the_seed_only() -> None:
    spec = AttackSpec("badnets", 0.3)
    assert attacking(spec, COUNTS, 1) == attacking(AttackSpec("flip-pair", 0.3), COUNTS, 1)
    assert len({attacking(spec, COUNTS, seed) for seed in range(20)}) > 5


def test_an_attack_sleeps_outside_of_its_rounds() -> None:
    assert [Within(3, 5)(number) for number in range(1, 8)] == [False, False, True, True, True, False, False]
    assert all(Within(1, 0)(number) for number in range(1, 100))


@pytest.mark.torch
def test_parameters_reach_the_parts_of_every_attacker() -> None:
    spec = {"name": "constrain-and-scale", "share": 0.2, "first": 4, "last": 4}
    parts = {"data": {"share": 0.9, "target": 2}, "local": {"alpha": 0.6}, "updates": {"factor": 3.0}}
    world = build(parse({"attack": {**spec, **parts}}), Path("no directory is needed for digits"))
    assert len(world.crew) == 2
    for attack in world.crew.values():
        assert isinstance(attack.data, data.Backdoor)
        assert (attack.data.share, attack.data.target) == (0.9, 2)
        assert attack.local.alpha == 0.6  # type: ignore[attr-defined]
        assert attack.updates == (updates.Scale(3.0),)
        assert [attack.active(number) for number in (3, 4, 5)] == [False, True, False]
    assert world.triggered is not None
    assert set(world.triggered.holdout_labels) == {2}


def test_success_of_a_trigger_is_measured_without_attackers_too() -> None:
    attack = {"name": "badnets", "data": {"target": 4}}
    linear = {"model": {"kind": "linear"}}
    without, with_them = (
        build(parse({**linear, "attack": {**attack, "share": share}}), Path("none")) for share in (0, 0.2)
    )
    assert (len(without.crew), len(with_them.crew)) == (0, 2)
    assert without.triggered is not None
    assert with_them.triggered is not None
    assert np.array_equal(without.triggered.holdout_features, with_them.triggered.holdout_features)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ({"name": "badnets", "data": {"shares": 0.9}}, r"attack\.data\.shares is unknown; choose from trigger, target"),
        (
            {"name": "sign-flip", "data": {"share": 0.9}},
            r"attack\.data\.share is unknown; this attack has no such part",
        ),
        ({"name": "badnets", "updates": {"factor": 2}}, r"attack\.updates must be empty: badnets has no update part"),
        ({"name": "badnets", "local": {"alpha": 0.5}}, r"attack\.local\.alpha is unknown; choose from"),
    ],
)
def test_a_parameter_that_the_attack_has_not_is_refused_before_any_data_are_read(
    attack: dict[str, object], message: str
) -> None:
    with pytest.raises(BadScenario, match=message):
        parse({"attack": attack})


@pytest.mark.parametrize("name", list(ATTACKS))
def test_every_attack_can_be_named_before_any_data_are_read(name: str) -> None:
    assert parse({"attack": {"name": name}}).attack.name == name


def test_success_leaves_out_records_of_the_target_class() -> None:
    labels = np.arange(40) % 10
    test = Records(*(np.zeros((40, 64), np.float32), labels) * 2)
    nobody = Split({}, {}, {}, {})
    attack = adjusted(_badnets(), AttackSpec("badnets", data={"target": 3}))
    aim = triggered({"s000": attack}, nobody, test)
    assert aim is not None
    assert len(aim.holdout_labels) == 36
    assert triggered({}, nobody, test) is None


def _badnets() -> Attack:
    return ATTACKS["badnets"](Setting({}, 10, side=8))


def test_a_pool_trains_as_another_client_in_each_round() -> None:
    """Clients that hold one class each: the update shows who trained."""
    ones = np.ones((30, 4), np.float32)
    pool = [Records(ones, np.full(30, label), ones[:2], np.full(2, label)) for label in range(3)]
    task = plain_task(ModelSpec("linear", (4, 3), "none"))
    trainer = sampled(pool, 1, "s000")(task, pool[0], SeededEntropy(0))
    model = np.zeros(15, np.float32)
    seen = []
    for _ in range(12):
        update = trainer.train(model, PLAN, 30)
        client = int(update[-3:].argmax())
        assert set(trainer.embed(model)[1]) == {client}
        alone = trainer_for(task, pool[client], SeededEntropy(0)).train(model, PLAN, 30)
        assert update == pytest.approx(alone, abs=0.05)
        seen.append(client)
    assert set(seen) == {0, 1, 2}
