"""The decision repeated from the log: exhibits of the openings, votes of the checkers, verdicts and weights.

The coordinator derives its decision here and everybody else verifies it here. Scores are floats turned integers, so a
repetition may differ in the last digits: scores are compared within a tolerance, verdicts and weights to the bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from audit import votes
from audit.errors import InvalidRecord
from crypto import sketch
from defenses.decide import conclude, score, scores_differ, verify_judgements
from defenses.drift import WINDOW
from defenses.errors import DefenseError
from defenses.evidence import Earlier, Exhibit, Rules, Setting
from protos.messages import Counts, Opening, Signed
from protos.records import Decision, Judgement, Outcome
from protos.rounds import Phase
from protos.task import MICRO

if TYPE_CHECKING:
    from audit.history import History, RoundView

NOT_BORNE_OUT = "its folded ciphertext does not bear out its opening"
NO_MAJORITY = "the checkers did not agree about its opening"
TRACED = "its ciphertext was found false when the failed sum was traced"


def setting_of(history: History, view: RoundView | None = None) -> Setting:
    """The public numbers of a round, by default the open one."""
    view, packing, genesis = view or history.round, history.packing, history.genesis
    plan, layout, rules = view.plan, genesis.task.layout, genesis.policy
    prototypes = plan.prototypes
    return Setting(
        learning_rate=plan.training.learning_rate_micro / MICRO,
        clip=plan.training.clip_micro / MICRO,
        noise_multiplier=plan.training.noise_micro / MICRO,
        sample_rate=plan.training.sample_rate_micro / MICRO,
        steps=plan.training.steps,
        step=2.0**plan.step_log2,
        column_counts=packing.column_counts,
        folds=packing.folds,
        signs=sketch.signs(view.seed, packing.folds, packing.body_chunks),
        body_size=packing.size - packing.output_size,
        output_size=packing.output_size,
        embedding=layout.embedding,
        classes=layout.classes,
        prototype_clip=0.0 if prototypes is None else prototypes.clip_micro / MICRO,
        prototype_noise=0.0 if prototypes is None else prototypes.noise_micro / MICRO,
        floor=rules.floor_micro / MICRO,
        cap=rules.cap_micro / MICRO,
        total_weight=rules.total_weight,
        fdr=rules.fdr_micro / MICRO,
        count_noise=genesis.task.counts_noise_micro / MICRO * 2**0.5,
    )


def rules_of(history: History) -> Rules:
    """The policy's scaled integers."""
    policy = history.genesis.policy
    return Rules(policy.fdr_micro, policy.floor_micro, policy.cap_micro, policy.total_weight)


def exhibit_of(history: History, silo: str, opening: Opening) -> Exhibit:
    """What a silo's opening and enrolment counts show."""
    packing, layout = history.packing, history.genesis.task.layout
    counts: Counts = history.counts[silo]
    folds, output = sketch.from_bytes(opening.folds, opening.output, packing, packing.folds)
    return Exhibit(
        silo=silo,
        count=counts.total,
        classes=np.array(counts.classes, dtype=np.int64),
        folds=folds.astype(np.int64),
        output=output.astype(np.int64),
        prototypes=_prototypes(opening, layout.classes, layout.embedding),
    )


def earlier_rounds(history: History) -> tuple[Earlier, ...]:
    """What decisions may remember of the last decided rounds before the open one, oldest first."""
    before = [view for view in history.rounds if view.decision and view is not history.round]
    return tuple(_earlier(history, view) for view in before[-WINDOW:])


def derive_decision(history: History, answers: tuple[Signed, ...]) -> Decision:
    """The decision that openings and answers lead to.

    Raises:
        DefenseError: where floor and cap leave no weights; the round is void then.
    """
    view, name = history.round, history.genesis.policy.defense
    finding = _finding(history, answers)
    convicted = {item.silo: item.reason for item in finding.convicted}
    exhibits = [exhibit_of(history, silo, view.openings[silo]) for silo in _judged(history, finding)]
    scored = score(setting_of(history), exhibits, name, convicted, earlier_rounds(history))
    judgements = conclude(scored, name, rules_of(history), convicted)
    return Decision(
        view.plan.round, name, answers, _with_undecided(history, judgements, finding.undecided), finding.convicted
    )


def verify_decision(history: History, body: Decision) -> None:
    """Repeat a recorded decision.

    Raises:
        InvalidRecord: names what does not follow.
    """
    if history.phase is Phase.CHECKING:
        unclear = votes.to_recheck(votes.ballots(body.checks), history.round.openings)
        _require(not unclear, f"checkers disagree about {unclear}: every silo has to check first")
    try:
        expected = derive_decision(history, body.checks)
        _require(body.defense == expected.defense, "the decision is by another defence than the policy's")
        _require(body.convicted == expected.convicted, "the convictions do not follow from the checkers' answers")
        _verify_scores(body.judgements, expected.judgements)
        convicted = {item.silo: item.reason for item in expected.convicted}
        finding = _finding(history, body.checks)
        rest = tuple(one for one in body.judgements if one.silo not in finding.undecided)
        verify_judgements(rest, body.defense, rules_of(history), convicted)
        _require(
            _with_undecided(history, rest, finding.undecided) == body.judgements,
            "silos without a majority of checkers must be left out",
        )
    except DefenseError as error:
        raise InvalidRecord(str(error)) from error


def derive_void(history: History, answers: tuple[Signed, ...]) -> Outcome:
    """What a trace leads to: liars convicted, or, where every retained silo is cleared, the sum called false."""
    view = history.round
    finding = votes.findings(votes.ballots(answers), view.traced, TRACED)
    missing = sorted(set(view.weights) - set(view.traced))
    if finding.convicted:
        fault, reason = "silo", "a check of the sum failed and was traced"
    elif missing or finding.undecided:
        fault, reason = "none", f"a check of the sum failed; the trace is incomplete: {[*missing, *finding.undecided]}"
    else:
        fault, reason = "sum", "a check of the sum failed and no silo is at fault: the sum was false"
    return Outcome(view.plan.round, "void", history.model, (), (), answers, (), finding.convicted, fault, reason[:400])


def verify_void(history: History, body: Outcome) -> None:
    """A void outcome accuses only after a trace, and then exactly as its answers say; raises InvalidRecord."""
    if history.phase is Phase.TRACE_CHECKING:
        _require(body == derive_void(history, body.checks), "the outcome does not follow from the trace's answers")
    else:
        plain = not body.convicted and not body.checks and body.fault == "none"
        _require(plain, "nobody can be accused without a trace")


def _earlier(history: History, view: RoundView) -> Earlier:
    packing, judgements = history.packing, view.decision.judgements if view.decision else ()
    opened = ((silo, view.openings[silo]) for silo in sorted(view.weights))
    outputs = {silo: sketch.from_bytes(one.folds, one.output, packing, packing.folds)[1] for silo, one in opened}
    return Earlier(setting_of(history, view), judgements, outputs)


def _finding(history: History, answers: tuple[Signed, ...]) -> votes.Finding:
    view = history.round
    earlier = view.recheck.checks if view.recheck else ()
    cast = votes.ballots((*earlier, *answers))
    return votes.findings(cast, view.openings, NOT_BORNE_OUT, votes.ballots(earlier))


def _judged(history: History, finding: votes.Finding) -> list[str]:
    return [silo for silo in sorted(history.round.openings) if silo not in finding.undecided]


def _with_undecided(
    history: History, judgements: tuple[Judgement, ...], undecided: tuple[str, ...]
) -> tuple[Judgement, ...]:
    out = [Judgement(silo, history.counts[silo].total, (), "excluded", NO_MAJORITY, 0) for silo in undecided]
    return tuple(sorted((*judgements, *out), key=lambda one: one.silo))


def _verify_scores(recorded: tuple[Judgement, ...], repeated: tuple[Judgement, ...]) -> None:
    _require(
        [one.silo for one in recorded] == [one.silo for one in repeated], "the judged silos are not the opened ones"
    )
    for one, other in zip(recorded, repeated, strict=True):
        _require(one.count == other.count, f"{one.silo}: the count is not the released one")
        differing = scores_differ(one.scores, other.scores)
        _require(differing is None, f"{one.silo}: {differing} cannot be repeated from the opening")


def _prototypes(opening: Opening, classes: int, embedding: int) -> NDArray[np.int64] | None:
    if opening.prototypes is None:
        return None
    return np.frombuffer(opening.prototypes, dtype="<i8").astype(np.int64).reshape(classes, embedding)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InvalidRecord(message)
