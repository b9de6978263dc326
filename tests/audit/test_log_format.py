"""The document of the log's format names what the code has."""

import dataclasses
from pathlib import Path

import pytest

from protos import messages, search, task
from protos.records import BODIES, Case, Confirmed, Head, Judgement, Part, Score
from protos.rounds import TABLE, Phase, follow

TEXT = (Path(__file__).parents[2] / "docs" / "log-format.md").read_text()
SIGNED = [value for value in vars(messages).values() if isinstance(value, type) and hasattr(value, "KIND")]
PARTS = [task.Task, task.Policy, task.Layout, task.Training, task.Deadlines, messages.Receipt, messages.Charge]
PARTS += [task.PrototypeRule, task.SearchRule, search.Trigger, messages.Find, messages.FindAnswer, messages.Projections]


@pytest.mark.parametrize("cls", [*BODIES.values(), *SIGNED, *PARTS, Head, Judgement, Score, Confirmed, Case, Part])
def test_kind_and_fields_are_documented(cls: type) -> None:
    kind = getattr(cls, "KIND", None)
    assert kind is None or f"`{kind}`" in TEXT
    assert [field.name for field in dataclasses.fields(cls) if f"`{field.name}`" not in TEXT] == []


@pytest.mark.parametrize("phase", list(Phase))
def test_order_is_documented(phase: Phase) -> None:
    row = next(line for line in TEXT.splitlines() if line.startswith(f"| {phase.value} |"))
    allowed = {f"{cls.KIND.split('/')[1]} ({follow(phase, cls).value})" for cls in TABLE[phase].leaves}
    documented = {item.strip() for item in row.split("|")[2].split(",")}
    assert documented == (allowed or {"nothing"})
