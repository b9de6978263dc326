"""The root set as a file: the same examples come back, and what does not fit a task is refused."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from coordinator.errors import BadTask as NoTask
from coordinator.home import read_root
from protos.codec import pack, unpack
from protos.task import Confusion, Task
from silo import rootset, searching
from silo.cli import run
from silo.desk import SitOut
from silo.errors import BadData, BadTask
from silo.pack import pack_task
from silo.searcher import Root
from silo.workspace import Workspace
from tests.silo.examples import SPEC, description


def root(count: int = 9, inputs: int = 6, classes: int = 3) -> Root:
    random = np.random.default_rng(3)
    features = random.normal(size=(count, inputs)).astype(np.float32)
    return Root(features, np.arange(count, dtype=np.int64) % classes)


def test_file_gives_the_same_examples_back() -> None:
    made = root()
    again = rootset.from_bytes(rootset.to_bytes(made), 6)
    assert np.array_equal(again.features, made.features)
    assert np.array_equal(again.labels, made.labels)
    assert rootset.to_bytes(made)[:4] == made.features[0, 0].astype("<f4").tobytes()
    assert rootset.to_bytes(made)[-4:] == (2).to_bytes(4, "little")


@pytest.mark.parametrize("data", [b"", b"1", bytes(4 * 7 + 1)])
def test_file_of_another_length_is_refused(data: bytes) -> None:
    with pytest.raises(BadData, match="no records of 6 values and a label"):
        rootset.from_bytes(data, 6)


def test_task_pins_the_root_set_and_how_it_is_searched() -> None:
    task, _ = pack_task(description(search={"every": 3, "level": 0.05}), root())
    rule = task.search
    assert rule is not None
    assert rule.root == hashlib.sha256(rootset.to_bytes(root())).hexdigest()
    assert (rule.every, rule.level_micro, rule.success_micro) == (3, 50_000, 200_000)
    assert unpack(Task, pack(task)) == task


def test_task_without_a_root_set_has_no_search_and_one_form() -> None:
    task, _ = pack_task(description())
    assert task.search is None
    assert b'"search":null' in pack(task)


@pytest.mark.parametrize(
    ("search", "made", "error", "message"),
    [
        ({"every": 2}, None, BadTask, "a search needs public examples: say --root"),
        ({"often": 2}, root(), BadTask, "remove the unknown often"),
        (3, root(), BadTask, "search must be a table"),
        ({"every": 0}, root(), BadTask, "every: 0 is not within"),
        ({"referee": "No Name"}, root(), BadTask, "referee: 'No Name' has not the form"),
        ({"referee": 3}, root(), BadTask, r"search\.referee must be text"),
        ({}, root(inputs=5), BadData, "5 features, the model takes 6"),
        ({}, root(classes=2), BadData, "exactly the classes 0 to 2"),
        ({}, root(classes=4), BadData, "exactly the classes 0 to 2"),
    ],
)
def test_root_set_or_rule_that_does_not_fit_is_refused(
    search: object, made: Root | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pack_task(description(search=search), made)


def test_packed_root_set_is_what_the_coordinator_hands_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "spec.toml").write_text(SPEC.replace("[16, 4]", "[6, 3]"))
    np.savez(tmp_path / "public.npz", x=root().features, y=root().labels)
    out = tmp_path / "task"
    assert run(["task", "pack", str(tmp_path / "spec.toml"), str(out)]) == 0
    assert "Without --root nobody will search" in capsys.readouterr().out
    assert read_root(out, unpack(Task, (out / "task.json").read_bytes())) is None
    assert run(["task", "pack", str(tmp_path / "spec.toml"), str(out), "--root", str(tmp_path / "public.npz")]) == 0
    task = unpack(Task, (out / "task.json").read_bytes())
    assert read_root(out, task) == rootset.to_bytes(root())
    (out / "root.bin").write_bytes(b"other")
    with pytest.raises(NoTask, match="not the root set that the task pins"):
        read_root(out, task)


def test_silo_sits_out_where_the_task_misstates_which_classes_are_alike(tmp_path: Path) -> None:
    public = Root(np.zeros((9, 6), dtype=np.float32), np.arange(9, dtype=np.int64) % 3)
    packed, _ = pack_task(description(search={}), public)
    assert packed.search is not None
    assert packed.search.alike
    workspace = Workspace(tmp_path)
    workspace.save_root(rootset.to_bytes(public))

    def asked(task: Task) -> Root:
        desk, history = SimpleNamespace(workspace=workspace), SimpleNamespace(genesis=SimpleNamespace(task=task))
        return searching.root(desk, history)  # type: ignore[arg-type]

    assert np.array_equal(asked(packed).labels, public.labels)
    for said in ((), packed.search.alike[1:], (*packed.search.alike, Confusion(7, 8))):
        with pytest.raises(SitOut, match="calls other classes alike than its root set does; have it packed anew"):
            asked(replace(packed, search=replace(packed.search, alike=said)))
