"""Facts about searches in words."""

from __future__ import annotations

import pytest

from audit.findings import FindFacts, SearchFacts, support
from protos.search import Trigger
from protos.task import MICRO


def told(inputs: int = 1, natural: bool = False, few_classes: bool = False) -> str:
    trigger = Trigger(0, None, bytes([255] * inputs + [0] * (8 - inputs)), bytes(8), 0, MICRO)
    find = FindFacts("f" * 64, trigger, ("ada",), MICRO // 2, 3, 1, 3, 3, (), natural)
    return support(SearchFacts(5, "a" * 64, "finds", 4, (), 0, (find,), (), few_classes), find)


def test_support_says_for_how_many_silos_a_find_works() -> None:
    assert told() == "success 50%; borne out by 3 silos, not by 1"


@pytest.mark.parametrize(
    ("find", "why"),
    [
        ({"natural": True}, "public records show these classes as alike"),
        ({"inputs": 3}, "it covers more than a quarter of the input"),
        ({"few_classes": True, "inputs": 3, "natural": True}, "there is no third class to compare with"),
    ],
)
def test_support_says_why_a_find_convicts_nobody(find: dict[str, int], why: str) -> None:
    assert told(**find).endswith(f"; it convicts nobody, as {why}")  # type: ignore[arg-type]
