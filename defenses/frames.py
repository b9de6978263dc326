"""Two frames for rules of the field: those that keep some silos, and those that give every silo a factor.

Either records its numbers as scores first; verdicts and weights are computed from the record alone. Rules of the
field have neither floor nor cap, and they exclude without evidence: a certificate over such rounds says so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from fractions import Fraction

from defenses.evidence import Exhibit, History, Opinion, Rules, Scored, Setting, fact
from defenses.rule import Plain
from defenses.sketches import Floats
from protos.task import MICRO

WEIGHT = "weight"


class Columns(Plain, ABC):
    """Records columns of numbers, one number per exhibit."""

    @abstractmethod
    def columns(self, setting: Setting, exhibits: Sequence[Exhibit]) -> Mapping[str, Floats]:
        """Scores by name, one number per exhibit (float64[n])."""

    def score(
        self, setting: Setting, exhibits: Sequence[Exhibit], history: History | None = None
    ) -> tuple[Scored, ...]:
        """Records the rule's columns."""
        return recorded(exhibits, self.columns(setting, exhibits) if exhibits else {})


class Selection(Columns):
    """Keeps some silos and weighs them by their noised counts, as federated averaging does.

    The papers' silos are of equal size, and their kept updates are averaged alike.
    """

    kept_words = "kept by the rule"
    left_out_words = "left out by the rule, without evidence"

    @abstractmethod
    def kept(self, scored: Sequence[Scored]) -> frozenset[str]:
        """The silos that stay, from recorded scores; at least one where there is one."""

    def opine(self, scored: Sequence[Scored], rules: Rules) -> tuple[Opinion, ...]:
        """Excludes whoever is not kept."""
        kept = self.kept(scored)
        return tuple(
            Opinion(
                one.silo,
                one.scores,
                one.silo not in kept,
                Fraction(0),
                self.kept_words if one.silo in kept else self.left_out_words,
            )
            for one in scored
        )


class Weighting(Columns):
    """Gives each silo a factor, recorded as `weight`; a silo with the factor 0 is left out."""

    by_count = False
    left_out_words = "the rule gives it the weight 0, without evidence"

    @abstractmethod
    def factors(self, setting: Setting, exhibits: Sequence[Exhibit]) -> Floats:
        """A factor of at least 0 per exhibit (float64[n]), counted in millionths: the greatest should be about 1."""

    def columns(self, setting: Setting, exhibits: Sequence[Exhibit]) -> Mapping[str, Floats]:
        """Scores by name, the factors last."""
        return {WEIGHT: self.factors(setting, exhibits)}

    def opine(self, scored: Sequence[Scored], rules: Rules) -> tuple[Opinion, ...]:
        """Leaves out whoever has no weight."""
        return tuple(_weighed(one, self.left_out_words) for one in scored)

    def base_weights(self, scored: Sequence[Scored]) -> dict[str, Fraction]:
        """The recorded factors, times the noised counts where the rule wants that."""
        return {one.silo: Fraction(one.value(WEIGHT) or 0) * (one.count if self.by_count else 1) for one in scored}


def recorded(exhibits: Sequence[Exhibit], columns: Mapping[str, Floats]) -> tuple[Scored, ...]:
    """Columns of floats as recorded scores, one `Scored` per exhibit."""
    return tuple(
        Scored(one.silo, one.count, tuple(fact(name, float(column[place])) for name, column in columns.items()))
        for place, one in enumerate(exhibits)
    )


def lowest(scored: Sequence[Scored], name: str, number: int) -> frozenset[str]:
    """The `number` silos with the lowest recorded score, ties by name of the silo."""
    ranked = sorted(scored, key=lambda one: (one.value(name) or 0, one.silo))
    return frozenset(one.silo for one in ranked[:number])


def _weighed(one: Scored, left_out: str) -> Opinion:
    factor = one.value(WEIGHT) or 0
    words = left_out if factor <= 0 else f"the rule gives it the factor {factor / MICRO:.3f}"
    return Opinion(one.silo, one.scores, factor <= 0, Fraction(0), words)
