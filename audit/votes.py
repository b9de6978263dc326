"""Who checks whom, and what follows from signed answers. Pure functions of what is in the log.

Rules: three other silos drawn by the seed check each opening. A `no`, or fewer than two answers, makes every silo
check that subject. Then a majority convicts: the subject where at least two say `no` and fewer `yes`, and whoever ever
signed the opposite of a majority of at least three. Otherwise a subject without more `yes` than `no` is left out of
this round and nobody is convicted: one voice alone accuses nobody.
A majority of liars among the answering silos can convict an honest one; DESIGN's threat model says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from crypto.sketch import checkers
from protos.codec import decode
from protos.messages import Answers, KeyCheck, Signed, TraceOpening
from protos.records import Conviction

CHECKERS = 3
ENOUGH_ANSWERS = 2
CONVICTING_MAJORITY = 3

Ballots = dict[str, dict[str, bool]]
"""Subject to checker to answer."""


@dataclass(frozen=True)
class Finding:
    """What a vote says: `convicted` with reasons, and `undecided` subjects that only this round leaves out."""

    convicted: tuple[Conviction, ...]
    undecided: tuple[str, ...]


@lru_cache(maxsize=8)
def duties(seed: bytes, opened: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
    """Subject to its checkers, drawn by the round's seed among the silos that opened."""
    count = min(CHECKERS, len(opened) - 1)
    return {subject: checkers(seed, subject, tuple(sorted(opened)), count) for subject in sorted(opened)}


def ballots(answers: Iterable[Signed]) -> Ballots:
    """Answers by subject; where a silo answered twice the later one counts."""
    result: Ballots = {}
    for signed in answers:
        for answer in decode(Answers, signed.body).answers:
            result.setdefault(answer.silo, {})[signed.signer] = answer.ok
    return result


def to_recheck(cast: Ballots, opened: Iterable[str]) -> tuple[str, ...]:
    """Subjects that every silo has to check: somebody said no, or too few answered."""
    return tuple(sorted(s for s in opened if _unclear(cast.get(s, {}))))


def findings(cast: Ballots, opened: Iterable[str], reason: str, earlier: Ballots | None = None) -> Finding:
    """The outcome of a vote about `opened`, sorted by silo; each conviction names `reason` or the false answer.

    `earlier` are first answers to the same question: they count for nobody, but a false one convicts who signed it.
    """
    convicted: dict[str, str] = {}
    undecided = []
    for subject in sorted(opened):
        votes = cast.get(subject, {})
        no = sorted(silo for silo, ok in votes.items() if not ok)
        yes = sorted(silo for silo, ok in votes.items() if ok)
        if len(no) > len(yes) and len(no) >= ENOUGH_ANSWERS:
            convicted[subject] = reason
        elif len(no) >= len(yes):
            undecided.append(subject)
        _convict_minority(convicted, subject, yes, no, (earlier or {}).get(subject, {}))
    return Finding(tuple(Conviction(silo, why) for silo, why in sorted(convicted.items())), tuple(undecided))


def most_common(values: Sequence[str]) -> str:
    """The most frequent value, the smallest of equals; an empty text where there is none."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value)) if counts else ""


def traced(openings: Iterable[Signed]) -> dict[str, str]:
    """Silo to the Merkle root of its trace folds."""
    return {signed.signer: decode(TraceOpening, signed.body).folded for signed in openings}


def sealed_copy(key_checks: Iterable[Signed]) -> str | None:
    """Digest of the current model sealed under the new epoch's secrets, None where no member has the model."""
    values = [decode(KeyCheck, signed.body).sealed for signed in key_checks]
    return most_common([value for value in values if value is not None]) or None


def _unclear(votes: dict[str, bool]) -> bool:
    return len(votes) < ENOUGH_ANSWERS or not all(votes.values())


def _convict_minority(
    convicted: dict[str, str], subject: str, yes: list[str], no: list[str], earlier: dict[str, bool]
) -> None:
    minority, majority = sorted((yes, no), key=len)
    if len(majority) >= CONVICTING_MAJORITY and len(minority) < len(majority):
        turned = [silo for silo, ok in earlier.items() if ok != (majority is yes)]
        for silo in sorted({*minority, *turned}):
            convicted.setdefault(silo, f"signed a false answer about {subject}")
