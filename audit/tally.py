"""Facts that a certificate states, counted from a verified history: per round and silo, then per silo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from audit import searches
from audit.accounting import epsilon, round_charges
from audit.history import History, RoundView
from defenses.weights import bounds
from protos.codec import Digest, Matching, Name, Natural, Positive, Text, decode
from protos.messages import Adoption, Charge, Evaluation, Receipt, Signed
from protos.records import VERDICTS, Conviction, Outcome, Score
from protos.rounds import Phase

NO_VERDICT = "none"


@dataclass(frozen=True)
class RoundSilo:
    """One silo in one round that named it.

    `epsilon_micro` is what its charges on record give up to and with this round, `claimed_micro` what its newest
    receipt says (None before the first). Without a decision the verdict is `none` and the weight 0. `late` missed the
    deadline of the commitment or of the sum's check; `withdrawn` vanished after its commitment.
    """

    silo: Name
    opened: bool
    late: bool
    withdrawn: bool
    verdict: Annotated[str, Matching("|".join((*VERDICTS, NO_VERDICT)))]
    reason: Text
    weight: Natural
    scores: tuple[Score, ...]
    epsilon_micro: Natural
    claimed_micro: Natural | None


@dataclass(frozen=True)
class RoundFacts:
    """One round. `floor` and `cap` are the least and greatest integer weight for its `retained` silos, 0 for none."""

    round: Positive
    result: Annotated[str, Matching("adopted|void|open")]
    fault: Annotated[str, Matching("none|silo|sum")]
    reason: Text
    model: Digest
    quorum: Positive
    privacy_minimum: Positive
    opened: Natural
    summed: bool
    signatures: Natural
    retained: Natural
    floor: Natural
    cap: Natural
    silos: tuple[RoundSilo, ...]
    convicted: tuple[Conviction, ...]


def round_facts(history: History) -> tuple[RoundFacts, ...]:
    """All rounds in order, with each silo's ε after it."""
    ledger = Ledger(history)
    return tuple(_round(history, view, ledger) for view in history.rounds)


def appearances(rounds: Sequence[RoundFacts], silo: str) -> tuple[RoundSilo, ...]:
    """The silo's rows, of the rounds that named it."""
    return tuple(row for facts in rounds for row in facts.silos if row.silo == silo)


def spent(history: History, silo: str, rows: Sequence[RoundSilo]) -> int:
    """The greater of the ε of the silo's charges on record and of what it ever claimed, in millionths."""
    ledger = Ledger(history)
    start = (ledger.recomputed(silo), ledger.claimed(silo) or 0)
    return max((*start, *(row.epsilon_micro for row in rows), *(row.claimed_micro or 0 for row in rows)))


def spent_at_most(history: History, silo: str, rows: Sequence[RoundSilo]) -> int:
    """As `spent`, but as if the silo had spent in every round that named it, opened or not."""
    counts = history.counts.get(silo)
    charges = list(counts.receipt.charges) if counts else []
    for view in history.rounds:
        if silo in view.plan.silos:
            plan = view.plan
            charges += round_charges(plan.training, plan.prototypes, plan.evaluation_noise_micro)
    delta = history.genesis.task.budget.delta_nano
    return max(spent(history, silo, rows), epsilon(charges, delta))


def final_evaluations(history: History) -> dict[str, Evaluation]:
    """Each silo's noised counts for the released or current model, if the round that adopted it asked for any."""
    finished = history.phase is Phase.FINISHED
    final = (searches.releasable(history)[0] if finished else None) or history.model
    for view in reversed(history.rounds):
        outcome = view.outcome
        if outcome is not None and outcome.result == "adopted" and outcome.model == final:
            bodies = _adoptions(outcome.adoptions)
            signed = {silo: body.evaluation for silo, body in bodies.items() if body.model == outcome.model}
            return {silo: evaluation for silo, evaluation in signed.items() if evaluation is not None}
    return {}


def cosigned(history: History) -> dict[str, int]:
    """Per silo the size of the longest log whose head it co-signed; each adoption signs the head at the sum."""
    sizes: dict[str, int] = {}
    for view in history.rounds:
        for votes in (view.trace, view.outcome):
            for signed in votes.adoptions if votes is not None else ():
                sizes[signed.signer] = view.sum_size
    return sizes


class Ledger:
    """Charges and claims on record, per silo, as rounds are read in order."""

    def __init__(self, history: History) -> None:
        self._delta = history.genesis.task.budget.delta_nano
        self._charges: dict[str, list[Charge]] = {}
        self._claims: dict[str, int] = {}
        for silo, counts in history.counts.items():
            self.enter(silo, counts.receipt)

    def enter(self, silo: str, receipt: Receipt) -> None:
        """Take in one receipt."""
        self._charges.setdefault(silo, []).extend(receipt.charges)
        self._claims[silo] = receipt.epsilon_micro

    def recomputed(self, silo: str) -> int:
        """ε of all charges so far, in millionths, rounded up; 0 before the first."""
        return epsilon(self._charges.get(silo, ()), self._delta)

    def claimed(self, silo: str) -> int | None:
        """ε that the newest receipt claims."""
        return self._claims.get(silo)


def _round(history: History, view: RoundView, ledger: Ledger) -> RoundFacts:
    for silo, opening in view.openings.items():
        ledger.enter(silo, opening.receipt)
    outcome, policy = view.outcome, history.genesis.policy
    retained = len(view.weights)
    floor, cap = bounds(retained, policy.floor_micro, policy.cap_micro, policy.total_weight) if retained else (0, 0)
    return RoundFacts(
        round=view.plan.round,
        result=outcome.result if outcome else "open",
        fault=outcome.fault if outcome else "none",
        reason=outcome.reason if outcome else "",
        model=outcome.model if outcome else view.plan.model,
        quorum=view.plan.quorum,
        privacy_minimum=view.plan.privacy_minimum,
        opened=len(view.openings),
        summed=view.sum is not None,
        signatures=_signatures(outcome) if outcome else 0,
        retained=retained,
        floor=floor,
        cap=cap,
        silos=tuple(_row(view, silo, ledger) for silo in view.plan.silos),
        convicted=_convictions(view),
    )


def _row(view: RoundView, silo: str, ledger: Ledger) -> RoundSilo:
    judgements = view.decision.judgements if view.decision else ()
    judgement = next((item for item in judgements if item.silo == silo), None)
    missed = (*(view.challenge.late if view.challenge else ()), *(view.outcome.late if view.outcome else ()))
    return RoundSilo(
        silo=silo,
        opened=silo in view.openings,
        late=silo in missed,
        withdrawn=silo in view.withdrawn,
        verdict=judgement.verdict if judgement else NO_VERDICT,
        reason=judgement.reason if judgement else "",
        weight=judgement.weight if judgement else 0,
        scores=judgement.scores if judgement else (),
        epsilon_micro=ledger.recomputed(silo),
        claimed_micro=ledger.claimed(silo),
    )


def _convictions(view: RoundView) -> tuple[Conviction, ...]:
    return tuple(
        conviction for body in (view.decision, view.outcome) if body is not None for conviction in body.convicted
    )


def _signatures(outcome: Outcome) -> int:
    return sum(body.model == outcome.model for body in _adoptions(outcome.adoptions).values())


def _adoptions(signed: Sequence[Signed]) -> dict[str, Adoption]:
    return {item.signer: decode(Adoption, item.body) for item in signed}
