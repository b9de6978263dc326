"""Global prototypes from a log: against plain numpy on the openings' bytes, and when there are none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from audit.files import LogFile
from audit.history import History, RoundView
from audit.prototypes import global_prototypes
from protos.codec import unpack
from protos.messages import Counts
from protos.records import Decision, Outcome, Plan, Record
from protos.task import MICRO, Budget, PrototypeRule
from redteam.plain import PlainSum
from redteam.simulator import Seat, Simulation
from tests.integration.federation import CLASSES, INPUTS, SILOS, policy, records, task

pytestmark = pytest.mark.integration

CLIP, NOISE, LEAST = 2.5, 0.5, 29
"""The least class count, by hand: 4 sqrt(2) * 5 = 28.3."""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Three adopted rounds; the first and the last release prototypes."""
    directory: Path = tmp_path_factory.mktemp("prototypes")
    toy, model = task()
    rule = PrototypeRule(round(CLIP * MICRO), round(NOISE * MICRO), 2)
    toy = replace(toy, prototypes=rule, budget=Budget(10**12, toy.budget.delta_nano))
    seats = {name: Seat(records(index, 200), scheme=PlainSum) for index, name in enumerate(SILOS)}
    run = Simulation(directory, toy, model, policy(fdr_micro=1), seats)
    run.run()
    run.close()
    return list(LogFile(directory / "log.jsonl").records())


def history_before(log: list[bytes], stop: Callable[[dict[str, object]], bool]) -> History:
    history = History()
    for data in log:
        if stop(unpack(Record, data).body):
            break
        history.apply(data)
    return history


def of_round(kind: str, number: int) -> Callable[[dict[str, object]], bool]:
    return lambda body: body["kind"] == kind and body["round"] == number


def whole(log: list[bytes]) -> History:
    return history_before(log, lambda body: False)


def expected(
    view: RoundView, counts: dict[str, Counts], voting: tuple[str, ...] = SILOS
) -> dict[int, NDArray[np.float64]]:
    """Class by class and silo by silo."""
    found = {}
    for label in range(CLASSES):
        votes = []
        for silo in voting:
            count, data = counts[silo].classes[label], view.openings[silo].prototypes
            assert data is not None
            if count >= LEAST:
                votes.append(np.frombuffer(data, "<i8").reshape(CLASSES, INPUTS)[label] / 1024 * CLIP / count)
        if len(votes) >= 3:
            median = np.median(np.array(votes), axis=0)
            found[label] = median * min(1.0, CLIP / np.linalg.norm(median))
    return found


def require_equal(history: History, wanted: dict[int, NDArray[np.float64]]) -> None:
    found = global_prototypes(history)
    assert found is not None
    assert found.centres.shape == (CLASSES, INPUTS)
    assert set(np.flatnonzero(found.known)) == set(wanted)
    for label in range(CLASSES):
        assert found.centres[label] == pytest.approx(wanted.get(label, np.zeros(INPUTS)), abs=1e-12)


def test_before_an_adopted_round_there_are_none(log: list[bytes]) -> None:
    assert global_prototypes(history_before(log, of_round(Plan.KIND, 1))) is None
    assert global_prototypes(history_before(log, of_round(Outcome.KIND, 1))) is None


def test_they_are_medians_of_the_last_adopted_round_with_prototypes(log: list[bytes]) -> None:
    for history, number in (
        (history_before(log, of_round(Plan.KIND, 2)), 1),
        (history_before(log, of_round(Decision.KIND, 3)), 1),
        (whole(log), 3),
    ):
        view = history.rounds[number - 1]
        wanted = expected(view, history.counts)
        assert len(wanted) == CLASSES
        require_equal(history, wanted)
        found = global_prototypes(history)
        assert found is not None
        assert found.round == number


def test_they_are_near_the_true_means_of_clipped_records(log: list[bytes]) -> None:
    found = global_prototypes(whole(log))
    assert found is not None
    rows = np.concatenate([records(index, 200).features for index in range(len(SILOS))])
    labels = np.concatenate([records(index, 200).labels for index in range(len(SILOS))])
    rows = rows * np.minimum(1, CLIP / np.linalg.norm(rows, axis=1, keepdims=True))
    for label in range(CLASSES):
        assert found.centres[label] == pytest.approx(rows[labels == label].mean(axis=0), abs=0.25)


def test_excluded_silo_has_no_vote_and_lowered_weight_still_has_a_whole_one(log: list[bytes]) -> None:
    history = whole(log)
    decision = history.round.decision
    assert decision is not None
    changed = {"bob": {"verdict": "excluded", "weight": 0}, "cyd": {"weight": 1}}
    judgements = tuple(replace(one, **changed.get(one.silo, {})) for one in decision.judgements)  # type: ignore[arg-type]
    history.round.decision = replace(decision, judgements=judgements)
    wanted = expected(history.round, history.counts, ("ada", "cyd", "dan", "eve"))
    assert not np.allclose(wanted[0], expected(history.round, history.counts)[0])
    require_equal(history, wanted)


@pytest.mark.parametrize("holders", [0, 1, 2, 3])
def test_class_needs_three_silos_that_hold_enough_of_it(log: list[bytes], holders: int) -> None:
    history = whole(log)
    for position, silo in enumerate(SILOS):
        counts = history.counts[silo]
        number = LEAST if position < holders else LEAST - 1
        history.counts[silo] = replace(counts, classes=(*counts.classes[:2], number))
    wanted = expected(history.round, history.counts)
    assert (2 in wanted) == (holders == 3)
    require_equal(history, wanted)


def test_void_round_is_passed_over(log: list[bytes]) -> None:
    history = whole(log)
    assert history.round.outcome is not None
    history.round.outcome = replace(history.round.outcome, result="void")
    require_equal(history, expected(history.rounds[0], history.counts))
    found = global_prototypes(history)
    assert found is not None
    assert found.round == 1


def test_a_minority_that_lies_without_bound_stays_between_honest_votes_and_within_the_clip_norm(
    log: list[bytes],
) -> None:
    history = whole(log)
    honest = ("ada", "bob", "cyd")
    votes = {
        silo: np.frombuffer(history.round.openings[silo].prototypes or b"", "<i8").reshape(CLASSES, INPUTS)
        / (1024 / CLIP)
        / np.array(history.counts[silo].classes)[:, None]
        for silo in honest
    }
    for silo in ("dan", "eve"):
        lie = np.full((CLASSES, INPUTS), 2**50, dtype="<i8").tobytes()
        history.round.openings[silo] = replace(history.round.openings[silo], prototypes=lie)
    found = global_prototypes(history)
    assert found is not None
    assert (np.linalg.norm(found.centres, axis=1) <= CLIP * (1 + 1e-12)).all()
    largest = np.max(list(votes.values()), axis=0)
    inside = np.linalg.norm(largest, axis=1) <= CLIP
    assert (found.centres[inside] <= largest[inside] + 1e-12).all()
    require_equal(history, expected(history.round, history.counts))
