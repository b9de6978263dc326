"""Every phase times every record: what the table omits must raise."""

from __future__ import annotations

from typing import Any

import pytest

from protos.errors import RemoteProtocolError
from protos.messages import (
    Adoption,
    Answers,
    Attribution,
    Commit,
    Counts,
    Deal,
    FindAnswers,
    KeyCheck,
    Opening,
    Refusal,
    SearchReport,
    TraceOpening,
)
from protos.records import (
    BODIES,
    Attributed,
    Challenge,
    Clean,
    CountsRecord,
    DealRecord,
    Decision,
    Epoch,
    Finds,
    Finish,
    Genesis,
    Member,
    Openings,
    Outcome,
    Plan,
    Recheck,
    Roster,
    Search,
    Searched,
    Sum,
    Trace,
    TraceOpenings,
)
from protos.rounds import TABLE, Phase, follow

# Written out by hand from the protocol's text, one line per arrow.
ARROWS: dict[tuple[Phase, Any], Phase] = {
    (Phase.EMPTY, Genesis): Phase.ENROLLING,
    (Phase.ENROLLING, Roster): Phase.DEALING,
    (Phase.DEALING, DealRecord): Phase.CONFIRMING,
    (Phase.DEALING, Roster): Phase.DEALING,
    (Phase.CONFIRMING, Epoch): Phase.COUNTING,
    (Phase.CONFIRMING, Roster): Phase.DEALING,
    (Phase.COUNTING, CountsRecord): Phase.IDLE,
    (Phase.COUNTING, Roster): Phase.DEALING,
    (Phase.IDLE, Plan): Phase.COMMITTING,
    (Phase.IDLE, Roster): Phase.DEALING,
    (Phase.IDLE, Finish): Phase.FINISHED,
    (Phase.IDLE, Search): Phase.SEARCHING,
    (Phase.SEARCHING, Searched): Phase.FIND_CHECKING,
    (Phase.SEARCHING, Clean): Phase.IDLE,
    (Phase.FIND_CHECKING, Finds): Phase.ATTRIBUTING,
    (Phase.FIND_CHECKING, Clean): Phase.IDLE,
    (Phase.ATTRIBUTING, Attributed): Phase.IDLE,
    (Phase.COMMITTING, Challenge): Phase.OPENING,
    (Phase.COMMITTING, Outcome): Phase.IDLE,
    (Phase.OPENING, Openings): Phase.CHECKING,
    (Phase.OPENING, Outcome): Phase.IDLE,
    (Phase.CHECKING, Recheck): Phase.RECHECKING,
    (Phase.CHECKING, Decision): Phase.SUMMING,
    (Phase.CHECKING, Outcome): Phase.IDLE,
    (Phase.RECHECKING, Decision): Phase.SUMMING,
    (Phase.RECHECKING, Outcome): Phase.IDLE,
    (Phase.SUMMING, Sum): Phase.VERIFYING,
    (Phase.SUMMING, Outcome): Phase.IDLE,
    (Phase.VERIFYING, Trace): Phase.TRACE_OPENING,
    (Phase.VERIFYING, Outcome): Phase.IDLE,
    (Phase.TRACE_OPENING, TraceOpenings): Phase.TRACE_CHECKING,
    (Phase.TRACE_OPENING, Outcome): Phase.IDLE,
    (Phase.TRACE_CHECKING, Outcome): Phase.IDLE,
}
AWAITED = {
    Phase.DEALING: {Deal},
    Phase.CONFIRMING: {KeyCheck},
    Phase.COUNTING: {Counts},
    Phase.COMMITTING: {Commit},
    Phase.OPENING: {Opening},
    Phase.CHECKING: {Answers},
    Phase.RECHECKING: {Answers},
    Phase.VERIFYING: {Adoption, Refusal},
    Phase.TRACE_OPENING: {TraceOpening},
    Phase.TRACE_CHECKING: {Answers},
    Phase.SEARCHING: {SearchReport},
    Phase.FIND_CHECKING: {FindAnswers},
    Phase.ATTRIBUTING: {Attribution},
}


@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.value)
@pytest.mark.parametrize("body", BODIES.values(), ids=lambda body: body.__name__)
def test_record_follows_exactly_where_the_protocol_says(phase: Phase, body: Any) -> None:
    expected = ARROWS.get((phase, body))
    if body is Member and phase not in (Phase.EMPTY, Phase.FINISHED):
        expected = phase
    if expected is not None:
        assert follow(phase, body) is expected
        return
    with pytest.raises(RemoteProtocolError, match=f"{body.KIND} cannot follow in phase {phase.value}"):
        follow(phase, body)


def test_every_phase_has_a_row_and_can_be_reached() -> None:
    assert set(TABLE) == set(Phase)
    assert {Phase.EMPTY, *ARROWS.values()} == set(Phase)


@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.value)
def test_phase_awaits_its_messages_and_has_a_deadline_exactly_then(phase: Phase) -> None:
    assert set(TABLE[phase].awaits) == AWAITED.get(phase, set())
    assert (TABLE[phase].deadline is not None) == (phase in AWAITED)


def test_only_one_sum_lies_between_two_plans() -> None:
    """From a sum no path leads to another one but through the end of the round."""
    reached, edge = set(), {Phase.VERIFYING}
    while edge:
        reached |= edge
        edge = {to for (start, body), to in ARROWS.items() if start in edge and body is not Outcome} - reached
    assert Phase.SUMMING not in reached
