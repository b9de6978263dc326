"""The example of docs/adding-an-attack.md runs as it stands."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from redteam.attacks.catalogue import ATTACKS
from tests.redteam.test_parts import context

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "adding-an-attack.md"


def test_the_guides_example_runs_and_does_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(blocks) == 1
    assert len(blocks[0].splitlines()) < 60
    module = ModuleType("guide")
    monkeypatch.setitem(sys.modules, "guide", module)  # dataclasses look their module up
    exec(compile(blocks[0], str(GUIDE), "exec"), module.__dict__)

    first, second = module.sent
    training, count = module.task.training, 90
    noise = context(np.ones((1, 2)), training=training, count=count).noise_std * np.sqrt(first.size)
    assert np.linalg.norm(first) == pytest.approx(2 * noise)
    assert np.linalg.norm(second) == pytest.approx(2 * noise)
    assert (module.tested.holdout_labels == 1).all()
    assert len(module.tested.holdout_labels) == 30
    random = np.random.default_rng(0).normal(size=8)
    turned = [
        module.Sway().send(random, context(np.ones((1, 8)), training=training, round=number)) for number in (1, 2)
    ]
    np.testing.assert_allclose(turned[0], -turned[1])


def test_the_table_has_a_row_for_every_attack_and_no_other() -> None:
    table = (GUIDE.parent / "attacks.md").read_text()
    assert set(re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)) == set(ATTACKS)
