"""Drift is repeated from the log: from earlier openings and recorded verdicts, and a false score does not verify."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from audit import replay
from audit.errors import InvalidRecord
from audit.files import LogFile
from audit.history import History
from defenses.drift import FEWEST_ROUNDS, RECENT
from protos.codec import decode, unpack
from protos.records import Decision, Judgement, Record, Score
from tests.integration.bench import bench
from tests.integration.federation import SILOS
from tests.integration.test_lying_silos import Padded, task_with_exact_output

pytestmark = pytest.mark.integration

ROUNDS = RECENT + FEWEST_ROUNDS
Scores = tuple[Score, ...]


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> tuple[History, Decision]:
    """The history before the last decision of a run that is just long enough for a past, and that decision."""
    directory: Path = tmp_path_factory.mktemp("drift")
    seats = {name: {"trainer": Padded} for name in SILOS}
    federation = bench(directory, seats, rounds=ROUNDS, toy=task_with_exact_output(ROUNDS))
    federation.run()
    federation.close()
    history = History()
    for data in LogFile(directory / "log.jsonl").records():
        body = unpack(Record, data).body
        if body["kind"] == Decision.KIND and body["round"] == ROUNDS:
            return history, decode(Decision, body)
        history.apply(data)
    raise AssertionError("no decision")


def drift_of(judgement: Judgement) -> list[Score]:
    return [one for one in judgement.scores if one.name == "drift"]


def test_drift_is_scored_for_whoever_has_a_past_and_replays_to_the_bit(last: tuple[History, Decision]) -> None:
    history, decision = last
    earlier = [one for view in history.rounds[:-1] if view.decision for one in view.decision.judgements]
    doubted = {one.silo for one in earlier if one.verdict != "retained"}
    assert not any(drift_of(one) for one in earlier)
    assert {one.silo for one in decision.judgements if drift_of(one)} == set(SILOS) - doubted
    assert replay.derive_decision(history, decision.checks) == decision
    replay.verify_decision(history, decision)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda one: (replace(one, value_micro=one.value_micro - 1000),), "drift cannot be repeated"),
        (lambda one: (replace(one, value_micro=one.value_micro + 9_000_000),), "drift cannot be repeated"),
        (lambda one: (), "list of scores"),
    ],
)
def test_false_or_missing_drift_is_refused(
    last: tuple[History, Decision], change: Callable[[Score], Scores], reason: str
) -> None:
    history, decision = last
    place = next(place for place, one in enumerate(decision.judgements) if drift_of(one))
    judgements = list(decision.judgements)
    judgements[place] = replace(
        judgements[place],
        scores=tuple(
            new for one in judgements[place].scores for new in (change(one) if one.name == "drift" else [one])
        ),
    )
    with pytest.raises(InvalidRecord, match=reason):
        replay.verify_decision(history, replace(decision, judgements=tuple(judgements)))
