"""What a log says, for reading: an overview, one round, one silo or one record, as JSON objects.

Only the chain of records is checked here, so that a log which does not verify can be looked at too. Nothing shown
should be believed before `verify_log` has passed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from audit.errors import AuditError, BrokenLog, UnreadableInput
from audit.files import LogFile
from audit.findings import SearchFacts, search_facts
from audit.history import History
from audit.log import Chain
from protos.codec import JsonObject, decode, encode
from protos.errors import MalformedMessage
from protos.messages import Adoption, Counts, Opening, SearchReport, Signed
from protos.records import (
    Attributed,
    Challenge,
    Clean,
    Conviction,
    CountsRecord,
    DealRecord,
    Decision,
    Epoch,
    Finds,
    Finish,
    Genesis,
    Judgement,
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
    body_class,
)


@dataclass(frozen=True)
class Entry:
    """One record with its decoded body and its digest."""

    sequence: int
    time_ms: int
    digest: str
    body: Any
    raw: JsonObject

    @property
    def kind(self) -> str:
        """The kind without prefix and version, such as `plan`."""
        return str(self.body.KIND).split("/")[1]


def entries(log: LogFile) -> Iterator[Entry]:
    """All records in order; raises BrokenLog where the chain or a body does not hold."""
    chain = Chain()
    for data in log.records():
        record = chain.extend(data)
        try:
            body = decode(body_class(record.body), record.body)
        except MalformedMessage as error:
            raise BrokenLog(f"record {record.sequence} cannot be read: {error}") from error
        yield Entry(record.sequence, record.time_ms, chain.digest, body, encode(record))


def overview(log: LogFile) -> JsonObject:
    """One line per record."""
    rows = [
        {"record": e.sequence, "time_ms": e.time_ms, "kind": e.kind, "round": _round_of(e), "what": _what(e.body)}
        for e in entries(log)
    ]
    return {"log": str(log.path), "records": rows}


def record(log: LogFile, number: int) -> JsonObject:
    """One record whole; raises UnreadableInput where there is none of that number."""
    for entry in entries(log):
        if entry.sequence == number:
            return {"digest": entry.digest, "record": entry.raw}
    raise UnreadableInput(f"there is no record {number} in {log.path}")


def round_of(log: LogFile, number: int) -> JsonObject:
    """One round: its plan in short, each silo's fate, and the outcome so far."""
    found = [entry for entry in entries(log) if _round_of(entry) == number]
    if not found:
        raise UnreadableInput(f"there is no round {number} in {log.path}")
    bodies = {type(entry.body): entry.body for entry in found}
    plan: Plan = bodies[Plan]
    outcome: Outcome | None = bodies.get(Outcome)
    searched = [] if Search not in bodies else _searches(log, number)
    return {
        "round": number,
        "searches": [encode(facts) for facts in searched],
        "records": [entry.sequence for entry in found],
        "result": outcome.result if outcome else "open",
        "fault": outcome.fault if outcome else "none",
        "reason": outcome.reason if outcome else "",
        "model_before": plan.model,
        "model_after": outcome.model if outcome else None,
        "quorum": plan.quorum,
        "privacy_minimum": plan.privacy_minimum,
        "defense": bodies[Decision].defense if Decision in bodies else None,
        "silos": [_fate(silo, bodies) for silo in plan.silos],
    }


def _searches(log: LogFile, number: int) -> list[SearchFacts]:
    """The searches after a round. What silos show in a find needs the whole log, so it is replayed and verified here.

    Raises:
        UnreadableInput: the log does not verify; nothing it says of a find should be shown as a fact.
    """
    history = History()
    try:
        for data in log.records():
            history.apply(data)
    except AuditError as error:
        raise UnreadableInput(
            f"the finds of round {number} cannot be shown, the log does not verify: {error}"
        ) from error
    return [facts for facts in search_facts(history) if facts.round == number]


def silo_of(log: LogFile, name: str) -> JsonObject:
    """One silo: its keys and counts, and its fate in every round that named it."""
    facts: JsonObject = {"silo": name, "records": None, "classes": None, "rounds": []}
    known = False
    rounds: dict[int, dict[type[Any], Any]] = {}
    for entry in entries(log):
        if isinstance(entry.body, Member) and entry.body.name == name:
            known = True
            facts |= {"signing_key": entry.body.signing_key, "exchange_key": entry.body.exchange_key}
        elif isinstance(entry.body, CountsRecord):
            facts |= _counts_of(entry.body, name)
        elif (number := _round_of(entry)) is not None:
            rounds.setdefault(number, {})[type(entry.body)] = entry.body
    if not known:
        raise UnreadableInput(f"there is no silo {name!r} in {log.path}")
    facts["rounds"] = [{"round": n} | _fate(name, b) for n, b in sorted(rounds.items()) if name in b[Plan].silos]
    return facts


def _counts_of(body: CountsRecord, name: str) -> JsonObject:
    for signed in body.counts:
        if signed.signer == name:
            counts = decode(Counts, signed.body)
            return {"records": counts.total, "classes": list(counts.classes)}
    return {}


def _fate(silo: str, bodies: dict[type[Any], Any]) -> JsonObject:
    """What the round's records say of one silo. ε is the silo's claim."""
    opening = _signed_by(silo, bodies, Openings, "openings", Opening)
    adoption = _signed_by(silo, bodies, Outcome, "adoptions", Adoption)
    evaluation = adoption.evaluation if adoption else None
    judgement = _judgement(silo, bodies.get(Decision))
    conviction = _conviction(silo, bodies)
    return {
        "silo": silo,
        "state": "convicted" if conviction else _state(silo, bodies),
        "verdict": judgement.verdict if judgement else None,
        "weight": judgement.weight if judgement else None,
        "reason": conviction.reason if conviction else judgement.reason if judgement else "",
        "scores": [encode(score) for score in judgement.scores] if judgement else [],
        "epsilon_micro": opening.receipt.epsilon_micro if opening else None,
        "correct": evaluation.correct if evaluation else None,
        "total": evaluation.total if evaluation else None,
    }


def _state(silo: str, bodies: dict[type[Any], Any]) -> str:
    challenge, openings, outcome = bodies.get(Challenge), bodies.get(Openings), bodies.get(Outcome)
    if challenge and silo in challenge.late:
        return "late"
    if openings and silo in openings.withdrawn:
        return "withdrawn"
    if outcome and silo in [signed.signer for signed in outcome.refusals]:
        return "refused"
    if outcome and silo in outcome.late:
        return "late to verify"
    return "took part" if outcome else "open"


def _conviction(silo: str, bodies: dict[type[Any], Any]) -> Conviction | None:
    """The last one of this round: it says why the silo is in no later plan, whatever the decision before it said."""
    convicting = (bodies.get(Attributed), bodies.get(Outcome), bodies.get(Decision))
    return next((item for body in convicting if body for item in body.convicted if item.silo == silo), None)


def _signed_by(silo: str, bodies: dict[type[Any], Any], cls: type[Any], field: str, message: type[Any]) -> Any:
    signed: tuple[Signed, ...] = getattr(bodies[cls], field) if cls in bodies else ()
    return next((decode(message, item.body) for item in signed if item.signer == silo), None)


def _judgement(silo: str, decision: Decision | None) -> Judgement | None:
    judgements = decision.judgements if decision else ()
    return next((item for item in judgements if item.silo == silo), None)


def _round_of(entry: Entry) -> int | None:
    return getattr(entry.body, "round", None)


def _named(prefix: str, names: tuple[str, ...]) -> str:
    return f"; {prefix} {', '.join(names)}" if names else ""


def _decided(body: Decision) -> str:
    weights = ", ".join(f"{item.silo} {item.weight or item.verdict}" for item in body.judgements)
    return f"{body.defense}: {weights}{_named('convicted', tuple(item.silo for item in body.convicted))}"


def _reported(body: Searched) -> int:
    return sum(len(decode(SearchReport, signed.body).finds) for signed in body.reports)


def _ended(body: Outcome) -> str:
    counts = f"{len(body.adoptions)} adoptions, {len(body.refusals)} refusals"
    return f"{body.result}: {counts}{_named('late', body.late)}{f'; {body.reason}' if body.reason else ''}"


_WHAT: dict[type[Any], Any] = {
    Genesis: lambda b: f"federation {b.federation}, task {b.task.name}, {b.task.rounds} rounds",
    Member: lambda b: f"{b.name} enrolled",
    Roster: lambda b: f"key epoch {b.epoch}, attempt {b.attempt}, steward {b.steward}: {', '.join(b.members)}",
    DealRecord: lambda b: f"secrets dealt by {b.deal.signer}",
    Epoch: lambda b: f"key epoch {b.epoch} confirmed by {len(b.checks)}",
    CountsRecord: lambda b: f"counts of {', '.join(item.signer for item in b.counts)}",
    Plan: lambda b: f"{len(b.silos)} silos, quorum {b.quorum}",
    Challenge: lambda b: f"{len(b.commitments)} commitments{_named('late', b.late)}",
    Openings: lambda b: f"{len(b.openings)} openings{_named('withdrawn', b.withdrawn)}",
    Recheck: lambda b: f"every silo checks {', '.join(b.subjects)}",
    Decision: _decided,
    Sum: lambda b: f"root {b.root[:16]}",
    Trace: lambda b: f"refused by {', '.join(item.signer for item in b.refusals)}",
    TraceOpenings: lambda b: f"{len(b.openings)} folds{_named('withdrawn', b.withdrawn)}",
    Outcome: _ended,
    Search: lambda b: f"every silo searches model {b.model[:16]}",
    Searched: lambda b: f"{_reported(b)} finds in {len(b.reports)} reports{_named('silent', b.silent)}",
    Clean: lambda b: f"no find of model {b.model[:16]} is confirmed{_named('silent', b.silent)}",
    Finds: lambda b: f"{len(b.confirmed)} finds confirmed{_named('silent', b.silent)}",
    Attributed: lambda b: f"{len(b.cases)} finds attributed{_named('convicted', tuple(c.silo for c in b.convicted))}",
    Finish: lambda b: (
        f"released model {b.model[:16]}" if b.model else "no model is released: every search found something"
    ),
}


def _what(body: Any) -> str:
    describe = _WHAT.get(type(body))
    return str(describe(body)) if describe else ""
