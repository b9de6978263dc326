"""Which of the reported triggers are finds, and which of them are attributed: the silos' ballots, or a referee's word.

By ballot a find is confirmed if at least two silos, and more than half of those that measured, bear it out
(`audit.searches`). No ballot is right where half of the silos lie. Where the task names a *referee*, a silo that the
federation trusts with searches, its word decides whenever it gave one: a find is confirmed if it and one other silo
bear it out, what it measured is what is recorded, and of several triggers for a class one that it reported goes first.
How many others answer falsely does not matter then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median_low
from typing import TYPE_CHECKING

from audit.resemblance import SAME, about, nearly
from audit.searches import MAX_ATTRIBUTED, SearchView, bears_out, works
from protos.codec import decode
from protos.messages import FindAnswers, Signed
from protos.records import Clean, Confirmed, Finds
from protos.search import Trigger

if TYPE_CHECKING:
    from audit.history import History

Measured = Mapping[str, int]
"""Silo to the success that it measured, in millionths."""


def derive_checked(history: History, answers: tuple[Signed, ...], silent: tuple[str, ...]) -> Finds | Clean:
    """What follows the silos' measurements: finds that are confirmed or stand, or the end."""
    search = history.search.search
    confirmed, stood = _checked(history, answers)
    if confirmed or stood:
        return Finds(search.round, search.model, answers, silent, confirmed, stood)
    return Clean(search.round, search.model, (), answers, silent)


def _checked(history: History, answers: Iterable[Signed]) -> tuple[tuple[Confirmed, ...], tuple[Confirmed, ...]]:
    """Confirmed finds, and what stands and is none of those again; by digest."""
    view = history.search
    measured: dict[str, dict[str, int]] = {find: {} for find in view.measurable}
    for signed in answers:
        for answer in decode(FindAnswers, signed.body).answers:
            measured[answer.find][signed.signer] = answer.success_micro
    success = {find: _success(by_silo, view.referee) for find, by_silo in measured.items() if by_silo}
    votes = {find: _bearing_out(history, find, measured[find]) for find in view.triggers}
    found = {find for find, yes in votes.items() if _is_confirmed(yes, measured[find], view.referee)}
    chosen = _chosen(view, {find: success[find] for find in found})
    stood = _stood(view, success, found, chosen)

    def record(find: str, yes: int, attributed: bool) -> Confirmed:
        return Confirmed(find, success[find], yes, len(measured[find]) - yes, attributed)

    worked = {find: sum(works(history, value) for value in measured[find].values()) for find in stood}
    return (
        tuple(record(find, len(votes[find]), find in chosen) for find in sorted(found)),
        tuple(record(find, worked[find], True) for find in sorted(stood)),
    )


def _bearing_out(history: History, find: str, measured: Measured) -> set[str]:
    return {silo for silo, value in measured.items() if bears_out(history, history.search, silo, find, value)}


def _is_confirmed(yes: set[str], measured: Measured, referee: str | None) -> bool:
    if referee is not None and referee in measured:
        return referee in yes and len(yes) > 1
    return len(yes) > max(1, len(measured) - len(yes))


def _success(measured: Measured, referee: str | None) -> int:
    """What the referee measured, else the lower median."""
    by_referee = measured.get(referee) if referee is not None else None
    return median_low(list(measured.values())) if by_referee is None else by_referee


def _stood(view: SearchView, success: Measured, found: set[str], chosen: set[str]) -> list[str]:
    """What stands, is not found again and has its place beside the chosen: newest triggers, flips that work best."""
    new = [view.triggers[find] for find in chosen]
    again = {find for find, old in view.standing.items() if any(nearly(old, one, SAME) for one in new)}
    left = [find for find in view.standing if find in success and find not in found | again]
    stamps = [find for find in left if not view.standing[find].flip]
    flips = sorted((find for find in left if view.standing[find].flip), key=lambda find: (-success[find], find))
    places = MAX_ATTRIBUTED - sum(not one.flip for one in new), MAX_ATTRIBUTED - sum(one.flip for one in new)
    return stamps[: places[0]] + flips[: places[1]]


def _chosen(view: SearchView, success: Mapping[str, int]) -> set[str]:
    """What is attributed: of each target and source the find that the referee reports, that most silos report, then
    the most successful one.

    A find counts for every silo that reports nearly the same. Success alone would let a liar put another trigger, which
    works as well and which nobody taught, in the place of the one that was taught.
    """

    def rank(find: str) -> tuple[bool, int, int, str]:
        reporters = _reporters(view, view.triggers[find])
        return view.referee not in reporters, -len(reporters), -success[find], find

    ordered = sorted(success, key=rank)
    best: dict[tuple[int, int | None, bool], str] = {}
    for find in ordered:
        best.setdefault(about(view.triggers[find]), find)
    first = sorted(best.values(), key=ordered.index)
    kinds = [[find for find in first if view.triggers[find].flip == flip] for flip in (False, True)]
    return {find for kind in kinds for find in kind[:MAX_ATTRIBUTED]}


def _reporters(view: SearchView, trigger: Trigger) -> set[str]:
    """Silos that report nearly that trigger."""
    return {
        silo for silo, report in view.reports.items() if any(nearly(trigger, one.trigger, SAME) for one in report.finds)
    }
