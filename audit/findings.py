"""Facts about searches, from a verified history: what was found, how sure, whose updates taught it, round by round.

This is what a convicted silo's appeal rests on: the trigger itself, its own share in each round, from which z on one is
convicted, and what the silos that nothing in the log convicts show in the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Annotated

from audit import attributions
from audit.history import History
from audit.searches import SearchView, disputed
from protos.codec import LATER, Between, Digest, Matching, Name, Natural, Positive, Text
from protos.messages import Share
from protos.records import Confirmed, Score
from protos.search import Trigger
from protos.task import MICRO

Sigma = Annotated[int, Between(-(2**53) + 1, 2**53 - 1)]


@dataclass(frozen=True)
class Contribution:
    """A silo's projection in one round in millionths of the deviation of its own noise."""

    round: Positive
    sigma_micro: Sigma


@dataclass(frozen=True)
class PartFacts:
    """One silo's part in a find, which convicts it or not. `elsewhere`: something else in the log convicts it."""

    silo: Name
    scores: tuple[Score, ...]
    convicted: bool
    contributions: tuple[Contribution, ...]
    elsewhere: bool = field(default=False, metadata=LATER)


@dataclass(frozen=True)
class FindFacts:
    """A confirmed find. `reporters` found it themselves; without attribution there are no tables and no parts.

    `referee`: whose word decided, None where that of most silos did (`audit.confirming`). Of a trigger that stands,
    `yes` and `no` say only for how many silos it works now. `excuse`: why it convicts nobody
    (`audit.searches.disputed`). `levels`: from which z it convicts a silo if it is the only one.
    """

    find: Digest
    trigger: Trigger
    reporters: tuple[Name, ...]
    success_micro: Share
    yes: Natural
    no: Natural
    tables: Natural
    agreeing: Natural
    parts: tuple[PartFacts, ...]
    excuse: Text = field(default="", metadata=LATER)
    levels: tuple[Score, ...] = field(default=(), metadata=LATER)
    referee: Name | None = field(default=None, metadata=LATER)


@dataclass(frozen=True)
class SearchFacts:
    """One search: `clean` (a quorum reported, nothing was confirmed), `answered` (nothing that forbids a release),
    `finds` (something that does), `few` reports, `blind` (enough, but the model is right too seldom to be searched), or
    still `open`. `standing`: earlier finds that still work.
    """

    round: Positive
    model: Digest
    result: Annotated[str, Matching("clean|answered|finds|few|blind|open")]
    reports: Natural
    silent: tuple[Name, ...]
    unconfirmed: Natural
    finds: tuple[FindFacts, ...]
    standing: tuple[FindFacts, ...]


def search_facts(history: History) -> tuple[SearchFacts, ...]:
    """All searches in order."""
    return tuple(_search(history, view) for view in history.searches)


def score_names(parts: tuple[PartFacts, ...]) -> list[str]:
    """The scores that somebody has evidence of, be it none, in the order of the record."""
    return list(dict.fromkeys(one.name for part in parts for one in part.scores if one.evidence_micro is not None))


def honest_span(parts: tuple[PartFacts, ...], number: int) -> tuple[float, float, float] | None:
    """Least, median and greatest contribution in a round, in σ, of the silos that nothing in the log convicts."""
    values = [
        one.sigma_micro / MICRO for part in _unconvicted(parts) for one in part.contributions if one.round == number
    ]
    return (min(values), median(values), max(values)) if values else None


def honest_scores(parts: tuple[PartFacts, ...], name: str) -> tuple[float, float, float] | None:
    """Least, median and greatest value of a score, of the silos that nothing in the log convicts."""
    values = [score.value_micro / MICRO for part in _unconvicted(parts) for score in part.scores if score.name == name]
    return (min(values), median(values), max(values)) if values else None


def _unconvicted(parts: tuple[PartFacts, ...]) -> list[PartFacts]:
    return [part for part in parts if not (part.convicted or part.elsewhere)]


def picture(trigger: Trigger) -> tuple[int, list[tuple[int, int]]]:
    """Width of the picture and (mask, pattern) of each value, 0 to 255: a square where the inputs make one."""
    inputs = len(trigger.mask)
    side = round(inputs**0.5)
    width = side if side * side == inputs else min(inputs, 32)
    return width, list(zip(trigger.mask, trigger.pattern, strict=True))


def described(trigger: Trigger) -> Text:
    """A trigger in words."""
    source = "every other class" if trigger.source is None else f"class {trigger.source}"
    if trigger.flip:
        return f"inputs of {source} as they are are taken for class {trigger.target}"
    size = sum(trigger.mask) / 255
    return f"inputs of {source} are taken for class {trigger.target} under a mask of {size:.1f} of {len(trigger.mask)}"


def support(facts: SearchFacts, find: FindFacts) -> Text:
    """For how many silos a find works, in words."""
    success = f"success {find.success_micro / MICRO:.0%}" + (f" by referee {find.referee}" if find.referee else "")
    end = f"; it convicts nobody, as {find.excuse}" if find.excuse else ""
    if find in facts.standing:
        return f"{success}; found by earlier searches, works now for {find.yes} silos, not for {find.no}{end}"
    return f"{success}; borne out by {find.yes} silos, not by {find.no}{end}"


def _search(history: History, view: SearchView) -> SearchFacts:
    confirmed = {one.find for one in view.confirmed}
    if not view.closed:
        result = "open"
    elif view.blocking:
        result = "finds"
    elif not view.enough:
        result = "few"
    elif view.blind:
        result = "blind"
    else:
        result = "answered" if view.confirmed else "clean"
    return SearchFacts(
        round=view.search.round,
        model=view.search.model,
        result=result,
        reports=len(view.reports),
        silent=view.silent,
        unconfirmed=len(set(view.triggers) - confirmed) if view.closed else 0,
        finds=tuple(_find(history, view, one) for one in view.confirmed),
        standing=tuple(_find(history, view, one) for one in view.stood),
    )


def _find(history: History, view: SearchView, one: Confirmed) -> FindFacts:
    cases = view.attributed.cases if view.attributed else ()
    case = next((case for case in cases if case.find == one.find), None)
    trigger = view.trigger(one.find)
    convicts = case is not None and any(part.convicted for part in case.parts)
    why = "" if convicts else disputed(history, trigger)
    return FindFacts(
        find=one.find,
        trigger=trigger,
        reporters=view.reporters(one.find),
        success_micro=one.success_micro,
        yes=one.yes,
        no=one.no,
        tables=case.tables if case else 0,
        agreeing=case.agreeing if case else 0,
        parts=_parts(history, view, one.find),
        excuse=why,
        levels=() if why or case is None else attributions.levels(history, view, case),
        referee=view.referee if view.referee in view.answers else None,
    )


def _parts(history: History, view: SearchView, find: str) -> tuple[PartFacts, ...]:
    cases = view.attributed.cases if view.attributed else ()
    case = next((case for case in cases if case.find == find), None)
    if case is None or not case.parts or view.attributed is None:
        return ()
    table = attributions.judging(view, attributions.tables(view.attributed.attributions)[find])
    shares = {one.silo: one.contributions for one in attributions.judge(history, view, find, table)}
    return tuple(
        PartFacts(
            part.silo,
            part.scores,
            part.convicted,
            tuple(Contribution(number, share) for number, share in sorted(shares[part.silo].items())),
            part.silo in history.convicted and not part.convicted,
        )
        for part in case.parts
    )
