"""One search for all silos of a simulation finds what each would find by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protos.search import Trigger
from redteam import shared_search
from redteam.scenario import parse
from redteam.shared_search import SharedSearcher, shared_searcher
from redteam.world import build
from silo.searcher import Root

MODEL, OTHER = np.zeros(3, dtype=np.float32), np.ones(3, dtype=np.float32)
ROOT = Root(np.zeros((2, 4), dtype=np.float32), np.array([0, 1]))
TRIGGER, FLIP = Trigger(1, None, b"\xff" * 4, b"\xff" * 4, 0, 1), Trigger(1, 0, b"", b"", 0, 1)


class Counting:
    """A searcher whose answers name the model, and that counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def search(self, model: Any, root: Root, suspected: frozenset[int] = frozenset()) -> tuple[Trigger, ...]:
        self.asked += 1
        return (TRIGGER,) * (1 + len(suspected)) if model[0] else (FLIP,)

    def success(self, model: Any, root: Root, trigger: Trigger) -> int:
        self.asked += 1
        return int(model[0]) + 10 * trigger.flip + 100 * len(root.labels)

    def directions(self, model: Any, root: Root, trigger: Trigger, even_blind: bool = False) -> Any:
        self.asked += 1
        return np.full((2, 3), float(self.success(model, root, trigger)) + even_blind)


def test_every_question_is_asked_once_and_its_answer_is_the_searchers_own() -> None:
    inner, alone = Counting(), Counting()
    shared = SharedSearcher(inner)
    smaller = Root(ROOT.features[:1], ROOT.labels[:1])
    for _ in range(3):
        for model in (MODEL, OTHER):
            for suspected in (frozenset[int](), frozenset({1})):
                assert shared.search(model, ROOT, suspected) == alone.search(model, ROOT, suspected)
            for trigger in (TRIGGER, FLIP):
                for root in (ROOT, smaller):
                    assert shared.success(model, root, trigger) == alone.success(model, root, trigger)
                    for blind in (False, True):
                        mine, its = (one.directions(model, root, trigger, blind) for one in (shared, alone))
                        assert (mine == its).all()
    assert inner.asked * 3 == alone.asked


def test_oldest_answers_are_forgotten_and_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_search, "_KEPT", 2)
    inner = Counting()
    shared = SharedSearcher(inner)
    for number in (0, 1, 2, 0):
        shared.search(np.full(3, number, dtype=np.float32), ROOT)
    assert inner.asked == 4


@pytest.mark.torch
def test_all_silos_of_a_task_get_the_same_searcher() -> None:
    task = build(parse({"model": {"kind": "linear"}, "engine": {"search": True}}), Path()).task
    assert task.search is not None
    make = shared_searcher()
    assert make(task) is make(task)
    assert shared_searcher()(task) is not make(task)
