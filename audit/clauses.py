"""The promises of the policy, each checked against the facts of the log: (name, met, text, detail).

Replaying the log has refused most breaches already. The clauses are checked again here all the same, by other code and
from the certified numbers, so that the certificate stands on its own feet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from audit import searches
from audit.history import History
from audit.replay import NO_MAJORITY
from audit.tally import RoundFacts, RoundSilo
from defenses.fdr import threshold
from protos.rounds import Phase
from protos.task import MICRO

Finding: TypeAlias = tuple[str, bool, str, str]
Rounds: TypeAlias = tuple[RoundFacts, ...]


def findings(history: History, rounds: Rounds) -> tuple[Finding, ...]:
    """All clauses in a fixed order."""
    return tuple(
        (name, not breach, text, breach or kept)
        for name, text, check in _CLAUSES
        for breach, kept in [check(history, rounds)]
    )


def _floor(history: History, rounds: Rounds) -> tuple[str, str]:
    return _weights(rounds, "floor", lambda facts, row: row.weight - facts.floor)


def _cap(history: History, rounds: Rounds) -> tuple[str, str]:
    return _weights(rounds, "cap", lambda facts, row: facts.cap - row.weight)


def _weights(rounds: Rounds, bound: str, margin: Callable[[RoundFacts, RoundSilo], int]) -> tuple[str, str]:
    """The tightest weight decides; ties go to the earliest round."""
    margins = [(margin(facts, row), facts, row) for facts in rounds for row in facts.silos if row.weight > 0]
    if not margins:
        return "", "no round was decided"
    least, facts, row = min(margins, key=lambda item: item[0])
    limit = facts.floor if bound == "floor" else facts.cap
    said = f"round {facts.round}, {row.silo}: weight {row.weight}, {bound} {limit}"
    return (said, "") if least < 0 else ("", f"{len(margins)} weights; the closest: {said}")


def _total(history: History, rounds: Rounds) -> tuple[str, str]:
    total = history.genesis.policy.total_weight
    sums = [(facts.round, sum(row.weight for row in facts.silos)) for facts in rounds if facts.retained]
    wrong = [f"round {number}: weights sum to {value}, not {total}" for number, value in sums if value != total]
    return _first(wrong, f"{len(sums)} rounds, W = {total}")


def _quorum(history: History, rounds: Rounds) -> tuple[str, str]:
    summed = [facts for facts in rounds if facts.summed]
    wrong = [_round_of(f, f"{f.opened} opened, the quorum is {f.quorum}") for f in summed if f.opened < f.quorum]
    least = min((facts.opened for facts in summed), default=0)
    return _first(wrong, f"{len(summed)} sums of at least {least} opened updates")


def _privacy_minimum(history: History, rounds: Rounds) -> tuple[str, str]:
    summed = [facts for facts in rounds if facts.summed]
    wrong = [
        _round_of(facts, f"{facts.retained} retained, the privacy minimum is {facts.privacy_minimum}")
        for facts in summed
        if facts.retained < facts.privacy_minimum
    ]
    least = min((facts.retained for facts in summed), default=0)
    return _first(wrong, f"{len(summed)} sums of at least {least} retained silos")


def _budget(history: History, rounds: Rounds) -> tuple[str, str]:
    limit = history.genesis.task.budget.epsilon_micro
    spent = [(max(row.epsilon_micro, row.claimed_micro or 0), f.round, row.silo) for f in rounds for row in f.silos]
    wrong = [f"round {n}, {silo}: epsilon {_decimal(e)} of {_decimal(limit)}" for e, n, silo in spent if e > limit]
    most = max((epsilon for epsilon, _, _ in spent), default=0)
    return _first(wrong, f"the most is epsilon {_decimal(most)} of {_decimal(limit)}")


def _receipts(history: History, rounds: Rounds) -> tuple[str, str]:
    wrong = [
        f"round {facts.round}, {row.silo}: claims {_decimal(row.claimed_micro)}, spent {_decimal(row.epsilon_micro)}"
        for facts in rounds
        for row in facts.silos
        if row.claimed_micro is not None and row.claimed_micro < row.epsilon_micro
    ]
    return _first(wrong, f"{sum(facts.opened for facts in rounds)} receipts of rounds")


def _exclusions(history: History, rounds: Rounds) -> tuple[str, str]:
    """Necessary for Benjamini-Hochberg at q: p <= q. Replaying the log repeats the whole procedure, and the votes."""
    least = threshold(1, 1, 1, history.genesis.policy.fdr_micro)
    excluded = [(facts.round, row) for facts in rounds for row in facts.silos if row.verdict == "excluded"]
    disputed = sum(row.reason == NO_MAJORITY for _, row in excluded)
    wrong = [
        f"round {number}, {row.silo}: {row.reason}"
        for number, row in excluded
        if _evidence(row) < least and row.reason != NO_MAJORITY
    ]
    judged = sum(row.verdict != "none" for facts in rounds for row in facts.silos)
    return _first(wrong, f"{len(excluded)} exclusions ({disputed} for disputed checks) in {judged} verdicts")


def _adoption(history: History, rounds: Rounds) -> tuple[str, str]:
    adopted = [facts for facts in rounds if facts.result == "adopted"]
    wrong = [
        _round_of(facts, f"{facts.signatures} of {len(facts.silos)} signed")
        for facts in adopted
        if 2 * facts.signatures <= len(facts.silos)
    ]
    least = min((facts.signatures for facts in adopted), default=0)
    return _first(wrong, f"{len(adopted)} models with at least {least} signatures")


def _search(history: History, rounds: Rounds) -> tuple[str, str]:
    """A task without a search promises none; the detail says so."""
    rule = history.genesis.task.search
    if rule is None:
        return "", "the task has no search: nobody looked at what the model has learnt"
    views = [view for view in history.searches if view.closed]
    found = sum(len(view.confirmed) for view in views)
    judge = f" by the word of {rule.referee}" if rule.referee else ""
    said = f"{len(views)} searches, {found} finds{judge}"
    if history.phase is not Phase.FINISHED:
        return "", f"{said}; nothing is released yet"
    released = searches.releasable(history)[0]
    if released is None:
        return "", f"{said}; no model was released, because no search of one was clean"
    clean = [view for view in views if view.search.model == released and not searches.blocking(history, view)]
    if all(view.blind for view in clean):
        return f"the released model {released[:16]} was not searched without a find", ""
    return "", f"{said}; the released model is that of round {clean[-1].search.round}"


def _evidence(row: RoundSilo) -> int:
    return max((score.evidence_micro for score in row.scores if score.evidence_micro is not None), default=-1)


def _first(wrong: Iterable[str], kept: str) -> tuple[str, str]:
    found = list(wrong)
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return (found[0][:380] + more, "") if found else ("", kept)


def _round_of(facts: RoundFacts, what: str) -> str:
    return f"round {facts.round}: {what}"


def _decimal(micro: int | None) -> str:
    """Three decimals, rounded up: these are privacy figures."""
    milli = -(-(micro or 0) * 1000 // MICRO)
    return f"{milli // 1000}.{milli % 1000:03d}"


_EXCLUSIONS = (
    "Silos were excluded only on evidence at the policy's false discovery rate, or for one round because the signed "
    "answers of their checkers contradict each other."
)
_SEARCHED = (
    "Where the task has a search, a model is released only if silos searched that very model and left no find "
    "unanswered."
)
_CLAUSES: tuple[tuple[str, str, Callable[[History, Rounds], tuple[str, str]]], ...] = (
    ("weight-floor", "Every retained silo weighed at least ceil(floor x W / m) in every decided round.", _floor),
    ("weight-cap", "No silo weighed more than floor(cap x W / m) in any decided round.", _cap),
    ("weight-total", "The weights of every decided round sum to W.", _total),
    ("quorum", "Every sum was made of a round in which at least the quorum opened an update.", _quorum),
    ("privacy-minimum", "Every sum was of at least the privacy minimum of retained silos.", _privacy_minimum),
    ("privacy-budget", "No silo spent or claimed more than the task's epsilon at its delta.", _budget),
    ("receipts", "No silo's receipt claims less epsilon than its charges on record give.", _receipts),
    ("exclusions", _EXCLUSIONS, _exclusions),
    ("adoption", "Every adopted model was signed by more than half of the round's silos.", _adoption),
    ("search", _SEARCHED, _search),
)
