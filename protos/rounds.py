"""THE table of the round: which record may follow which, and what each phase awaits from whom.

The coordinator's machine, the silo's machine and the auditor all read this table and have no other. A phase begins
with a record in the log and ends with the next one; what it awaits is a message that silos sign (or nothing).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from protos import messages, records
from protos.errors import RemoteProtocolError


class Phase(Enum):
    """Where a federation stands, as a function of its log alone."""

    EMPTY = "empty"
    ENROLLING = "enrolling"
    DEALING = "dealing"
    CONFIRMING = "confirming"
    COUNTING = "counting"
    IDLE = "idle"
    COMMITTING = "committing"
    OPENING = "opening"
    CHECKING = "checking"
    RECHECKING = "rechecking"
    SUMMING = "summing"
    VERIFYING = "verifying"
    TRACE_OPENING = "trace-opening"
    TRACE_CHECKING = "trace-checking"
    SEARCHING = "searching"
    FIND_CHECKING = "find-checking"
    ATTRIBUTING = "attributing"
    FINISHED = "finished"


@dataclass(frozen=True)
class Row:
    """One phase: the messages it awaits, the plan's deadline that bounds it, and the records that end it."""

    awaits: tuple[type[Any], ...]
    deadline: str | None
    leaves: dict[type[Any], Phase]


TABLE: dict[Phase, Row] = {
    Phase.EMPTY: Row((), None, {records.Genesis: Phase.ENROLLING}),
    Phase.ENROLLING: Row((), None, {records.Roster: Phase.DEALING}),
    Phase.DEALING: Row(
        (messages.Deal,), "open_ms", {records.DealRecord: Phase.CONFIRMING, records.Roster: Phase.DEALING}
    ),
    Phase.CONFIRMING: Row(
        (messages.KeyCheck,), "open_ms", {records.Epoch: Phase.COUNTING, records.Roster: Phase.DEALING}
    ),
    Phase.COUNTING: Row(
        (messages.Counts,), "commit_ms", {records.CountsRecord: Phase.IDLE, records.Roster: Phase.DEALING}
    ),
    Phase.IDLE: Row(
        (),
        None,
        {
            records.Plan: Phase.COMMITTING,
            records.Search: Phase.SEARCHING,
            records.Roster: Phase.DEALING,
            records.Finish: Phase.FINISHED,
        },
    ),
    Phase.COMMITTING: Row(
        (messages.Commit,), "commit_ms", {records.Challenge: Phase.OPENING, records.Outcome: Phase.IDLE}
    ),
    Phase.OPENING: Row((messages.Opening,), "open_ms", {records.Openings: Phase.CHECKING, records.Outcome: Phase.IDLE}),
    Phase.CHECKING: Row(
        (messages.Answers,),
        "check_ms",
        {records.Recheck: Phase.RECHECKING, records.Decision: Phase.SUMMING, records.Outcome: Phase.IDLE},
    ),
    Phase.RECHECKING: Row(
        (messages.Answers,), "check_ms", {records.Decision: Phase.SUMMING, records.Outcome: Phase.IDLE}
    ),
    Phase.SUMMING: Row((), None, {records.Sum: Phase.VERIFYING, records.Outcome: Phase.IDLE}),
    Phase.VERIFYING: Row(
        (messages.Adoption, messages.Refusal),
        "verify_ms",
        {records.Trace: Phase.TRACE_OPENING, records.Outcome: Phase.IDLE},
    ),
    Phase.TRACE_OPENING: Row(
        (messages.TraceOpening,), "open_ms", {records.TraceOpenings: Phase.TRACE_CHECKING, records.Outcome: Phase.IDLE}
    ),
    Phase.TRACE_CHECKING: Row((messages.Answers,), "check_ms", {records.Outcome: Phase.IDLE}),
    Phase.SEARCHING: Row(
        (messages.SearchReport,), "commit_ms", {records.Searched: Phase.FIND_CHECKING, records.Clean: Phase.IDLE}
    ),
    Phase.FIND_CHECKING: Row(
        (messages.FindAnswers,), "commit_ms", {records.Finds: Phase.ATTRIBUTING, records.Clean: Phase.IDLE}
    ),
    Phase.ATTRIBUTING: Row((messages.Attribution,), "commit_ms", {records.Attributed: Phase.IDLE}),
    Phase.FINISHED: Row((), None, {}),
}


def follow(phase: Phase, body: type[Any]) -> Phase:
    """The phase after a record with a body of class `body`. Enrolment (`Member`) is possible at any time.

    Raises:
        RemoteProtocolError: where the table has no such transition; the log is not a run of this protocol.
    """
    if body is records.Member and phase not in (Phase.EMPTY, Phase.FINISHED):
        return phase
    try:
        return TABLE[phase].leaves[body]
    except KeyError:
        raise RemoteProtocolError(f"a record {body.KIND} cannot follow in phase {phase.value}") from None
