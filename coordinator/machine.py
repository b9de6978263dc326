"""The coordinator's half of the round: which record is due, as a pure function of log, messages and clock.

There are no sockets, files or clocks here. Everything the coordinator may say follows from its log, the messages
taken since the last record, and `Facts`; so a restart after kill -9 goes on from the same point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from audit import attributions, confirming, replay, searches, turns, votes
from audit.errors import RejectedSubmission
from audit.history import History, nonce_hash
from audit.plans import derive_plan, majority, member_names, quorum_of
from audit.submissions import verify_submission
from crypto.errors import CryptoError
from crypto.identity import verify
from defenses.errors import DefenseError
from protos.codec import decode
from protos.errors import MalformedMessage
from protos.messages import Adoption, KeyCheck, Refusal, Signed
from protos.records import (
    Challenge,
    CountsRecord,
    DealRecord,
    Epoch,
    Finish,
    Openings,
    Outcome,
    Recheck,
    Roster,
    Sum,
    Trace,
    TraceOpenings,
)
from protos.rounds import TABLE, Phase

Pending = Mapping[str, Signed]


@dataclass(frozen=True)
class Facts:
    """What the machine cannot know from the log.

    `expired`: the phase's deadline is past. `start`: the operator asked for (re)keying. `present`: silos heard of
    lately. `nonce`: 32 fresh bytes in hex, the same for one round across restarts. `sum_root`: Merkle root of the sum.
    """

    expired: bool
    start: bool
    present: frozenset[str]
    nonce: str
    sum_root: str | None


def accept(history: History, pending: Pending, signed: Signed) -> bool:
    """Check a silo's message; True if it is new, False if it is the one already taken (a retry).

    Raises:
        RejectedSubmission: says what does not fit; nothing has changed.
    """
    known = pending.get(signed.signer)
    if known == signed:
        return False
    if signed.signer not in turns.awaited(history):
        raise RejectedSubmission(f"nothing is awaited from {signed.signer} in phase {history.phase.value}")
    if known is not None:
        raise RejectedSubmission("a different message for this step was taken before and stands")
    cls = message_class(history.phase, signed)
    try:
        body = verify(signed, history.signing_key(signed.signer), cls)
    except (CryptoError, MalformedMessage) as error:
        raise RejectedSubmission(str(error)) from error
    verify_submission(history, signed.signer, body)
    return True


def message_class(phase: Phase, signed: Signed) -> type[Any]:
    """The class that the phase awaits and the message claims; RejectedSubmission for another."""
    for cls in TABLE[phase].awaits:
        if signed.body.get("kind") == cls.KIND:
            return cls
    raise RejectedSubmission(f"phase {phase.value} does not await {str(signed.body.get('kind'))[:60]!r}")


def next_body(history: History, pending: Pending, facts: Facts) -> Any | None:
    """The body of the record that is due now, or None while the phase has to wait."""
    rule = _RULES.get(history.phase)
    if rule is None:
        return None
    messages = tuple(pending[silo] for silo in sorted(pending))
    complete = set(pending) >= set(turns.awaited(history))
    if TABLE[history.phase].awaits and not complete and not facts.expired:
        return None
    try:
        return rule(history, messages, facts)
    except DefenseError as error:
        return _void(history, f"no decision is possible: {error}"[:400])


def _enrolling(history: History, messages: tuple[Signed, ...], facts: Facts) -> Any | None:
    return _roster(history, member_names(history)) if facts.start else None


def _roster(history: History, members: tuple[str, ...]) -> Roster | None:
    if len(members) < history.genesis.policy.quorum_minimum:
        return None
    again = history.phase in (Phase.DEALING, Phase.CONFIRMING, Phase.COUNTING)
    attempt = history.roster.attempt + 1 if again and history.roster else 1
    epoch = history.epoch + 1
    return Roster(epoch, attempt, members, members[(epoch + attempt - 2) % len(members)])


def _again_without(history: History, silent: set[str]) -> Roster | None:
    """Another steward; silent members are left out where enough remain, and may join the next epoch."""
    assert history.roster is not None
    members = history.roster.members
    left = tuple(silo for silo in members if silo not in silent)
    return _roster(history, left) or _roster(history, members)


def _dealing(history: History, messages: tuple[Signed, ...], facts: Facts) -> Any | None:
    return DealRecord(messages[0]) if messages else _again_without(history, set())


def _confirming(history: History, messages: tuple[Signed, ...], facts: Facts) -> Any | None:
    assert history.roster is not None
    silent = set(history.roster.members) - {signed.signer for signed in messages}
    checks = [decode(KeyCheck, signed.body) for signed in messages]
    agreed = len({check.value for check in checks}) == 1
    sealed = {check.sealed for check in checks if check.sealed is not None}
    if silent or not agreed or len(sealed) > 1:
        return _again_without(history, silent)
    return Epoch(history.roster.epoch, messages)


def _counting(history: History, messages: tuple[Signed, ...], facts: Facts) -> Any | None:
    silent = set(turns.awaited(history)) - {signed.signer for signed in messages}
    return _again_without(history, silent) if silent else CountsRecord(messages)


def _idle(history: History, messages: tuple[Signed, ...], facts: Facts) -> Any | None:
    if facts.start:
        return _roster(history, member_names(history))
    if history.halted or not history.epoch:
        return None
    present = [silo for silo in history.active if silo in facts.present]
    enough = len(present) >= quorum_of(history.genesis.policy, len(history.active))
    if searches.due(history):
        return searches.derive_search(history) if enough else None
    if len(history.rounds) >= history.genesis.task.rounds:
        return Finish(*searches.releasable(history))
    return derive_plan(history, nonce_hash(facts.nonce)) if enough else None


def _committing(history: History, messages: tuple[Signed, ...], facts: Facts) -> Any | None:
    plan = history.round.plan
    if len(messages) < plan.quorum:
        late = _missing(plan.silos, messages)
        return _void(history, f"{len(messages)} commitments are fewer than the quorum {plan.quorum}", late=late)
    return Challenge(plan.round, facts.nonce, messages, _missing(plan.silos, messages))


def _opening(history: History, messages: tuple[Signed, ...], facts: Facts) -> Any | None:
    view = history.round
    if len(messages) < view.plan.quorum:
        late = _missing(view.commits, messages)
        return _void(history, f"{len(messages)} openings are fewer than the quorum {view.plan.quorum}", late=late)
    return Openings(view.plan.round, messages, _missing(view.commits, messages))


def _checking(history: History, messages: tuple[Signed, ...], facts: Facts) -> Any | None:
    view = history.round
    unclear = votes.to_recheck(votes.ballots(messages), view.openings)
    if unclear:
        return Recheck(view.plan.round, messages, unclear)
    return replay.derive_decision(history, messages)


def _summing(history: History, messages: tuple[Signed, ...], facts: Facts) -> Any | None:
    view = history.round
    if len(view.weights) < view.plan.privacy_minimum:
        return _void(history, "fewer retained silos than the privacy minimum")
    return Sum(view.plan.round, facts.sum_root) if facts.sum_root else None


def _verifying(history: History, messages: tuple[Signed, ...], facts: Facts) -> Any | None:
    view = history.round
    adoptions = tuple(signed for signed in messages if signed.body["kind"] == Adoption.KIND)
    refusals = tuple(signed for signed in messages if signed.body["kind"] == Refusal.KIND)
    models = [decode(Adoption, signed.body).model for signed in adoptions]
    model = votes.most_common(models)
    if models.count(model) >= majority(view.plan):
        late = _missing(view.plan.silos, messages)
        return Outcome(view.plan.round, "adopted", model, adoptions, refusals, (), late, (), "none", "")
    if refusals:
        return Trace(view.plan.round, adoptions, refusals)
    late = _missing(view.plan.silos, adoptions)
    return _void(history, "too few silos verified the sum in time", adoptions, late)


def _trace_opening(history: History, messages: tuple[Signed, ...], facts: Facts) -> Any | None:
    view = history.round
    return TraceOpenings(view.plan.round, messages, _missing(view.weights, messages))


def _trace_checking(history: History, messages: tuple[Signed, ...], facts: Facts) -> Any | None:
    return replay.derive_void(history, messages)


def _searching(history: History, messages: tuple[Signed, ...], facts: Facts) -> Any | None:
    return searches.derive_reported(history, messages, _missing(turns.awaited(history), messages))


def _find_checking(history: History, messages: tuple[Signed, ...], facts: Facts) -> Any | None:
    return confirming.derive_checked(history, messages, _missing(turns.awaited(history), messages))


def _attributing(history: History, messages: tuple[Signed, ...], facts: Facts) -> Any | None:
    return attributions.derive(history, messages, _missing(turns.awaited(history), messages))


def _void(history: History, reason: str, adoptions: tuple[Signed, ...] = (), late: tuple[str, ...] = ()) -> Outcome:
    view = history.round
    return Outcome(view.plan.round, "void", history.model, adoptions, (), (), late, (), "none", reason)


def _missing(silos: Any, messages: tuple[Signed, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(silos) - {signed.signer for signed in messages}))


_RULES = {
    Phase.ENROLLING: _enrolling,
    Phase.DEALING: _dealing,
    Phase.CONFIRMING: _confirming,
    Phase.COUNTING: _counting,
    Phase.IDLE: _idle,
    Phase.COMMITTING: _committing,
    Phase.OPENING: _opening,
    Phase.CHECKING: _checking,
    Phase.RECHECKING: lambda history, messages, facts: replay.derive_decision(history, messages),
    Phase.SUMMING: _summing,
    Phase.VERIFYING: _verifying,
    Phase.TRACE_OPENING: _trace_opening,
    Phase.TRACE_CHECKING: _trace_checking,
    Phase.SEARCHING: _searching,
    Phase.FIND_CHECKING: _find_checking,
    Phase.ATTRIBUTING: _attributing,
}
