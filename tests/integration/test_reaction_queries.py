"""How often a lying coordinator may ask silos about a sum of its own making before operators look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coordinator.errors import StoreError
from protos.codec import unpack
from protos.messages import Refusal, Signed, TraceOpening
from protos.rounds import Phase
from tests.integration.bench import Bench, bench, closed, outcomes
from tests.integration.federation import SILOS
from tests.integration.test_lying_coordinator import FalseSum, asks_for_the_key

DEAF_TO = {"refusals": Refusal.KIND, "one trace opening": TraceOpening.KIND}


class Deaf(FalseSum):
    """Every sum is crafted; messages of one kind are read and never taken, as if the network had lost them."""

    lie = staticmethod(asks_for_the_key)
    rounds = 99
    deaf_to = ""
    heard: list[str]

    def submit(self, peer: str, message: bytes) -> tuple[str, ...]:
        body = unpack(Signed, message).body
        if body["kind"] == Refusal.KIND:
            type(self).heard.append(f"{peer} {len(self.history.rounds)} {body['check']}")
        if body["kind"] == type(self).deaf_to and (peer == "bob" or body["kind"] == Refusal.KIND):
            raise StoreError("lost")
        return super().submit(peer, message)


def _deaf(tmp_path: Path, kind: str) -> tuple[Bench, Any]:
    service = type("Deaf_", (Deaf,), {"deaf_to": DEAF_TO[kind], "heard": []})
    return bench(tmp_path, rounds=9, service=service), service


@pytest.mark.parametrize("kind", sorted(DEAF_TO))
def test_coordinator_that_never_takes_the_answers_gets_three_sums_in_a_key_epoch(tmp_path: Path, kind: str) -> None:
    federation, service = _deaf(tmp_path, kind)
    history = federation.until(closed(3))
    federation.turns(6)
    assert [(one.result, one.fault, one.convicted) for one in outcomes(history)] == [("void", "none", ())] * 3
    assert history.halted
    assert history.phase is Phase.IDLE
    for name in SILOS:
        assert "Halted: the sum of round 3 was false, or too many sums failed" in federation.said(name)
    # Every silo said one name about each sum, and always the same: nobody's number.
    assert sorted(set(service.heard)) == sorted(f"{name} {number} whole" for name in SILOS for number in (1, 2, 3))


def test_count_begins_again_only_with_other_keys(tmp_path: Path) -> None:
    federation, _ = _deaf(tmp_path, "refusals")
    federation.until(lambda state: len(state.rounds) == 2)
    federation.service.start()
    history = federation.until(lambda state: state.epoch == 2)
    assert [one.result for one in outcomes(history)] == ["void"] * 2
    assert history.untraced == 0
    secrets = {session.workspace.load_secret(2) for session in federation.sessions.values()}
    assert len(secrets) == 1
    assert None not in secrets
    federation.turns(2)
    assert all(session.workspace.load_secret(1) is None for session in federation.sessions.values())
