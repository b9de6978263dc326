"""Scenarios of the mode `personal` run as others do: keys become FedProto's federation, and rows have their metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from redteam import cli, datasets
from redteam.attacks.prototypes import Bapfl
from redteam.errors import BadScenario
from redteam.personal import federation_of, silo_rows
from redteam.run import run
from redteam.scenario import Scenario, changed, parse
from redteam.sweep import read_sweep

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:Full backward hook")]

NOWHERE = Path("no such directory")
TABLE: dict[str, Any] = {
    "mode": "personal",
    "seed": 4,
    "data": {"set": "digits"},
    "model": {"hidden": [24]},
    "training": {"rounds": 5, "learning_rate": 0.1, "pull": 1.0, "prototypes_clip": 8.0},
    "personal": {"shots": 40, "batch": 10},
    "federation": {"silos": 8, "defense": "plain"},
}
POISON = {"attack.name": "bapfl-pfs", "attack.share": 0.25, "attack.prototypes": {"search": {"steps": 6}}}


def scenario(changes: dict[str, Any] | None = None) -> Scenario:
    return parse(changed(TABLE, changes or {}))


def test_keys_of_the_scenario_reach_the_federation() -> None:
    changes = {**POISON, "attack.prototypes.control": True, "engine.search": True, "engine.search_every": 2}
    federation = federation_of(scenario(changes), datasets.load("digits", NOWHERE))
    plan = federation.plan
    assert (plan.sizes, plan.rounds, plan.batch, plan.pull, plan.clip) == ((64, 24, 10), 5, 10, 1.0, 8.0)
    assert (plan.inoculate, plan.every, len(federation.silos), len(federation.attacking)) == (True, 2, 8, 2)
    for attack in federation.attacking.values():
        assert isinstance(attack.prototypes, Bapfl)
        assert (attack.prototypes.search.steps, attack.prototypes.control, attack.prototypes.kind) == (6, True, "pfs")
        assert attack.prototypes.search.learning_rate == 0.1


def test_another_attack_and_defence_leave_the_silos_as_they_are() -> None:
    data = datasets.load("digits", NOWHERE)
    calm, attacked = (
        federation_of(scenario(changes), data) for changes in ({}, {**POISON, "federation.defense": "guard"})
    )
    for name, own in calm.silos.items():
        assert np.array_equal(own.features, attacked.silos[name].features)


def test_a_run_gives_a_row_with_the_metrics_of_tables() -> None:
    closed: list[tuple[int, int]] = []
    row = run(scenario(POISON), NOWHERE, lambda done, of: closed.append((done, of)))
    assert closed == [(number, 5) for number in range(1, 6)]
    assert row.accuracy == row.accuracies[-1] > 0.8
    assert row.success == row.successes[-1]
    assert row.metrics["success"] > 0.3
    assert sum(one.attacks for one in row.silos) == 2
    for number in range(5):
        assert sum(one.weights[number] for one in row.silos) == pytest.approx(1.0)
    honest = [one.accuracy for one in row.silos if not one.attacks]
    assert row.accuracy == pytest.approx(np.mean(honest))
    assert row.metrics["attackers_weight"] == pytest.approx(0.25, abs=0.15)


def test_suspicion_is_told_by_round_and_silo() -> None:
    federation = federation_of(scenario(), datasets.load("digits", NOWHERE))
    federation.run()
    doubted = federation.rounds[1]._replace(suspected=frozenset({"s003"}))
    federation.rounds[1] = doubted
    rows = {one.name: one.suspected for one in silo_rows(federation, 10)}
    assert rows.pop("s003") == (2,)
    assert set(rows.values()) == {()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.alpha": 0.5}, r"data\.alpha says nothing with mode = 'personal': leave it out"),
        ({"training.epsilon": 8.0}, r"training\.epsilon says nothing"),
        ({"engine.encryption": True}, r"engine\.encryption says nothing"),
        ({"model.kind": "lenet", "model.hidden": [3, 4]}, r"model\.kind says nothing"),
        ({"model.hidden": []}, "must have a layer"),
        ({"federation.defense": "krum"}, "'krum' cannot be with mode = 'personal': choose from fedpd, guard, plain"),
        ({"attack.name": "badnets"}, "'badnets' needs mode = 'weights': it is no attack on prototypes"),
        ({"attack.name": "bapfl-dba"}, "no attack on prototypes"),
        (
            {"attack.name": "bapfl-pfs", "attack.prototypes": {"strength": 1}},
            r"attack\.prototypes\.strength is unknown",
        ),
        (
            {"attack.name": "bapfl-pfs", "attack.prototypes": {"search": {"pace": 1}}},
            r"prototypes\.search\.pace is unk",
        ),
        ({"personal.ways": 1}, "from 2"),
    ],
)
def test_what_means_nothing_to_personal_models_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadScenario, match=message):
        scenario(changes)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"personal": {"ways": 4}}, r"personal\.ways says nothing with mode = 'weights'"),
        ({"federation": {"defense": "fedpd"}}, "'fedpd' needs mode = 'personal'"),
        ({"mode": "prototypes"}, "mode = 'prototypes' cannot be: it is one of weights, personal"),
    ],
)
def test_keys_of_personal_models_are_refused_elsewhere(table: dict[str, Any], message: str) -> None:
    with pytest.raises(BadScenario, match=message):
        parse(table)


def test_the_command_line_runs_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "personal.toml", tmp_path / "row.json"
    file.write_text(
        'mode = "personal"\n[data]\nset = "digits"\n[training]\nrounds = 1\npull = 1.0\n[personal]\nshots = 20\n'
        '[federation]\ndefense = "guard"\nsilos = 4\n[model]\nhidden = [8]\n'
    )
    assert cli.run(["run", str(file), "--out", str(out)]) == 0
    assert "s003" in capsys.readouterr().out
    assert json.loads(out.read_text())["metrics"]["finished"] == 1


@pytest.mark.parametrize("name", ["e.toml", "full/e.toml"])
def test_table_e_is_a_sweep_of_this_mode(name: str) -> None:
    sweep = read_sweep(Path("redteam/scenarios") / name)
    assert {cell.scenario.mode for cell in sweep.cells} == {"personal"}
    assert {cell.defense for cell in sweep.cells} == {"plain", "fedpd", "guard"}
