"""The guide's example is run as it stands, and the tables name every rule."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from defenses import aggregation, registry
from defenses.decide import decide, verify_judgements
from defenses.evidence import rules_of
from tests.defenses.naive import exhibits, silo

DOCS = Path(__file__).parents[2] / "docs"


def example() -> str:
    (found,) = re.findall(r"```python\n(.*?)```", (DOCS / "adding-a-defense.md").read_text(encoding="utf-8"), re.DOTALL)
    return str(found)


def test_example_of_the_guide_is_a_defence_that_replays() -> None:
    assert len(example().splitlines()) < 60
    with registry.registered():
        exec(compile(example(), "docs/adding-a-defense.md", "exec"), {"__name__": "example"})
        setting, shown = exhibits(1, 7)
        shown[2] = replace(shown[2], output=50 * shown[2].output)
        judged = decide(setting, shown, "short-steps", {})
        verify_judgements(judged, "short-steps", rules_of(setting), {})
        assert judged[2].verdict == "excluded"
        assert "moves too far" in judged[2].reason
        assert sum(one.weight for one in judged) == setting.total_weight
        assert silo(2) == judged[2].silo
    assert "short-steps" not in registry.names()


@pytest.mark.parametrize("name", [*registry.names(), *registry.ARGUMENTS, *aggregation.names()])
def test_table_has_a_row_for_every_rule(name: str) -> None:
    assert f"| `{name}` |" in (DOCS / "defenses.md").read_text(encoding="utf-8")


def test_table_tells_what_a_policy_can_name() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|.*\| ([^|]*) \|$", (DOCS / "defenses.md").read_text(encoding="utf-8"), re.M)
    under = {name for name, last in rows if last.startswith("yes")}
    # Krum can be named, but the privacy minimum refuses its sums.
    assert under == set(registry.names()) - {"krum"}
