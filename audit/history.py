"""The federation as a function of its log: one reducer for coordinator, silo and auditor.

`History.apply` checks a record in full (chain, table of the round, signatures, policy, the decision repeated) and only
then changes anything. The coordinator puts its own records through it before it publishes them, so that it cannot
say what a silo or an auditor would refuse.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audit import checks, searches, votes
from audit.errors import InvalidRecord
from audit.log import Chain
from crypto import sketch
from crypto.errors import CryptoError
from crypto.packing import Packing
from protos import canonical
from protos.codec import decode, encode
from protos.errors import ProtocolError
from protos.messages import Adoption, Attribution, Commit, Counts, FindAnswers, Opening, SearchReport
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
    Record,
    Roster,
    Search,
    Searched,
    Sum,
    Trace,
    TraceOpenings,
    body_class,
)
from protos.rounds import Phase, follow
from protos.search import Trigger

TRACE_ROWS = 16
MAX_UNTRACED = 3
"""Sums of a key epoch that were neither adopted nor laid to anybody, after which no sum is opened until an operator
acts. Each one may have told the coordinator the name of a failed check: refusals that it reads and never takes, like a
trace that it never completes, blame nobody."""


@dataclass
class RoundView:
    """One round as far as the log tells it. Digests are of the records that carried the bodies."""

    plan: Plan
    plan_digest: str
    challenge: Challenge | None = None
    challenge_digest: str = ""
    seed: bytes = b""
    commits: dict[str, Commit] = field(default_factory=dict)
    openings: dict[str, Opening] = field(default_factory=dict)
    openings_digest: str = ""
    withdrawn: tuple[str, ...] = ()
    recheck: Recheck | None = None
    recheck_digest: str = ""
    decision: Decision | None = None
    sum: Sum | None = None
    sum_digest: str = ""
    sum_size: int = 0
    trace: Trace | None = None
    trace_digest: str = ""
    traced: dict[str, str] = field(default_factory=dict)
    trace_openings_digest: str = ""
    outcome: Outcome | None = None

    @property
    def adopted(self) -> bool:
        """Whether the round's model became the current one."""
        return self.outcome is not None and self.outcome.result == "adopted"

    @property
    def weights(self) -> dict[str, int]:
        """Weights of the retained silos, empty before the decision."""
        judgements = self.decision.judgements if self.decision else ()
        return {judgement.silo: judgement.weight for judgement in judgements if judgement.weight > 0}


class History:
    """State of a federation after a prefix of its log."""

    def __init__(self) -> None:
        self.chain = Chain()
        self.genesis_digest = ""
        self.phase = Phase.EMPTY
        self.phase_since_ms = 0
        self.phase_digest = ""
        self.members: dict[str, Member] = {}
        self.convicted: dict[str, str] = {}
        self.roster: Roster | None = None
        self.roster_digest = ""
        self.roster_sequence = -1
        self.deal: DealRecord | None = None
        self.deal_digest = ""
        self.epoch = 0
        self.epoch_members: tuple[str, ...] = ()
        self.counts: dict[str, Counts] = {}
        self.entries: dict[str, int] = {}
        self.rounds: list[RoundView] = []
        self.searches: list[searches.SearchView] = []
        self.model = ""
        self.adopted = 0
        self.sealed: str | None = None
        self.sealed_round = 0
        self.halted = False
        self.untraced = 0

    @property
    def genesis(self) -> Genesis:
        """The first record's body; InvalidRecord while the log is empty."""
        if self.chain.genesis is None:
            raise InvalidRecord("the log is empty")
        return self.chain.genesis

    @cached_property
    def packing(self) -> Packing:
        """How this task's model lies in chunks."""
        return Packing.of(self.genesis.task.layout, self.genesis.task.folds)

    @property
    def opening_rows(self) -> NDArray[np.int8]:
        """The matrix R of the open round: int8[folds + output chunks, chunks]."""
        packing = self.packing
        return sketch.rows(sketch.signs(self.round.seed, packing.folds, packing.body_chunks), packing)

    @property
    def trace_rows(self) -> NDArray[np.int8]:
        """Fresh signs on random subsets of at least eight chunks: int8[rows, chunks].

        They come from the digest of the trace's record, which nobody knew at commitment.
        """
        chunks = self.packing.chunks
        seed = bytes.fromhex(self.round.trace_digest)
        return sketch.trace_signs(seed, min(TRACE_ROWS, chunks // 4), chunks)

    @property
    def round(self) -> RoundView:
        """The round that is open or was closed last."""
        if not self.rounds:
            raise InvalidRecord("no round has been planned yet")
        return self.rounds[-1]

    @property
    def search(self) -> searches.SearchView:
        """The search that is open or was closed last."""
        if not self.searches:
            raise InvalidRecord("no search has been asked for yet")
        return self.searches[-1]

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        """Every trigger that a search confirmed: what is trained against from then on."""
        return searches.triggers(self)

    @property
    def active(self) -> tuple[str, ...]:
        """Members of the current key epoch that nobody convicted, sorted."""
        return tuple(name for name in self.epoch_members if name not in self.convicted)

    def signing_key(self, silo: str) -> str:
        """The silo's Ed25519 public key; InvalidRecord for a stranger."""
        if silo not in self.members:
            raise InvalidRecord(f"{silo} is not a member")
        return self.members[silo].signing_key

    def apply(self, data: bytes) -> Record:
        """Check the next record and take it in.

        Raises:
            BrokenLog: if it does not follow in the chain.
            InvalidRecord: if protocol or policy forbid it; nothing has changed then.
        """
        record = self.chain.check(data)
        try:
            cls = body_class(record.body)
            phase = follow(self.phase, cls)
            body = decode(cls, record.body)
            checks.CHECKS[cls](self, body)
        except (ProtocolError, CryptoError, InvalidRecord) as error:
            raise InvalidRecord(f"record {record.sequence}: {error}") from error
        self.chain.extend(data)
        _UPDATES[cls](self, body, record, self.chain.digest)
        if cls is not Member:
            self.phase, self.phase_since_ms, self.phase_digest = phase, record.time_ms, self.chain.digest
        return record


def _genesis(history: History, body: Genesis, record: Record, digest: str) -> None:
    history.genesis_digest = digest
    history.model = body.task.initial_model
    history.adopted = record.sequence


def _member(history: History, body: Member, record: Record, digest: str) -> None:
    history.members[body.name] = body


def _roster(history: History, body: Roster, record: Record, digest: str) -> None:
    history.roster, history.roster_digest, history.roster_sequence = body, digest, record.sequence
    history.halted, history.untraced = False, 0


def _deal(history: History, body: DealRecord, record: Record, digest: str) -> None:
    history.deal, history.deal_digest = body, digest


def _epoch(history: History, body: Epoch, record: Record, digest: str) -> None:
    assert history.roster is not None
    history.epoch, history.epoch_members = body.epoch, history.roster.members
    history.sealed, history.sealed_round = votes.sealed_copy(body.checks), len(history.rounds)


def _counts(history: History, body: CountsRecord, record: Record, digest: str) -> None:
    for signed in body.counts:
        counts = decode(Counts, signed.body)
        history.counts[signed.signer] = counts
        history.entries[signed.signer] = counts.receipt.entry


def _plan(history: History, body: Plan, record: Record, digest: str) -> None:
    history.rounds.append(RoundView(body, digest))


def _challenge(history: History, body: Challenge, record: Record, digest: str) -> None:
    view = history.round
    view.challenge, view.challenge_digest = body, digest
    view.commits = {signed.signer: decode(Commit, signed.body) for signed in body.commitments}
    view.seed = sketch.seed_of(body.nonce, canonical.dumps([encode(signed) for signed in body.commitments]))


def _openings(history: History, body: Openings, record: Record, digest: str) -> None:
    view = history.round
    view.openings = {signed.signer: decode(Opening, signed.body) for signed in body.openings}
    view.openings_digest, view.withdrawn = digest, body.withdrawn
    for silo, opening in view.openings.items():
        history.entries[silo] = opening.receipt.entry


def _recheck(history: History, body: Recheck, record: Record, digest: str) -> None:
    history.round.recheck, history.round.recheck_digest = body, digest


def _decision(history: History, body: Decision, record: Record, digest: str) -> None:
    history.round.decision = body
    _convict(history, body)


def _sum(history: History, body: Sum, record: Record, digest: str) -> None:
    view = history.round
    view.sum, view.sum_digest, view.sum_size = body, digest, record.sequence + 1


def _trace(history: History, body: Trace, record: Record, digest: str) -> None:
    history.round.trace, history.round.trace_digest = body, digest


def _trace_openings(history: History, body: TraceOpenings, record: Record, digest: str) -> None:
    view = history.round
    view.traced, view.trace_openings_digest = votes.traced(body.openings), digest


def _outcome(history: History, body: Outcome, record: Record, digest: str) -> None:
    view = history.round
    view.outcome = body
    _convict(history, body)
    history.untraced += view.sum is not None and body.result == "void" and body.fault == "none"
    history.halted = body.fault == "sum" or history.untraced >= MAX_UNTRACED
    if body.result == "adopted":
        history.model, history.adopted = body.model, record.sequence
        history.sealed, history.sealed_round = _sealed_with(body), view.plan.round


def _search(history: History, body: Search, record: Record, digest: str) -> None:
    history.searches.append(searches.open_search(history, body, digest))


def _searched(history: History, body: Searched, record: Record, digest: str) -> None:
    view = history.search
    view.receive({signed.signer: decode(SearchReport, signed.body) for signed in body.reports})
    view.searched_digest, view.silent = digest, body.silent


def _clean(history: History, body: Clean, record: Record, digest: str) -> None:
    view = history.search
    if history.phase is Phase.SEARCHING:
        view.receive({signed.signer: decode(SearchReport, signed.body) for signed in body.reports})
        view.silent = body.silent
    view.answers = {signed.signer: decode(FindAnswers, signed.body) for signed in body.answers}
    view.closed = True


def _finds(history: History, body: Finds, record: Record, digest: str) -> None:
    view = history.search
    view.answers = {signed.signer: decode(FindAnswers, signed.body) for signed in body.answers}
    view.confirmed, view.stood, view.finds_digest = body.confirmed, body.standing, digest


def _attributed(history: History, body: Attributed, record: Record, digest: str) -> None:
    view = history.search
    view.attributions = {signed.signer: decode(Attribution, signed.body) for signed in body.attributions}
    view.attributed, view.closed = body, True
    view.blocking = searches.blocking(history, view)
    _convict(history, body)


def _finish(history: History, body: Finish, record: Record, digest: str) -> None:
    """Nothing changes but the phase."""


def _convict(history: History, body: Decision | Outcome | Attributed) -> None:
    for conviction in body.convicted:
        history.convicted[conviction.silo] = conviction.reason


def _sealed_with(outcome: Outcome) -> str:
    adoptions = [decode(Adoption, signed.body) for signed in outcome.adoptions]
    return votes.most_common([adoption.sealed for adoption in adoptions if adoption.model == outcome.model])


_UPDATES: dict[type[Any], Any] = {
    Genesis: _genesis, Member: _member, Roster: _roster, DealRecord: _deal, Epoch: _epoch, CountsRecord: _counts,
    Plan: _plan, Challenge: _challenge, Openings: _openings, Recheck: _recheck, Decision: _decision, Sum: _sum,
    Trace: _trace, TraceOpenings: _trace_openings, Outcome: _outcome, Search: _search, Searched: _searched,
    Clean: _clean, Finds: _finds, Attributed: _attributed, Finish: _finish,
}  # fmt: skip


def nonce_hash(nonce: str) -> str:
    """What a plan says of the nonce (32 bytes in hex) that its challenge will reveal."""
    return hashlib.sha256(bytes.fromhex(nonce)).hexdigest()
