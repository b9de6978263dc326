"""The defence: laws exclude under a controlled false discovery rate, suspicion lowers weights and nothing more.

Suspicion grows linearly from 0 to 1 over a ramp for each kind of score; the greatest one counts. The ramps begin
where honest silos of 56 to 450 records, one of them nearly all of one digit, did not come in a simulation on real
digits (see `tests/defenses/test_guard.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from defenses.consistency import excess, signal_lengths, unexplained_lengths
from defenses.drift import drifts
from defenses.evidence import Exhibit, History, Opinion, Rules, Scored, Setting, fact, facts
from defenses.fdr import discoveries
from defenses.independence import own_scores
from defenses.laws import coordinates, law_scores
from defenses.prototypes import agreements, deviations, means_of, shown
from defenses.rule import Plain
from protos.records import Score
from protos.task import MICRO


@dataclass(frozen=True)
class Ramp:
    """Scaled values at which a suspicion begins and is full, and what to call it."""

    begin: int
    full: int
    words: str


RAMPS = {
    "signal": Ramp(500_000, 900_000, "its output layer moves {value:.2f} of the clipping bound more than the others'"),
    "unexplained": Ramp(200_000, 500_000, "{value:.2f} of the clipping bound is explained by no class prototype"),
    "prototype": Ramp(4_000_000, 8_000_000, "its prototypes lie {value:.1f} of its own deviations from the consensus"),
    "agreement": Ramp(4_500_000, 9_000_000, "its prototypes stray as another silo's do, by {value:.1f} deviations"),
    "drift": Ramp(5_000_000, 10_000_000, "its output layer lies {value:.1f} of its own deviations off its own past"),
}
"""`signal`, `unexplained`: units of lr*C*steps. `prototype`, `agreement`: standard deviations."""


WORDS = {
    "norm": "norm",
    "output": "norm of the output layer",
    "body": "norm of the body",
    "own": "norm off all that the others' updates make up",
}
"""What a law measures, by the name of its block."""


class Guard(Plain):
    """Law evidence, FDR-controlled exclusion, suspicion; weights by noised count under floor and cap."""

    name = "guard"
    bounded = True

    def score(
        self, setting: Setting, exhibits: Sequence[Exhibit], history: History | None = None
    ) -> tuple[Scored, ...]:
        """All laws and all suspicions; those on prototypes only in rounds that have them."""
        columns = {"signal": excess(signal_lengths(setting, exhibits))}
        if shown(setting, exhibits):
            means = means_of(setting, exhibits)
            columns["unexplained"] = excess(unexplained_lengths(setting, exhibits, means))
            columns["prototype"] = deviations(setting, means)
            columns["agreement"] = agreements(setting, means)
        doubts = [facts(name, column) for name, column in columns.items()]
        drifting = drifts(setting, exhibits, history)
        past = [() if math.isnan(value) else (fact("drift", value),) for value in drifting.tolist()]
        rows = zip(exhibits, _law_scores(setting, exhibits), zip(*doubts, strict=True), past, strict=True)
        return tuple(Scored(one.silo, one.count, laws + said + drift) for one, laws, said, drift in rows)

    def opine(self, scored: Sequence[Scored], rules: Rules) -> tuple[Opinion, ...]:
        """Excludes by Benjamini-Hochberg over the silos' laws, and states suspicions of the rest."""
        laws = {
            one.silo: [law.evidence_micro for law in one.scores if law.evidence_micro is not None] for one in scored
        }
        tests = max((len(found) for found in laws.values()), default=0)
        evidence = {silo: max(found, default=0) for silo, found in laws.items()}
        found = discoveries(evidence, tests, rules.fdr_micro) if tests else frozenset()
        return tuple(_opinion(one, one.silo in found) for one in scored)


def suspicion_of(scored: Scored) -> tuple[Fraction, str]:
    """The greatest suspicion and the name of its score, in exact arithmetic."""
    doubts = [(Fraction(0), "")]
    for score in scored.scores:
        ramp = RAMPS.get(score.name)
        if ramp is not None and score.value_micro > ramp.begin:
            doubt = Fraction(score.value_micro - ramp.begin, ramp.full - ramp.begin)
            doubts.append((min(Fraction(1), doubt), score.name))
    return max(doubts, key=lambda doubt: doubt[0])


def _law_scores(setting: Setting, exhibits: Sequence[Exhibit]) -> list[tuple[Score, ...]]:
    """All laws, from one reading of the folds."""
    seen = coordinates(setting, exhibits)
    norms, own = law_scores(setting, exhibits, seen), own_scores(setting, exhibits, seen)
    return [one + other for one, other in zip(norms, own, strict=True)]


def _opinion(scored: Scored, excluded: bool) -> Opinion:
    doubt, name = suspicion_of(scored)
    if excluded:
        return Opinion(scored.silo, scored.scores, True, doubt, _breach(scored))
    if doubt == 0:
        return Opinion(scored.silo, scored.scores, False, doubt, "within the norm law, nothing suspicious")
    words = RAMPS[name].words.format(value=(scored.value(name) or 0) / MICRO)
    return Opinion(scored.silo, scored.scores, False, doubt, f"{words}; weight lowered, not excluded")


def _breach(scored: Scored) -> str:
    laws = (score for score in scored.scores if score.evidence_micro is not None)
    law = max(laws, key=lambda score: score.evidence_micro or 0)
    block, side = law.name.rsplit("-", 1)
    what = WORDS[block]
    measured, limit = (scored.value(block) or 0) / MICRO, law.value_micro / MICRO
    why = "that the noise alone makes" if side == "below" else "that clipping gives"
    exponent = (law.evidence_micro or 0) // MICRO
    return (
        f"{what} {measured:.1f} is {side} the {'bound ' if side == 'above' else ''}{limit:.1f} {why}, p < 1e-{exponent}"
    )
