"""Whose turn it is: from whom the present phase awaits a message, and about whom. Pure functions of the history.

The coordinator takes messages from exactly these silos, and a silo finds its own duty here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from audit import searches, votes
from protos.rounds import TABLE, Phase

if TYPE_CHECKING:
    from audit.history import History


def awaited(history: History) -> tuple[str, ...]:
    """Silos whose message the phase awaits, sorted; empty where it awaits none."""
    if not TABLE[history.phase].awaits:
        return ()
    return tuple(sorted(_AWAITED[history.phase](history)))


def subjects(history: History, silo: str) -> tuple[str, ...]:
    """Silos about which `silo` has to answer now, sorted; empty outside the checking phases."""
    view = history.round
    if history.phase is Phase.CHECKING:
        drawn = votes.duties(view.seed, tuple(view.openings))
        return tuple(subject for subject, checkers in drawn.items() if silo in checkers)
    if history.phase is Phase.RECHECKING and view.recheck is not None:
        return tuple(subject for subject in view.recheck.subjects if subject != silo)
    if history.phase is Phase.TRACE_CHECKING:
        return tuple(sorted(subject for subject in view.traced if subject != silo))
    return ()


def asking_record(history: History) -> str:
    """Digest of the record that asks for answers in a checking phase; empty where nobody is asked."""
    view = history.round
    return {
        Phase.CHECKING: view.openings_digest,
        Phase.RECHECKING: view.recheck_digest,
        Phase.TRACE_CHECKING: view.trace_openings_digest,
    }.get(history.phase, "")


def deadline_ms(history: History) -> int | None:
    """How long the phase may last, in milliseconds; None where no deadline bounds it."""
    name = TABLE[history.phase].deadline
    return None if name is None else int(getattr(history.genesis.policy.deadlines, name))


def _checking(history: History) -> tuple[str, ...]:
    view = history.round
    candidates = view.openings if history.phase is not Phase.TRACE_CHECKING else view.plan.silos
    return tuple(silo for silo in candidates if silo not in history.convicted and subjects(history, silo))


def _steward(history: History) -> tuple[str, ...]:
    return (history.roster.steward,) if history.roster else ()


def _without_counts(history: History) -> tuple[str, ...]:
    return tuple(silo for silo in history.epoch_members if silo not in history.counts)


_AWAITED = {
    Phase.DEALING: _steward,
    Phase.CONFIRMING: lambda history: history.roster.members,
    Phase.COUNTING: _without_counts,
    Phase.COMMITTING: lambda history: history.round.plan.silos,
    Phase.OPENING: lambda history: history.round.commits,
    Phase.CHECKING: _checking,
    Phase.RECHECKING: _checking,
    Phase.VERIFYING: lambda history: history.round.plan.silos,
    Phase.TRACE_OPENING: lambda history: history.round.weights,
    Phase.TRACE_CHECKING: _checking,
    Phase.SEARCHING: lambda history: history.active,
    Phase.FIND_CHECKING: lambda history: history.search.reports,
    Phase.ATTRIBUTING: searches.drawn,
}
