"""Who taught the model a trigger: projections of the logged sketches, their median, and what follows from it.

A table holds, for each of the last `memory` adopted rounds, each silo judged in it and each class c, the projection of
the silo's logged sketch on the direction in which the model of that round would learn to call the trigger c, in
millionths of a quantisation step (`defenses.attribution`). Only who has the past models can make a table, and every
silo that has them makes the same one up to float noise. What follows from tables needs no model: the median of the
drawn silos' tables, x, z and the convictions are repeated by coordinator, silos and auditor.

A case convicts only if most of at least two tables, each taken alone, say the same z of every silo within
`AGREEMENT_MICRO`. So a minority of lying tables neither convicts nor clears anybody; a lying majority convicts whom
it likes, and every silo that made a table of its own sees it (`contradicts`). Where the task's referee
(`audit.confirming`) made one, that one judges instead of the median, and convicts if one other says the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from audit import replay, searches
from audit.errors import InvalidRecord
from defenses.attribution import Attribution as Judged
from defenses.attribution import Projected, attribute, guilty, least_z
from defenses.decide import scores_differ
from defenses.evidence import Exhibit, Setting
from protos.codec import decode
from protos.messages import Attribution, Signed
from protos.records import Attributed, Case, Conviction, Part, Score
from protos.task import MICRO

if TYPE_CHECKING:
    from audit.history import History, RoundView
    from audit.searches import SearchView

AGREEMENT_MICRO = MICRO // 2
"""Half a standard deviation: far above float noise, far below what decides between honest and guilty."""
MAX_PROJECTION = 2**53 - 1

Table = NDArray[np.int64]
Floats = NDArray[np.float64]
Shown: TypeAlias = tuple[int, Setting, list[Exhibit]]


def past(history: History, search: SearchView) -> list[RoundView]:
    """The rounds that a search's tables are about: the last `memory` adopted ones before it, oldest first."""
    rule = searches.rule_of(history)
    assert rule is not None
    return [view for view in history.rounds[: search.search.round] if view.adopted][-rule.memory :]


def judged(view: RoundView) -> tuple[str, ...]:
    """Silos whose sketch a round's decision read, sorted: those that checkers bore out, excluded ones included."""
    judgements = view.decision.judgements if view.decision else ()
    return tuple(one.silo for one in judgements if one.verdict != "convicted" and one.reason != replay.NO_MAJORITY)


def exhibits(history: History, view: RoundView) -> list[Exhibit]:
    """What those silos showed."""
    return [replay.exhibit_of(history, silo, view.openings[silo]) for silo in judged(view)]


def table_size(history: History, search: SearchView) -> int:
    """Numbers in a table."""
    return sum(len(judged(view)) for view in past(history, search)) * history.genesis.task.layout.classes


def to_bytes(parts: Sequence[Floats]) -> bytes:
    """A table from projections in quantisation steps, per past round float64[judged silos, classes]."""
    flat = np.concatenate([part.ravel() for part in parts])
    scaled: Table = np.clip(np.rint(flat * MICRO), -MAX_PROJECTION, MAX_PROJECTION).astype("<i8")
    return scaled.tobytes()


def from_bytes(data: bytes) -> Table:
    """Inverse of `to_bytes`, flat: int64[table_size]."""
    return np.frombuffer(data, dtype="<i8").astype(np.int64)


def split(history: History, search: SearchView, table: Table) -> list[Table]:
    """A flat table per past round: int64[judged silos, classes], silos sorted."""
    classes = history.genesis.task.layout.classes
    ends = np.cumsum([len(judged(view)) * classes for view in past(history, search)])
    return [part.reshape(-1, classes) for part in np.split(table, ends[:-1])]


def median(tables: Sequence[Table]) -> Table:
    """Elementwise lower median: with an honest majority every number lies between honest ones."""
    ordered: Table = np.sort(np.stack(tables), axis=0)[(len(tables) - 1) // 2]
    return ordered


def judging(search: SearchView, made: Mapping[str, Table]) -> Table:
    """The table of several silos' that judges: the referee's where there is one, else their median."""
    by_referee = made.get(search.referee) if search.referee is not None else None
    return median(list(made.values())) if by_referee is None else by_referee


def judge(
    history: History, search: SearchView, find: str, table: Table, shown: Sequence[Shown] | None = None
) -> tuple[Judged, ...]:
    """What one table says of each silo, sorted by silo; `shown` saves reading the rounds again."""
    trigger = search.trigger(find)
    rounds = [
        Projected(
            number,
            setting,
            exhibited,
            part / MICRO * setting.step,
            searches.told(history, trigger, number),
        )
        for (number, setting, exhibited), part in zip(
            shown or shown_in(history, search), split(history, search, table), strict=True
        )
    ]
    return attribute(rounds, trigger)


def shown_in(history: History, search: SearchView) -> list[Shown]:
    """Number, setting and exhibits of each round that a search's tables are about."""
    views = past(history, search)
    return [(view.plan.round, replay.setting_of(history, view), exhibits(history, view)) for view in views]


def derive(history: History, signed: tuple[Signed, ...], silent: tuple[str, ...]) -> Attributed:
    """The end of a search that found something: cases and convictions from the drawn silos' tables."""
    search = history.search.search
    made = tables(signed)
    shown = shown_in(history, history.search)
    cases = tuple(_case(history, find, made.get(find, {}), shown) for find in searches.to_attribute(history.search))
    return Attributed(search.round, search.model, signed, silent, cases, _convictions(history, cases))


def verify(history: History, body: Attributed) -> None:
    """Repeat a recorded attribution: scores within float noise, what follows from the recorded ones to the bit.

    Raises:
        InvalidRecord: names what does not follow from the tables.
    """
    expected = derive(history, body.attributions, body.silent)
    if (body.round, body.model) != (expected.round, expected.model) or not _same(body.cases, expected.cases):
        raise InvalidRecord("a find's attribution does not follow from the drawn silos' tables")
    made = tables(body.attributions)
    recorded = tuple(_concluded(history, case, made.get(case.find, {})) for case in body.cases)
    if body.cases != recorded or body.convicted != _convictions(history, recorded):
        raise InvalidRecord("the convictions do not follow from the finds' attribution")


def tables(signed: Sequence[Signed]) -> dict[str, dict[str, Table]]:
    """Find to silo to table, of the silos that have one."""
    found: dict[str, dict[str, Table]] = {}
    for item in signed:
        for made in decode(Attribution, item.body).tables:
            if made.table is not None:
                found.setdefault(made.find, {})[item.signer] = from_bytes(made.table)
    return found


def contradicts(history: History, silo: str) -> str | None:
    """A silo that the last search convicted and that `silo`'s own table clears, or None."""
    view = history.search
    if view.attributed is None or silo not in view.attributions:
        return None
    own = {made.find: made.table for made in view.attributions[silo].tables}
    newly = {one.silo for one in view.attributed.convicted}
    for case in view.attributed.cases:
        table, accused = own.get(case.find), {one.silo: _z(one) for one in case.parts if one.convicted}
        if table is None or not newly & set(accused):
            continue
        mine = judge(history, view, case.find, from_bytes(table))
        clear = {one.silo: _z(one) for one in mine if one.silo not in _guilty(history, case.find, mine)}
        for name in sorted(newly & set(accused) & set(clear)):
            if accused[name] - clear[name] > AGREEMENT_MICRO:
                return name
    return None


def _case(history: History, find: str, made: Mapping[str, Table], shown: Sequence[Shown]) -> Case:
    search = history.search
    if not made:
        return Case(find, 0, 0, ())
    found = judge(history, search, find, judging(search, made), shown)
    same: dict[bytes, bool] = {}
    for table in made.values():  # honest ones are mostly alike to the bit
        if table.tobytes() not in same:
            same[table.tobytes()] = _agree(found, judge(history, search, find, table, shown))
    agreeing = sum(same[table.tobytes()] for table in made.values())
    parts = tuple(Part(one.silo, one.scores, False) for one in found)
    return _concluded(history, Case(find, len(made), agreeing, parts), made)


def _concluded(history: History, case: Case, made: Mapping[str, Table]) -> Case:
    """The case with the convictions that its recorded numbers lead to; `made` are the tables of its find."""
    stands = case.agreeing >= 2 and (history.search.referee in made or 2 * case.agreeing > case.tables)
    judged = [Judged(part.silo, part.scores, {}) for part in case.parts]
    found = _guilty(history, case.find, judged) if stands else frozenset()
    parts = tuple(Part(part.silo, part.scores, part.silo in found) for part in case.parts)
    return Case(case.find, case.tables, case.agreeing, parts)


def _guilty(history: History, find: str, found: Sequence[Judged]) -> frozenset[str]:
    rule, trigger = searches.rule_of(history), history.search.trigger(find)
    assert rule is not None
    return frozenset() if searches.disputed(history, trigger) else guilty(found, trigger, rule.level_micro)


def levels(history: History, search: SearchView, case: Case) -> tuple[Score, ...]:
    """From which z a case convicts a silo if it is the only one, by the name of the score."""
    rule = searches.rule_of(history)
    assert rule is not None
    return least_z(len(case.parts), search.trigger(case.find), rule.level_micro) if case.parts else ()


def _agree(found: Sequence[Judged], other: Sequence[Judged]) -> bool:
    """Whether two tables say the same z of every silo; which silos have one depends on which rounds tell something."""
    pairs = [(_z_by_name(one), _z_by_name(two)) for one, two in zip(found, other, strict=True)]
    return all(
        mine.keys() == theirs.keys() and all(abs(mine[name] - theirs[name]) <= AGREEMENT_MICRO for name in mine)
        for mine, theirs in pairs
    )


def _z_by_name(found: Judged) -> dict[str, int]:
    return {score.name: score.value_micro for score in found.scores if score.evidence_micro is not None}


def _same(recorded: Sequence[Case], repeated: Sequence[Case]) -> bool:
    if [_exact(case) for case in recorded] != [_exact(case) for case in repeated]:
        return False
    pairs = [
        pair for one, two in zip(recorded, repeated, strict=True) for pair in zip(one.parts, two.parts, strict=True)
    ]
    return all(scores_differ(one.scores, two.scores) is None for one, two in pairs)


def _exact(case: Case) -> tuple[object, ...]:
    return case.find, case.tables, case.agreeing, tuple(part.silo for part in case.parts)


def _convictions(history: History, cases: Sequence[Case]) -> tuple[Conviction, ...]:
    found: dict[str, tuple[int, str]] = {}
    for case in cases:
        trigger = history.search.trigger(case.find)
        source = "inputs" if trigger.source is None else f"inputs of class {trigger.source}"
        for part in case.parts:
            if part.convicted and part.silo in history.active:
                z = _z(part)
                taught = f"its updates taught the model to take {source} under a trigger for class {trigger.target}"
                found[part.silo] = max(found.get(part.silo, (z, "")), (z, f"{taught}: z = {z / MICRO:.1f}"))
    return tuple(Conviction(silo, reason) for silo, (_, reason) in sorted(found.items()))


def _z(part: Part | Judged) -> int:
    """The greatest z, in millionths."""
    return max((score.value_micro for score in part.scores if score.evidence_micro is not None), default=0)
