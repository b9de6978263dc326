"""Files of sweeps that are wrong, and results that are damaged: one line that names file and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import redteam
from redteam.errors import BadDataFile, RedTeamError
from redteam.sweep import POOLED, Cells, parse_sweep, read_sweep
from redteam.tables import entries

SWEEP = """
table = "Z"
title = "tiny"
seeds = [0]
defenses = ["plain"]
scenario = {training = {rounds = 1}}
"""
GOAL = {"defense": "plain", "metric": "accuracy", "op": ">=", "value": 0.5}
TABLE: dict[str, Any] = {"table": "T", "title": "tiny", "seeds": [0], "defenses": ["plain"], "rows": [{"name": "calm"}]}


def sweep(changes: str = "", row: str = "") -> str:
    """The sweep with some lines replaced, and a row with more lines."""
    replaced = {line.partition(" = ")[0] for line in changes.splitlines()}
    kept = [line for line in SWEEP.splitlines() if line.partition(" = ")[0] not in replaced]
    return "\n".join([*kept, changes, '[[rows]]\nname = "calm"', row])


def goal(**changes: str) -> str:
    usual = {"defense": '"plain"', "metric": '"accuracy"', "op": '">="', "value": "0.5"}
    return f"goals = [{{{', '.join(f'{key} = {value}' for key, value in (usual | changes).items())}}}]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (sweep("seeds = 3"), "sweep: seeds = 3 cannot be: it is a list of one or more whole numbers"),
        (sweep("seeds = []"), r"sweep: seeds = \[\] cannot be"),
        (sweep("seeds = [true]"), r"sweep: seeds = \[True\] cannot be"),
        (sweep("title = 3"), "sweep: title = 3 cannot be: it is a text"),
        (sweep("defenses = 3"), "sweep: defenses = 3 cannot be: it is a list of one or more names"),
        (sweep("searched = 3"), "sweep: searched = 3 cannot be: it is a list of names"),
        (sweep("scenario = 3"), "sweep: scenario = 3 cannot be: it is a table"),
        (sweep("scenario = {training = {rounds = 2020-01-01}}"), "row 'calm': .*training.rounds = datetime.date"),
        (sweep("scenario = {training = 3}"), "row 'calm': scenario: training must be a table"),
        (sweep("axes = [3]"), r"sweep: axes = \[3\] cannot be: it is a list of lists of tables"),
        (sweep('axes = [[{name = "a", changes = 3}]]'), "sweep: axes: changes = 3 cannot be: it is a table"),
        (sweep("axes = [[{changes = {}}]]"), "sweep: axes: add the missing name"),
        (sweep("goals = 3"), "sweep: goals = 3 cannot be: it is a list of tables"),
        (sweep(goal(defense='"guard"')), "row 'all rows': goal: defense = 'guard' cannot be: it is one of plain"),
        (sweep(row="changes = 3"), "row 'calm': changes = 3 cannot be: it is a table"),
        (sweep(row="seeds = 3"), "row 'calm': seeds = 3 cannot be"),
        (sweep(row="defenses = [3]"), r"row 'calm': defenses = \[3\] cannot be"),
        (sweep(row='changes = {"training.rounds" = 2020-01-01}'), "row 'calm': scenario: training.rounds = datetime"),
        (sweep(row='changes = {attack = {name = "badnets", data = {share = 2}}}'), "row 'calm': .*data.share = 2"),
        (sweep(row='reference = {plain = {accuracy = "x"}}'), "row 'calm': reference = .*each a table of numbers"),
        (sweep(row="goals = 3"), "row 'calm': goals = 3 cannot be: it is a list of tables"),
        (sweep(row=goal(value='"x"')), "row 'calm': goal: value = 'x' cannot be: it is a number"),
        (sweep(row=goal(value="nan")), "row 'calm': goal: value = nan cannot be"),
        (sweep(row=goal(metric="3")), "row 'calm': goal: metric = 3 cannot be: it is a text"),
        (sweep(row=goal(op='"<"')), "row 'calm': goal: op = '<' cannot be: it is one of <=, >="),
        (sweep(row=goal(of="3")), "row 'calm': goal: of = 3 cannot be: it is a text"),
        (sweep(row=goal(of='"storm / plain"')), "row 'calm': goal: of = 'storm / plain' .* ROW / DEFENSE"),
        (sweep(row=goal(of='"calm / guard"')), "row 'calm': goal: of = 'calm / guard' cannot be"),
        (sweep(row=goal(of='"calm"')), "row 'calm': goal: of = 'calm' cannot be"),
        (sweep(row=goal(defense='"guard"')), "row 'calm': goal: defense = 'guard' cannot be: it is one of plain"),
        (sweep(row="colour = 3"), "row 'calm': colour is unknown; choose from changes"),
    ],
)  # fmt: skip
def test_a_sweep_that_cannot_be_is_refused_with_its_file_and_key(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "z.toml"
    path.write_text(text)
    with pytest.raises(RedTeamError, match=message) as caught:
        read_sweep(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_row_without_a_name_is_refused() -> None:
    with pytest.raises(RedTeamError, match="row '': add the missing name"):
        parse_sweep({**TABLE, "rows": [{}]})


@pytest.mark.parametrize("of", ["other / guard", f"{POOLED} / guard", "calm / plain"])
def test_a_goal_may_name_any_column_that_the_table_has(of: str) -> None:
    rows = [{"name": "calm", "goals": [{**GOAL, "of": of}]}, {"name": "other", "defenses": ["guard"]}]
    found = parse_sweep({**TABLE, "rows": rows})
    assert found.cases[0].goals[0].of == of


def test_with_axes_a_goal_names_its_own_variant_of_a_row_but_all_rows_as_they_are() -> None:
    goals = [{**GOAL, "of": "calm / plain"}, {**GOAL, "of": f"{POOLED} / plain"}]
    axes = [[{"name": "eps 3", "changes": {"training.epsilon": 3.0}}]]
    found = parse_sweep({**TABLE, "rows": [{"name": "calm", "goals": goals}], "axes": axes})
    assert [one.of for one in found.cases[0].goals] == ["calm, eps 3 / plain", f"{POOLED} / plain"]


@pytest.mark.parametrize("path", sorted((Path(redteam.__file__).parent / "scenarios").rglob("*.toml")), ids=str)
def test_every_shipped_sweep_can_be_read(path: Path) -> None:
    assert read_sweep(path).cells


@pytest.mark.parametrize(
    "text",
    ["", '{"metrics": {"accuracy": 0.', "[]", "3", "{}", '{"metrics": 3}', '{"metrics": {}, "silos": 3}', "\xff"],
)
def test_a_damaged_result_is_named_with_what_to_do(text: str, tmp_path: Path) -> None:
    plan, cells = parse_sweep(TABLE), Cells(tmp_path)
    path = tmp_path / f"{plan.cells[0].scenario.digest}.json"
    path.write_bytes(text.encode("latin-1"))
    for use in (cells.metrics, cells.honest):
        with pytest.raises(
            BadDataFile, match=r"no whole result of a cell: delete it and run `concordat-redteam sweep`"
        ):
            use(plan.cells[0].scenario)
    with pytest.raises(BadDataFile, match=path.name):
        entries(plan, cells)
