"""The interface of a defence: floats become recorded integers once, and all that follows reads integers only."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Protocol

from defenses.evidence import Exhibit, History, Opinion, Rules, Scored, Setting, fact, rules_of
from defenses.laws import blocks_of


class Defense(Protocol):
    """Judges all silos of one round. Implementations have no state, read no clock and draw nothing at random.

    `score` is floating point and may differ in the last bits between machines; `opine` and `base_weights` are
    exact functions of what `score` recorded.
    """

    @property
    def name(self) -> str:
        """As in the policy and the registry."""

    @property
    def bounded(self) -> bool:
        """Whether floor and cap of the policy hold for its weights."""

    def score(
        self, setting: Setting, exhibits: Sequence[Exhibit], history: History | None = None
    ) -> tuple[Scored, ...]:
        """One `Scored` per exhibit, in the order given."""

    def opine(self, scored: Sequence[Scored], rules: Rules) -> tuple[Opinion, ...]:
        """One opinion per silo from its recorded scores, in the order given."""

    def base_weights(self, scored: Sequence[Scored]) -> dict[str, Fraction]:
        """Positive base weight of each silo, before suspicion, floor and cap."""

    def judge(
        self, setting: Setting, exhibits: Sequence[Exhibit], history: History | None = None
    ) -> tuple[Opinion, ...]:
        """`opine` after `score`."""


class Plain:
    """Weights by noised count; nobody is suspected or excluded. The baseline, and the frame of other rules."""

    name = "plain"
    bounded = False

    def score(
        self, setting: Setting, exhibits: Sequence[Exhibit], history: History | None = None
    ) -> tuple[Scored, ...]:
        """Records the estimated norm of each update, in model units."""
        norms = blocks_of(setting, exhibits)[0].norm if exhibits else ()
        return tuple(
            Scored(one.silo, one.count, (fact("norm", float(norm)),)) for one, norm in zip(exhibits, norms, strict=True)
        )

    def opine(self, scored: Sequence[Scored], rules: Rules) -> tuple[Opinion, ...]:
        """No doubts."""
        return tuple(Opinion(one.silo, one.scores, False, Fraction(0), "weighed by its record count") for one in scored)

    def base_weights(self, scored: Sequence[Scored]) -> dict[str, Fraction]:
        """The noised record counts."""
        return {one.silo: Fraction(one.count) for one in scored}

    def judge(
        self, setting: Setting, exhibits: Sequence[Exhibit], history: History | None = None
    ) -> tuple[Opinion, ...]:
        """`opine` after `score`."""
        return self.opine(self.score(setting, exhibits, history), rules_of(setting))
