"""Parameters of an attack's parts, as a scenario gives them: what each may be, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest

from redteam.attacks import data, fields, triggers, updates
from redteam.attacks.attack import Attack
from redteam.attacks.catalogue import ATTACKS, example
from redteam.errors import BadAttack, BadScenario, RedTeamError
from redteam.parameters import with_parameters
from redteam.scenario import parse
from redteam.world import build

NOWHERE = Path("no directory is needed for digits")


def scenario(name: str, **parts: Any) -> dict[str, Any]:
    return {"model": {"kind": "linear"}, "attack": {"name": name, "share": 0.3, **parts}}


@pytest.mark.parametrize(
    ("name", "parts", "message"),
    [
        ("badnets", {"data": {"share": "x"}}, r"data\.share = 'x' cannot be: it is a number from 0 to 1"),
        ("badnets", {"data": {"share": 7.5}}, r"data\.share = 7.5 cannot be: it is a number from 0 to 1"),
        ("badnets", {"data": {"share": float("nan")}}, r"data\.share = nan cannot be"),
        ("badnets", {"data": {"share": True}}, r"data\.share = True cannot be"),
        ("badnets", {"data": {"share": {"much": 1}}}, r"data\.share = .* cannot be: it is a number"),
        ("badnets", {"data": {"target": 2.0}}, r"data\.target = 2.0 cannot be: it is a whole number from 0 on"),
        ("badnets", {"data": {"trigger": 3}}, r"data\.trigger = 3 cannot be: it is a table with some of cells, value"),
        ("badnets", {"data": {"trigger": {"cells": [[1]]}}}, "a list of one or more, of which each is a list of 2"),
        ("badnets", {"data": {"trigger": {"cells": []}}}, "cannot be: it is a list of one or more values"),
        ("badnets", {"data": {"tested": 3}}, r"data\.tested = 3 cannot be: it is nothing that a scenario can say"),
        ("badnets", {"local": {"batch": 0}}, r"local\.batch = 0 cannot be: it is a whole number from 1 to"),
        ("badnets", {"local": {"epochs": 0}}, r"local\.epochs = 0 cannot be"),
        ("badnets", {"local": {"learning_rate": "a"}}, r"local\.learning_rate = 'a' cannot be: it is a number"),
        ("blended", {"data": {"trigger": {"low": 2.0}}}, r"attack\.data\.trigger: low is 2 and high is 1: choose"),
        ("flip-mirror", {"data": {"classes": 3}}, r"data\.classes = 3 cannot be: it is nothing"),
        ("flip-pair", {"data": {"source": 3}}, r"attack\.data: source and target are both class 3: choose two"),
        ("source-specific", {"data": {"source": 0}}, "source and target are both class 0"),
        ("scattered-labels", {"data": {"beside": [1, "a"]}}, "of which each is a whole number from 0 on"),
        ("scattered-labels", {"data": {"backdoor": {"share": 2}}}, r"data\.backdoor\.share = 2 cannot be"),
        ("decoy", {"data": {"trigger": {"mask": [1.0]}}}, r"data\.trigger\.mask = \[1.0\] cannot be: it is nothing"),
        ("min-max", {"updates": {"perturbation": "sine"}}, "cannot be: it is one of std, unit, sign"),
        ("min-max", {"updates": {"tolerance": 0}}, "it is a number from 1e-12 to 1"),
        ("gaussian", {"updates": {"relative": 1}}, "cannot be: it is true or false"),
        ("sign-flip", {"updates": {"factor": float("inf")}}, "it is a number from -1000000 to 1000000"),
        ("noise-replacement", {"updates": {"memory": -1}}, r"updates\.memory = -1 cannot be: it is a whole"),
        ("bapfl-pfs", {"prototypes": {"search": {"steps": 0}}}, r"prototypes\.search\.steps = 0 cannot be"),
        ("loan-trigger", {"data": {"trigger": {"positions": [99]}}}, "positions are of features, from 0 to 5"),
        ("echo", {"data": {"trigger": {"alpha": 1.5}}}, r"trigger\.alpha = 1.5 cannot be: it is a number from 0 to 1"),
        ("warp", {"data": {"trigger": {"grid": 1}}}, r"grid = 1 cannot be: it is a whole number from 2 to 28"),
        ("warp", {"data": {"trigger": {"grid": 29}}}, r"grid = 29 cannot be: it is a whole number from 2 to 28"),
        ("warp", {"data": {"trigger": {"seed": -1}}}, r"seed = -1 cannot be: it is a whole number from 0 to"),
        ("warp", {"data": {"trigger": {"strength": -0.5}}}, r"strength = -0.5 cannot be: it is a number from 0 to"),
        ("style", {"data": {"trigger": {"radius": -1}}}, r"radius = -1 cannot be: it is a number from 0 to 28"),
        ("style", {"data": {"trigger": {"radius": 1e6}}}, r"radius = 1000000.0 cannot be: it is a number from 0 to 28"),
        ("style", {"data": {"trigger": {"gamma": 0}}}, r"gamma = 0 cannot be: it is a number from 0.01 to 100"),
        ("style", {"data": {"trigger": {"low": 1.0}}}, r"low = 1.0 cannot be: it is a number from -1 to 0.99"),
        ("opposed", {"updates": {"strength": -2}}, r"updates\.strength = -2 cannot be: it is a number from 0 to"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_named_with_what_it_may_be(name: str, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(RedTeamError, match=message) as caught:
        parse(scenario(name, **parts))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "parts", "message"),
    [
        ("flip-pair", {"data": {"source": 11}}, r"data\.source = 11 cannot be: it is a whole number from 0 to 9"),
        ("badnets", {"data": {"target": 10}}, r"data\.target = 10 cannot be: it is a whole number from 0 to 9"),
        ("scattered-labels", {"data": {"beside": [1, 12]}}, "each is a whole number from 0 to 9"),
        ("badnets", {"data": {"trigger": {"cells": [[8, 0]]}}}, "outside of images of 8 x 8"),
        ("badnets", {"data": {"trigger": {"cells": [[0, -9]]}}}, "outside of images of 8 x 8"),
    ],
)
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_what_the_data_rule_out_is_refused_before_any_round(
    name: str, parts: dict[str, Any], message: str, share: float
) -> None:
    table = scenario(name, **parts)
    table["attack"]["share"] = share
    with pytest.raises(RedTeamError, match=message):
        build(parse(table), NOWHERE)


def test_an_attack_that_no_test_record_shows_is_refused() -> None:
    few = {"data": {"test": 1}} | scenario("flip-pair")
    with pytest.raises(BadScenario, match=r"no test record .* raise data\.test"):
        build(parse(few), NOWHERE)


def test_values_come_in_the_types_that_the_parts_have() -> None:
    backdoor = with_parameters(
        data.Backdoor(), {"share": 1, "trigger": {"cells": [[0, -1]], "value": 1}}, "attack.data"
    )
    assert backdoor == data.Backdoor(triggers.Pixels(((0, -1),), 1.0), share=1.0)
    assert isinstance(backdoor.share, float)
    hash(backdoor)
    assert with_parameters(data.Scattered(), {"beside": [2, 3]}, "attack.data").beside == (2, 3)
    assert with_parameters(updates.MinMax(), {"perturbation": "sign"}, "attack.updates").perturbation == "sign"
    assert with_parameters(data.Backdoor(), {"target": 9}, "attack.data", classes=10).target == 9


def parts_of(attack: Attack) -> Iterator[Any]:
    """Its parts and those within them."""
    left: list[Any] = [attack.data, attack.local, attack.prototypes, *attack.updates]
    while left:
        part = left.pop()
        if is_dataclass(part):
            yield part
            left += [getattr(part, one.name) for one in dataclasses.fields(part)]


@pytest.mark.parametrize("name", list(ATTACKS))
def test_no_parameter_of_any_attack_takes_what_is_no_value_of_it(name: str) -> None:
    for part in parts_of(example(name)):
        for one in dataclasses.fields(part):
            for wrong in ("no such word", [[["nested"]]], {"no": "such key"}):
                with pytest.raises(BadScenario, match=one.name):
                    with_parameters(part, {one.name: wrong}, "attack")


@pytest.mark.parametrize("name", list(ATTACKS))
def test_what_every_attack_has_by_default_is_within_its_ranges(name: str) -> None:
    for part in parts_of(example(name)):
        usual = {one.name: getattr(part, one.name) for one in dataclasses.fields(part)}
        plain = {key: value for key, value in usual.items() if isinstance(value, bool | int | float | str)}
        settable = {key: value for key, value in plain.items() if key not in ("classes", "width")}
        same = with_parameters(part, settable, "attack", classes=10)
        assert {key: getattr(same, key) for key in settable} == settable


def test_a_part_made_in_code_is_held_to_what_no_range_says() -> None:
    for make in (
        lambda: data.FlipPair(3, 3),
        lambda: data.SourceSpecific(source=0),
        lambda: triggers.Blend(low=2.0),
        lambda: fields.Fields((6,), 6),
    ):
        with pytest.raises(BadAttack, match="choose"):
            make()
