"""The fairness certificate: what a log says about how each silo was treated, recomputed from the log alone.

It needs no signature of its own: whoever has the log makes the same bytes again (`check_certificate`). It carries the
signed head of the log that it was made from. All numbers are scaled integers; privacy figures are rounded up, floors
up and caps down, intervals outwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from audit import clauses, searches, tally
from audit.errors import InvalidCertificate
from audit.findings import SearchFacts, search_facts
from audit.history import History
from audit.intervals import Interval, accuracy_gap, accuracy_interval
from audit.model import model_digest
from audit.tally import RoundFacts
from protos.codec import Between, Digest, Name, Natural, Positive, Text, encode, pack, unpack
from protos.errors import MalformedMessage
from protos.messages import Evaluation
from protos.records import SignedHead
from protos.rounds import Phase
from protos.task import MICRO, Budget, Policy, SearchRule

Micro = Annotated[int, Between(0, MICRO)]

NOT_CLAIMED = (
    "It does not claim that any silo's data are true, lawful or representative: a log proves what was recorded, not "
    "that it was true.",
    "It does not claim any accuracy on other data: accuracies are each silo's own noised counts on its own hold-out, "
    "and a silo can misreport them.",
    "It does not claim fairness between groups of people inside a silo's data; it compares silos.",
    "It does not claim that retained silos were honest: poison that looks like an honest unusual silo is not told "
    "apart, it is only bounded by the cap.",
    "Epsilon is per record, not per person, unless the silo groups its records by person; records of one person at "
    "several silos add up.",
    "It does not claim that a silo added the noise that it was charged for: charges and receipts are the silo's "
    "signed word.",
    "Epsilon counts the charges on record and each silo's claim; the bound adds every round that named the silo, "
    "because a late silo may have spent without releasing anything.",
    "It does not claim secrecy against a coordinator in league with a silo: silos share one key, and such a "
    "coordinator can decrypt single updates, which are still differentially private, and forge sums.",
    "It does not claim that convictions are beyond error: a majority of lying checkers can convict an honest silo.",
    "It speaks of the log up to the head that it names, and claims nothing about later records.",
    "It does not claim that a model without a find has no trigger: a search finds small and frequent ones, and only "
    "silos can repeat its measurements and projections, for which they sign.",
    "The interval of the accuracy gap covers sampling and privacy noise only, at 95 percent.",
)


@dataclass(frozen=True)
class Clause:
    """One promise of the policy: whether the log keeps it, and by how much or where it fails."""

    name: Name
    met: bool
    text: Text
    detail: Text


@dataclass(frozen=True)
class Accuracy:
    """An accuracy (or a gap of two) with its 95 % interval, in millionths."""

    estimate_micro: Micro
    low_micro: Micro
    high_micro: Micro


@dataclass(frozen=True)
class SiloFacts:
    """Totals of one silo over all rounds.

    `records` is the noised count. Rounds: `planned` named it, it opened in `taken_part`; `judged` reached a decision
    about it. Weights are over rounds that retained it, None where none did. `epsilon_micro` is the greater of what its
    charges on record give and what its receipts claim, `epsilon_bound_micro` as if it had spent in every round that
    named it. `correct` and `total` are its noised hold-out counts for the final model. `cosigned` is the size of the
    longest log whose head it co-signed. `largest_class_micro` is the share of its most frequent class, after noise.
    """

    silo: Name
    records: Natural
    largest_class_micro: Micro
    planned: Natural
    taken_part: Natural
    late: Natural
    withdrawn: Natural
    judged: Natural
    suspected: Natural
    excluded: Natural
    convicted: Text | None
    weight_min: Natural | None
    weight_max: Natural | None
    epsilon_micro: Natural
    epsilon_bound_micro: Natural
    delta_nano: Positive
    correct: Natural | None
    total: Natural | None
    accuracy: Accuracy | None
    cosigned: Natural


@dataclass(frozen=True)
class Certificate:
    """Everything certified. `model` is the current model of the log.

    `released` is the released one where `finished`: the current one, or, where the task has a `search`, the newest one
    whose search was clean; None before the end, and where no model was.
    """

    KIND: ClassVar[str] = "concordat/certificate/v1"

    head: SignedHead
    task: Digest
    model: Digest
    finished: bool
    rounds_planned: Natural
    rounds_adopted: Natural
    rounds_void: Natural
    policy: Policy
    budget: Budget
    met: bool
    clauses: tuple[Clause, ...]
    silos: tuple[SiloFacts, ...]
    gap: Accuracy | None
    rounds: tuple[RoundFacts, ...]
    search: SearchRule | None
    searches: tuple[SearchFacts, ...]
    released: Digest | None
    not_claimed: tuple[Text, ...]


def certify(history: History, head: SignedHead) -> Certificate:
    """The certificate of a verified log.

    Args:
        history: the log replayed, up to `head` and no further.
        head: the signed head; it is checked against the history.

    Raises:
        BrokenLog: the head is not of this history.
    """
    history.chain.verify_head(head)
    rounds = tally.round_facts(history)
    promises = tuple(Clause(*finding) for finding in clauses.findings(history, rounds))
    finished = history.phase is Phase.FINISHED
    results = [view.outcome.result for view in history.rounds if view.outcome is not None]
    return Certificate(
        head=head,
        task=history.genesis.task.digest,
        model=history.model,
        finished=finished,
        rounds_planned=len(history.rounds),
        rounds_adopted=results.count("adopted"),
        rounds_void=results.count("void"),
        policy=history.genesis.policy,
        budget=history.genesis.task.budget,
        met=all(clause.met for clause in promises),
        clauses=promises,
        silos=_silos(history, rounds),
        gap=_gap(history),
        rounds=rounds,
        search=history.genesis.task.search,
        searches=search_facts(history),
        released=searches.releasable(history)[0] if finished else None,
        not_claimed=NOT_CLAIMED,
    )


def parse_certificate(data: bytes) -> Certificate:
    """A certificate from its bytes; a final newline is allowed.

    Raises:
        InvalidCertificate: the bytes are no canonical certificate.
    """
    try:
        return unpack(Certificate, data.removesuffix(b"\n"))
    except MalformedMessage as error:
        raise InvalidCertificate(f"this is no certificate: {error}") from error


def check_certificate(certificate: bytes, history: History, model: bytes | None = None) -> None:
    """Make the certificate again from the log and compare byte for byte; then the model file, where one is given.

    Args:
        certificate: bytes of the file.
        history: the log replayed up to the head that the certificate names.
        model: bytes of the model, flat little-endian float32 or an .npz with such an array "flat".

    Raises:
        InvalidCertificate: names the first field that differs, or says that the model is another one.
        BrokenLog: the certificate's head is not of this log.
    """
    given = parse_certificate(certificate)
    expected = certify(history, given.head)
    if pack(expected) != certificate.removesuffix(b"\n"):
        theirs, ours = encode(given), encode(expected)
        field = next(name for name in ours if theirs[name] != ours[name])
        raise InvalidCertificate(f"the certificate does not follow from the log: its {field!r} is different there")
    if model is not None:
        certified = given.released if given.finished else given.model
        if certified is None:
            raise InvalidCertificate("no model was released: no search of one was clean")
        if model_digest(model, history.genesis.task.layout.size) != certified:
            raise InvalidCertificate("the model file is not the certified model: its SHA-256 is another one")


def _silos(history: History, rounds: tuple[RoundFacts, ...]) -> tuple[SiloFacts, ...]:
    final = tally.final_evaluations(history)
    signed = tally.cosigned(history)
    return tuple(
        _silo(history, silo, tally.appearances(rounds, silo), final.get(silo), signed.get(silo, 0))
        for silo in sorted(history.members)
    )


def _silo(
    history: History, silo: str, rows: tuple[tally.RoundSilo, ...], final: Evaluation | None, cosigned: int
) -> SiloFacts:
    verdicts = [row.verdict for row in rows]
    weights = [row.weight for row in rows if row.weight > 0]
    counts = history.counts.get(silo)
    task = history.genesis.task
    return SiloFacts(
        silo=silo,
        records=counts.total if counts else 0,
        largest_class_micro=_largest_share(counts.classes) if counts else 0,
        planned=len(rows),
        taken_part=sum(row.opened for row in rows),
        late=sum(row.late for row in rows),
        withdrawn=sum(row.withdrawn for row in rows),
        judged=sum(verdict != "none" for verdict in verdicts),
        suspected=verdicts.count("suspected"),
        excluded=verdicts.count("excluded"),
        convicted=history.convicted.get(silo),
        weight_min=min(weights, default=None),
        weight_max=max(weights, default=None),
        epsilon_micro=tally.spent(history, silo, rows),
        epsilon_bound_micro=tally.spent_at_most(history, silo, rows),
        delta_nano=task.budget.delta_nano,
        correct=final.correct if final else None,
        total=final.total if final else None,
        accuracy=_accuracy(accuracy_interval(final, task.evaluation_noise_micro)) if final else None,
        cosigned=cosigned,
    )


def _gap(history: History) -> Accuracy | None:
    final: Mapping[str, Evaluation] = tally.final_evaluations(history)
    if len(final) < 2:
        return None
    return _accuracy(accuracy_gap(final, history.genesis.task.evaluation_noise_micro))


def _accuracy(interval: Interval) -> Accuracy:
    return Accuracy(interval.estimate_micro, interval.low_micro, interval.high_micro)


def _largest_share(classes: tuple[int, ...]) -> int:
    return max(classes) * MICRO // max(1, sum(classes))
