"""Who taught the model a trigger: projections of the logged sketches, their median, and what follows from it.

A table holds, for each of the last `memory` adopted rounds, each silo retained in it and each class c, the number
`<S_ri, R_r d_rc>` in millionths of a quantisation step: S_ri is the silo's logged sketch, d_rc the unit vector along
which the model of that round would learn to call the trigger c. Only who has the past models can make a table, and
every silo that has them makes the same one up to float noise. What follows from tables needs no model: the median of
the drawn silos' tables, x, z and the convictions are repeated by coordinator, silos and auditor.

A case convicts only if most of at least two tables, each taken alone, say the same z of every silo within
`AGREEMENT_MICRO`. So a minority of lying tables neither convicts nor clears anybody; a lying majority convicts whom
it likes, and every silo that made a table of its own sees it (`contradicts`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from audit import replay, searches
from audit.errors import InvalidRecord
from audit.standin import PastRound, attribute
from protos.codec import decode
from protos.messages import Attribution, Signed
from protos.records import Attributed, Case, Conviction, Part
from protos.task import MICRO

if TYPE_CHECKING:
    from audit.history import History, RoundView
    from audit.searches import SearchView

AGREEMENT_MICRO = MICRO // 2
"""Half a standard deviation: far above float noise, far below what decides between honest and guilty."""
MAX_PROJECTION = 2**53 - 1
_FLOAT_NOISE_MICRO = 100

Table = NDArray[np.int64]


def past(history: History, search: SearchView) -> list[RoundView]:
    """The rounds that a search's tables are about: the last `memory` adopted ones before it, oldest first."""
    rule = searches.rule_of(history)
    assert rule is not None
    before = history.rounds[: search.search.round]
    adopted = [view for view in before if view.outcome is not None and view.outcome.result == "adopted"]
    return adopted[-rule.memory :]


def table_size(history: History, search: SearchView) -> int:
    """Numbers in a table."""
    return sum(len(view.weights) for view in past(history, search)) * history.genesis.task.layout.classes


def to_bytes(parts: Sequence[NDArray[np.float64]]) -> bytes:
    """A table from projections in quantisation steps, per past round float64[retained silos, classes]."""
    flat = np.concatenate([part.ravel() for part in parts])
    scaled: Table = np.clip(np.rint(flat * MICRO), -MAX_PROJECTION, MAX_PROJECTION).astype("<i8")
    return scaled.tobytes()


def from_bytes(data: bytes) -> Table:
    """Inverse of `to_bytes`, flat: int64[table_size]."""
    return np.frombuffer(data, dtype="<i8").astype(np.int64)


def split(history: History, search: SearchView, table: Table) -> list[Table]:
    """A flat table per past round: int64[retained silos, classes], silos sorted."""
    classes = history.genesis.task.layout.classes
    ends = np.cumsum([len(view.weights) * classes for view in past(history, search)])
    return [part.reshape(-1, classes) for part in np.split(table, ends[:-1])]


def median(tables: Sequence[Table]) -> Table:
    """Elementwise lower median: with an honest majority every number lies between honest ones."""
    ordered: Table = np.sort(np.stack(tables), axis=0)[(len(tables) - 1) // 2]
    return ordered


def judge(history: History, search: SearchView, find: str, table: Table) -> tuple[Part, ...]:
    """x, z and conviction of each silo from one table, sorted by silo."""
    rule = searches.rule_of(history)
    assert rule is not None
    rounds = [
        PastRound.of(replay.setting_of(history, view), _counts(history, view), part)
        for view, part in zip(past(history, search), split(history, search, table), strict=True)
    ]
    found = attribute(rounds, search.triggers[find].target, rule.level_micro)
    return tuple(Part(one.silo, one.x_micro, one.z_micro, one.convicted) for one in found)


def derive(history: History, signed: tuple[Signed, ...], silent: tuple[str, ...]) -> Attributed:
    """The end of a search that found something: cases and convictions from the drawn silos' tables."""
    search = history.search.search
    made = tables(signed)
    cases = tuple(_case(history, find, made.get(find, {})) for find in searches.to_attribute(history.search))
    return Attributed(search.round, search.model, signed, silent, cases, _convictions(history, cases))


def verify(history: History, body: Attributed) -> None:
    """Repeat a recorded attribution: x and z within float noise, everything else to the bit.

    Raises:
        InvalidRecord: names what does not follow from the tables.
    """
    expected = derive(history, body.attributions, body.silent)
    if (body.round, body.model, body.convicted) != (expected.round, expected.model, expected.convicted):
        raise InvalidRecord("the convictions do not follow from the drawn silos' tables")
    if not _same(body.cases, expected.cases):
        raise InvalidRecord("a find's attribution does not follow from the drawn silos' tables")


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
    convicted = {one.silo for one in view.attributed.convicted}
    own = {made.find: made.table for made in view.attributions[silo].tables}
    for case in view.attributed.cases:
        table = own.get(case.find)
        if table is None or not convicted & {part.silo for part in case.parts if part.convicted}:
            continue
        mine = {part.silo: part.z_micro for part in judge(history, view, case.find, from_bytes(table))}
        for part in case.parts:
            if part.convicted and part.silo in convicted and part.z_micro - mine[part.silo] > AGREEMENT_MICRO:
                return part.silo
    return None


def _case(history: History, find: str, made: Mapping[str, Table]) -> Case:
    search = history.search
    if not made:
        return Case(find, 0, 0, ())
    parts = judge(history, search, find, median(list(made.values())))
    agreeing = sum(_agree(parts, judge(history, search, find, table)) for table in made.values())
    if not _stands(len(made), agreeing):
        parts = tuple(Part(part.silo, part.x_micro, part.z_micro, False) for part in parts)
    return Case(find, len(made), agreeing, parts)


def _agree(parts: tuple[Part, ...], other: tuple[Part, ...]) -> bool:
    pairs = zip(parts, other, strict=True)
    return all(abs(one.z_micro - two.z_micro) <= AGREEMENT_MICRO for one, two in pairs)


def _same(recorded: Sequence[Case], repeated: Sequence[Case]) -> bool:
    if [_exact(case) for case in recorded] != [_exact(case) for case in repeated]:
        return False
    pairs = [
        pair for one, two in zip(recorded, repeated, strict=True) for pair in zip(one.parts, two.parts, strict=True)
    ]
    return all(
        max(abs(one.x_micro - two.x_micro), abs(one.z_micro - two.z_micro)) <= _FLOAT_NOISE_MICRO for one, two in pairs
    )


def _exact(case: Case) -> tuple[object, ...]:
    return case.find, case.tables, case.agreeing, tuple((part.silo, part.convicted) for part in case.parts)


def _stands(tables: int, agreeing: int) -> bool:
    return agreeing >= 2 and 2 * agreeing > tables


def _convictions(history: History, cases: Sequence[Case]) -> tuple[Conviction, ...]:
    found: dict[str, tuple[int, str]] = {}
    for case in cases:
        trigger = history.search.triggers[case.find]
        source = "any class" if trigger.source is None else f"class {trigger.source}"
        for part in case.parts:
            if part.convicted and part.silo in history.active:
                reason = f"its updates taught the model to call {source} {trigger.target} under a trigger"
                known = found.get(part.silo, (part.z_micro, ""))
                found[part.silo] = max(known, (part.z_micro, f"{reason}: z = {part.z_micro / MICRO:.1f}"))
    return tuple(Conviction(silo, reason) for silo, (_, reason) in sorted(found.items()))


def _counts(history: History, view: RoundView) -> dict[str, int]:
    return {silo: history.counts[silo].total for silo in sorted(view.weights)}
