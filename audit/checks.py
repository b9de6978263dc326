"""What each kind of record must fulfil, given the history before it. Every check raises and changes nothing.

A check here is made by the coordinator before it publishes, by every silo when it reads, and by the auditor.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from audit import attributions, confirming, replay, searches, submissions, turns, votes
from audit.errors import InvalidRecord, RejectedSubmission
from audit.plans import derive_plan, majority, member_names
from crypto.errors import CryptoError
from crypto.identity import verify
from protos.errors import MalformedMessage
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
    Signed,
    TraceOpening,
)
from protos.records import (
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
from protos.rounds import Phase

if TYPE_CHECKING:
    from audit.history import History


def require(condition: bool, message: str) -> None:
    """Raise InvalidRecord with `message` unless the condition holds."""
    if not condition:
        raise InvalidRecord(message)


def open_all(history: History, signed: tuple[Signed, ...], cls: type[Any], who: tuple[str, ...]) -> dict[str, Any]:
    """Verified bodies by silo; they must be sorted, single, signed, and from `who`."""
    names = [item.signer for item in signed]
    require(names == sorted(set(names)), "signed messages must be sorted by silo, one each")
    require(set(names) <= set(who), f"{sorted(set(names) - set(who))} do not take part")
    try:
        return {item.signer: verify(item, history.signing_key(item.signer), cls) for item in signed}
    except (CryptoError, MalformedMessage) as error:
        raise InvalidRecord(str(error)) from error


def _submitted(history: History, signed: tuple[Signed, ...], cls: type[Any], who: tuple[str, ...]) -> dict[str, Any]:
    bodies = open_all(history, signed, cls, who)
    for silo, body in bodies.items():
        try:
            submissions.verify_submission(history, silo, body)
        except RejectedSubmission as error:
            raise InvalidRecord(f"{silo}: {error}") from error
    return bodies


def _genesis(history: History, body: Genesis) -> None:
    require(body.policy.floor_micro <= body.policy.cap_micro, "the floor is above the cap")


def _member(history: History, body: Member) -> None:
    require(body.name not in history.members, f"{body.name} is enrolled already")
    keys = {member.signing_key for member in history.members.values()}
    require(body.signing_key not in keys, "another silo is enrolled with this signing key")


def _roster(history: History, body: Roster) -> None:
    minimum = history.genesis.policy.quorum_minimum
    require(list(body.members) == sorted(set(body.members)), "members must be sorted, one each")
    require(set(body.members) <= set(member_names(history)), "only enrolled, unconvicted silos can be members")
    require(len(body.members) >= minimum, f"{len(body.members)} members are fewer than the quorum minimum {minimum}")
    require(body.epoch == history.epoch + 1, f"the next key epoch is {history.epoch + 1}")
    previous = history.roster.attempt if history.phase in _KEYING and history.roster else 0
    require(body.attempt == previous + 1, f"this is attempt {previous + 1}")
    require(body.steward in body.members, "the steward must be a member")


_KEYING = (Phase.DEALING, Phase.CONFIRMING, Phase.COUNTING)


def _deal(history: History, body: DealRecord) -> None:
    assert history.roster is not None
    require(body.deal.signer == history.roster.steward, "the deal is not by the steward")
    _submitted(history, (body.deal,), Deal, history.roster.members)


def _epoch(history: History, body: Epoch) -> None:
    assert history.roster is not None
    values = _submitted(history, body.checks, KeyCheck, history.roster.members)
    require(set(values) == set(history.roster.members), "every member must sign a key-check value")
    require(len({value.value for value in values.values()}) == 1, "the members' key-check values differ")
    sealed = {value.sealed for value in values.values() if value.sealed is not None}
    require(len(sealed) <= 1, "the members sealed different models")
    require(body.epoch == history.roster.epoch, "the epoch is not the roster's")


def _counts(history: History, body: CountsRecord) -> None:
    _submitted(history, body.counts, Counts, history.epoch_members)
    known = set(history.counts) | {signed.signer for signed in body.counts}
    require(set(history.epoch_members) <= known, "counts of some members are missing")


def _plan(history: History, body: Plan) -> None:
    require(not history.halted, "sums have failed without a guilty silo: an operator must act before another round")
    require(not searches.due(history), "the current model has to be searched before another round")
    expected = derive_plan(history, body.nonce_hash)
    require(body == expected, f"the plan of round {body.round} is not the one that task, policy and log give")
    require(len(body.silos) >= body.quorum, f"{len(body.silos)} silos are fewer than the quorum {body.quorum}")


def _challenge(history: History, body: Challenge) -> None:
    view = history.round
    require(body.round == view.plan.round, "wrong round")
    nonce = hashlib.sha256(bytes.fromhex(body.nonce)).hexdigest()
    require(nonce == view.plan.nonce_hash, "the nonce is not the one that the plan fixed")
    commits = _submitted(history, body.commitments, Commit, view.plan.silos)
    require(body.late == _others(view.plan.silos, commits), "late silos must be named")
    require(len(commits) >= view.plan.quorum, "fewer commitments than the quorum")


def _openings(history: History, body: Openings) -> None:
    view = history.round
    require(body.round == view.plan.round, "wrong round")
    opened = _submitted(history, body.openings, Opening, tuple(view.commits))
    require(body.withdrawn == _others(view.commits, opened), "withdrawn silos must be named")
    require(len(opened) >= view.plan.quorum, "fewer openings than the quorum")


def _recheck(history: History, body: Recheck) -> None:
    view = history.round
    require(body.round == view.plan.round, "wrong round")
    _submitted(history, body.checks, Answers, tuple(view.openings))
    expected = votes.to_recheck(votes.ballots(body.checks), view.openings)
    require(body.subjects == expected and bool(expected), "the subjects do not follow from the answers")


def _decision(history: History, body: Decision) -> None:
    require(body.round == history.round.plan.round, "wrong round")
    _submitted(history, body.checks, Answers, tuple(history.round.openings))
    replay.verify_decision(history, body)


def _sum(history: History, body: Sum) -> None:
    view = history.round
    require(body.round == view.plan.round, "wrong round")
    minimum = view.plan.privacy_minimum
    require(len(view.weights) >= minimum, f"{len(view.weights)} retained silos, the privacy minimum is {minimum}")


def _trace(history: History, body: Trace) -> None:
    require(body.round == history.round.plan.round, "wrong round")
    _votes_on_sum(history, body.adoptions, body.refusals)
    require(bool(body.refusals), "there is nothing to trace without a refusal")


def _trace_openings(history: History, body: TraceOpenings) -> None:
    require(body.round == history.round.plan.round, "wrong round")
    opened = _submitted(history, body.openings, TraceOpening, tuple(history.round.weights))
    require(body.withdrawn == _others(history.round.weights, opened), "withdrawn silos must be named")


def _outcome(history: History, body: Outcome) -> None:
    view = history.round
    require(body.round == view.plan.round, "wrong round")
    adoptions = _votes_on_sum(history, body.adoptions, body.refusals)
    behind = [silo for silo, adoption in adoptions.items() if adoption.model == body.model]
    if body.result == "adopted":
        require(history.phase is Phase.VERIFYING, "nothing can be adopted before a sum")
        require(len(behind) >= majority(view.plan), "fewer than half of the silos signed this model")
        require(not body.convicted and not body.checks and body.fault == "none", "an adopted round accuses nobody here")
    else:
        require(body.model == history.model, "a void round leaves the old model")
        _submitted(history, body.checks, Answers, view.plan.silos)
        replay.verify_void(history, body)
    _late(history, body)


def _late(history: History, body: Outcome) -> None:
    """A round that is void for want of a quorum names whom it missed: enough of them, or nothing was missing."""
    view = history.round
    if history.phase in (Phase.COMMITTING, Phase.OPENING):
        asked = view.plan.silos if history.phase is Phase.COMMITTING else tuple(view.commits)
        require(list(body.late) == sorted(set(body.late) & set(asked)), "late silos must be sorted, and asked")
        require(len(asked) - len(body.late) < view.plan.quorum, "the silos that are not named late make a quorum")
        return
    voted = {signed.signer for signed in (*body.adoptions, *body.refusals)}
    late = _others(view.plan.silos, voted) if history.phase is Phase.VERIFYING else ()
    require(body.late == late, "late silos must be named")


def _search(history: History, body: Search) -> None:
    require(searches.due(history), "no search is due")
    require(body == searches.derive_search(history), "the search is not of the current model")


def _searched(history: History, body: Searched | Clean) -> None:
    reports = _submitted(history, body.reports, SearchReport, turns.awaited(history))
    expected = searches.derive_reported(history, body.reports, _others(turns.awaited(history), reports))
    require(body == expected, "what follows the reports is not what they say")


def _clean(history: History, body: Clean) -> None:
    if history.phase is Phase.SEARCHING:
        _searched(history, body)
    else:
        _finds(history, body)


def _finds(history: History, body: Finds | Clean) -> None:
    answers = _submitted(history, body.answers, FindAnswers, turns.awaited(history))
    expected = confirming.derive_checked(history, body.answers, _others(turns.awaited(history), answers))
    require(body == expected, "the confirmed finds do not follow from the silos' measurements")


def _attributed(history: History, body: Attributed) -> None:
    made = _submitted(history, body.attributions, Attribution, turns.awaited(history))
    require(body.silent == _others(turns.awaited(history), made), "silent silos must be named")
    attributions.verify(history, body)


def _finish(history: History, body: Finish) -> None:
    done = len(history.rounds)
    require(done >= history.genesis.task.rounds, f"only {done} of {history.genesis.task.rounds} rounds are done")
    require(not searches.due(history), "the last model has to be searched before the end")
    which = "current one" if history.genesis.task.search is None else "newest one whose search was clean"
    require((body.model, body.adopted) == searches.releasable(history), f"the released model is not the {which}")


def _votes_on_sum(history: History, adoptions: tuple[Signed, ...], refusals: tuple[Signed, ...]) -> dict[str, Adoption]:
    silos = history.round.plan.silos
    adopted = _submitted(history, adoptions, Adoption, silos)
    refused = _submitted(history, refusals, Refusal, silos)
    require(not set(adopted) & set(refused), "a silo cannot adopt and refuse")
    return adopted


def _others(silos: Any, present: Any) -> tuple[str, ...]:
    return tuple(sorted(set(silos) - set(present)))


CHECKS: dict[type[Any], Any] = {
    Genesis: _genesis, Member: _member, Roster: _roster, DealRecord: _deal, Epoch: _epoch, CountsRecord: _counts,
    Plan: _plan, Challenge: _challenge, Openings: _openings, Recheck: _recheck, Decision: _decision, Sum: _sum,
    Trace: _trace, TraceOpenings: _trace_openings, Outcome: _outcome, Search: _search, Searched: _searched,
    Clean: _clean, Finds: _finds, Attributed: _attributed, Finish: _finish,
}  # fmt: skip
