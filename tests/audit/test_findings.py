"""Facts about searches in words."""

from __future__ import annotations

from audit.findings import FindFacts, SearchFacts, support
from protos.search import Trigger
from protos.task import MICRO


def told(excuse: str = "") -> str:
    trigger = Trigger(0, None, bytes([255] + [0] * 7), bytes(8), 0, MICRO)
    find = FindFacts("f" * 64, trigger, ("ada",), MICRO // 2, 3, 1, 3, 3, (), excuse)
    return support(SearchFacts(5, "a" * 64, "finds", 4, (), 0, (find,), ()), find)


def test_support_says_for_how_many_silos_a_find_works() -> None:
    assert told() == "success 50%; borne out by 3 silos, not by 1"


def test_support_says_why_a_find_convicts_nobody() -> None:
    assert told("it is large").endswith("; it convicts nobody, as it is large")
