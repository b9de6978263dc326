"""The table of a find, for a terminal and for the report: every silo's part, what convicts, what the others show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from audit.findings import FindFacts, PartFacts, honest_scores, honest_span, score_names
from protos.records import Score
from protos.task import MICRO

LEVELS = "convicts one alone from"
HONEST = (
    "An honest silo's rounds are about normal draws of deviation 1, plus what its own data teach; once silos train "
    "against the trigger (after), it lies below zero."
)


@dataclass(frozen=True)
class FindTable:
    """Cells as text, one for each of `columns`, which are scores and then rounds; an empty one says nothing.

    `levels` is from which score on a silo is convicted if it is the only one; empty where the find convicts nobody.
    `others` is what the silos show that nothing in the log convicts: median, least to greatest.
    """

    columns: tuple[str, ...]
    silos: tuple[tuple[PartFacts, tuple[str, ...]], ...]
    levels: tuple[str, ...]
    others: tuple[str, ...]


def table_of(find: FindFacts, most_rounds: int) -> FindTable:
    """The table of an attributed find, with its newest `most_rounds` rounds; the certificate has them all."""
    names = score_names(find.parts)
    numbers = sorted({one.round for part in find.parts for one in part.contributions})[-most_rounds:]
    spans = [honest_scores(find.parts, name) for name in names] + [honest_span(find.parts, one) for one in numbers]
    return FindTable(
        columns=(*names, *(f"round {number}" for number in numbers)),
        silos=tuple((part, _scores(part.scores, names) + _rounds(part, numbers)) for part in find.parts),
        levels=_scores(find.levels, names) + ("",) * len(numbers) if find.levels else (),
        others=tuple(_span(one) for one in spans),
    )


def _scores(scores: Sequence[Score], names: Sequence[str]) -> tuple[str, ...]:
    found = {score.name: score.value_micro for score in scores}
    return tuple(_sigma(found.get(name)) for name in names)


def _rounds(part: PartFacts, numbers: Sequence[int]) -> tuple[str, ...]:
    found = {one.round: one.sigma_micro for one in part.contributions}
    return tuple(_sigma(found.get(number)) for number in numbers)


def _sigma(micro: int | None) -> str:
    return "" if micro is None else f"{micro / MICRO:.1f}"


def _span(span: tuple[float, float, float] | None) -> str:
    return "" if span is None else f"{span[1]:.1f} ({span[0]:.1f} to {span[2]:.1f})"
