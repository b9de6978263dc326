"""Silos that share their reading of the log come to the states that each would come to alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from audit.errors import BrokenLog, InvalidRecord
from audit.files import LogFile
from audit.history import History
from redteam.entropy import SeededEntropy
from redteam.plain import PlainSum
from redteam.shared import Reader
from redteam.simulator import Seat, Simulation
from tests.integration.federation import SILOS, policy, records, task

pytestmark = pytest.mark.integration


def log_of(directory: Path) -> list[bytes]:
    """The log of a short run in which all silos share a reader."""
    seats = {name: Seat(records(index), scheme=PlainSum) for index, name in enumerate(SILOS)}
    simulation = Simulation(directory, *task(2), policy(), seats, SeededEntropy(1), new_history=Reader())
    history = simulation.run()
    assert all(session.history.chain.digest == history.chain.digest for session in simulation.sessions.values())
    simulation.close()
    return list(LogFile(directory / "log.jsonl").records())


def facts(history: History) -> dict[str, Any]:
    """All of a state."""
    own = {name: value for name, value in vars(history).items() if name not in ("chain", "packing", "_known")}
    return {**own, "digest": history.chain.digest, "size": history.chain.size}


def test_every_state_of_a_shared_reading_is_that_of_a_reading_alone(tmp_path: Path) -> None:
    log, reader = log_of(tmp_path), Reader()
    alone, first, second, late = History(), reader(), reader(), reader()
    states = []
    for data in log:
        alone.apply(data)
        assert first.apply(data) == second.apply(data)
        states.append(copy.deepcopy(facts(alone)))
        assert facts(first) == states[-1]
        assert facts(second) == states[-1]
    # What the others did since must not show in a state that is taken over late.
    for data, state in zip(log, states, strict=True):
        late.apply(data)
        assert facts(late) == state


def test_a_record_that_another_silo_took_does_not_follow_elsewhere(tmp_path: Path) -> None:
    log, reader = log_of(tmp_path), Reader()
    first, behind = reader(), reader()
    for data in log[:4]:
        first.apply(data)
    for data in log[:2]:
        behind.apply(data)
    with pytest.raises(BrokenLog, match="missing"):
        behind.apply(log[3])
    with pytest.raises((BrokenLog, InvalidRecord)):
        behind.apply(log[2].replace(b"member", b"nobody"))
    behind.apply(log[2])
    assert behind.chain.size == 3
