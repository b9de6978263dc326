from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from redteam.errors import BadScenario
from redteam.scenario import Scenario, changed, parse, read


def test_an_empty_file_is_the_default_scenario() -> None:
    assert parse({}) == Scenario()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"rounds": 3}, r"rounds is unknown; choose from attack, data, .*training"),
        ({"data": 4}, "data must be a table"),
        ({"data": {"sett": "mnist"}}, r"data\.sett is unknown; choose from alpha, .*set, test"),
        ({"data": {"set": "cifar"}}, r"data\.set = 'cifar' cannot be: it is one of digits, mnist"),
        ({"data": {"partition": "random"}}, "one of dirichlet, writers, stroke, slant, groups"),
        ({"data": {"alpha": 0}}, r"data\.alpha = 0 cannot be: it is a number from 0.001"),
        ({"data": {"alpha": True}}, r"data\.alpha = True cannot be"),
        ({"data": {"ratio": 51}}, "from 1 to 50"),
        ({"attack": {"name": "nuke"}}, r"attack\.name = 'nuke' cannot be: it is one of none, badnets"),
        ({"attack": {"share": 0.95}}, "from 0 to 0.9"),
        ({"attack": {"share": "many"}}, "it is a number"),
        ({"attack": {"data": 3}}, "a table of parameters"),
        ({"attack": {"first": 5, "last": 4}}, r"attack\.last must be 0 or not before"),
        ({"federation": {"silos": 2.5}}, "it is a whole number from 3"),
        ({"federation": {"silos": 2}}, "from 3"),
        ({"federation": {"defense": "hope"}}, "one of .*guard.*plain"),
        ({"federation": {"defense": "median"}, "engine": {"encryption": True}}, r"single updates.*encryption = false"),
        ({"federation": {"defense": "median"}, "mode": "personal"}, r"'median' cannot be with mode = 'personal'"),
        ({"federation": {"silos": 20, "clients": 10}}, "0 or at least federation.silos"),
        ({"federation": {"clients": 100}, "data": {"ratio": 2.0}}, "data.ratio must be 1"),
        ({"model": {"kind": "resnet"}}, "one of linear, mlp, lenet"),
        ({"model": {"activation": "gelu"}}, "one of relu, tanh"),
        ({"model": {"kind": "lenet", "hidden": [3]}}, "two numbers of channels"),
        ({"model": {"hidden": [3.5]}}, "a list of whole numbers from 1"),
        ({"engine": {"encryption": 1}}, "it is true or false"),
        ({"engine": {"referee": True}}, r"engine\.referee judges searches: set engine\.search = true"),
        ({"data": {"features": "deep"}}, "one of none, scattering"),
        ({"data": {"components": 50}}, "counts fixed features: set data.features"),
        ({"training": {"schedule": "linear"}}, "one of constant, cosine"),
        ({"attack": {"absent": True}}, r"attack\.absent = true needs attack\.name"),
        ({"attack": {"absent": True, "name": "badnets", "share": 0.0}}, "they say who is absent"),
        ({"training": {"pull": 0.1}}, r"training\.pull is towards prototypes: set training\.prototypes_every"),
        ({"training": {"pull": 0.1, "prototypes_every": 1}, "model": {"kind": "linear"}}, "pull needs a hidden layer"),
        ({"training": {"pull": -0.1, "prototypes_every": 1}}, "it is a number from 0 to"),
        ({"federation": {"silos": 4, "privacy_minimum": 5}}, r"privacy_minimum = 5 .* at most federation\.silos \(4\)"),
        ({"training": {"rounds": date(2020, 1, 1)}}, r"training\.rounds = datetime.date\(2020, 1, 1\) cannot be"),
        (
            {"attack": {"local": {"epochs": [date(2020, 1, 1)]}}},
            r"attack\.local = .* a table of parameters, without dates",
        ),
        ({"seed": -1}, "seed = -1 cannot be: it is a whole number from 0"),
    ],
)
def test_a_bad_key_is_named_with_what_is_allowed(table: dict[str, Any], message: str) -> None:
    with pytest.raises(BadScenario, match=message) as caught:
        parse(table)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadScenario, match=r"none\.toml cannot be read: No such file"):
        read(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("seed = = 3")
    with pytest.raises(BadScenario, match=r"bad\.toml is no TOML"):
        read(tmp_path / "bad.toml")


def test_changes_reach_into_tables_and_leave_the_base_alone() -> None:
    base = {"attack": {"name": "badnets"}}
    new = changed(base, {"attack.share": 0.4, "federation.silos": 5, "attack.data.share": 0.9})
    assert parse(new).attack.share == 0.4
    assert parse(new).attack.data == {"share": 0.9}
    assert parse(new).federation.silos == 5
    assert base == {"attack": {"name": "badnets"}}
    assert changed({"seed": date(2020, 1, 1)}, {"attack.share": 0.4})["seed"] == date(2020, 1, 1), "to be refused later"
    with pytest.raises(BadScenario, match=r"attack\.name\.x names a key within name"):
        changed(base, {"attack.name.x": 1})


def test_the_digest_tells_scenarios_apart_and_nothing_else() -> None:
    assert parse({"training": {"clip": 1}}).digest == parse({}).digest
    assert parse({"seed": 1}).digest != parse({}).digest
    assert parse({"data": {"alpha": 2.0}}).digest != parse({"training": {"clip": 2.0}}).digest
    assert parse({"attack": {"data": {"share": 0.9}}}).digest != parse({}).digest


def test_cells_of_earlier_versions_keep_their_names() -> None:
    """Two digests as they were before there were features, schedules and absent attackers."""
    table = {
        "seed": 3,
        "data": {"set": "mnist", "alpha": 0.5},
        "training": {"epsilon": 8.0},
        "attack": {"name": "badnets", "share": 0.3},
    }
    assert (parse({}).digest, parse(table).digest) == ("44136fa355b3678a", "1ea38cdd29e48c36")


def test_a_decoy_can_be_named_before_there_are_records() -> None:
    assert parse({"attack": {"name": "decoy"}}).attack.name == "decoy"
