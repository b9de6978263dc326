"""What a silo does about triggers: search the model, measure others' finds, attribute them.

All of it is a function of models, which are differentially private outputs, and of the public root set. No record of
the silo is looked at and nothing is charged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from audit import attributions, replay, searches
from audit.history import History, RoundView
from defenses.attribution import Past, project, sketched
from protos.codec import digest_of
from protos.messages import MAX_FINDS, Attribution, Find, FindAnswer, FindAnswers, Projections, SearchReport
from protos.task import Confusion, Task
from silo import rootset
from silo.desk import Desk, SitOut
from silo.likeness import alike
from silo.searcher import Root, Searcher
from silo.trainer import searcher_for

Floats = NDArray[np.float64]
Model = NDArray[np.float32]


def report(desk: Desk, history: History) -> SearchReport:
    """What our search of the current model finds; what others would not confirm is left out."""
    search, searcher = history.search, _searcher(desk)
    model, public = _model(desk, history), root(desk, history)
    suspected = frozenset(trigger.target for trigger in search.standing.values() if not trigger.flip)
    made = searcher.search(model, public, suspected)
    found = {digest_of(trigger): trigger for trigger in made or ()}
    finds = [Find(trigger, searcher.success(model, public, trigger)) for trigger in found.values()]
    strong = tuple(find for find in finds if searches.works(history, find.success_micro))
    said = history.genesis.federation, search.digest, search.search.model
    return SearchReport(*said, strong[:MAX_FINDS], blind=made is None)


def measure(desk: Desk, history: History) -> FindAnswers:
    """The success of every reported and standing trigger, measured here."""
    search, searcher = history.search, _searcher(desk)
    model, public = _model(desk, history), root(desk, history)
    answers = [FindAnswer(one, searcher.success(model, public, search.trigger(one))) for one in search.measurable]
    return FindAnswers(history.genesis.federation, search.searched_digest, tuple(answers))


def attribute(desk: Desk, history: History) -> Attribution:
    """Projections of the logged sketches on what would teach each find; None where a past model is not here."""
    search, past = history.search, attributions.past(history, history.search)
    finds = searches.to_attribute(search)
    before, desk.projected = desk.projected, {}
    for view in past:
        known = {find: before[find, view.plan.round] for find in finds if (find, view.plan.round) in before}
        made = _projections(desk, history, view, [find for find in finds if find not in known])
        desk.projected |= {(find, view.plan.round): part for find, part in (known | made).items()}
    tables = tuple(Projections(find, _table(desk, find, past)) for find in finds)
    return Attribution(history.genesis.federation, search.finds_digest, tables)


def searcher_of(task: Task, make: Callable[[Task], Searcher] | None = None) -> Callable[[], Searcher] | None:
    """What a desk searches with, made on first use; None for a task without search. `make` replaces the task's own."""
    if task.search is None:
        return None
    return cache(lambda: (make or searcher_for)(task))


def kept_models(history: History) -> set[str]:
    """Digests of the models that must stay: the current one, and where there is a search the past ones as well."""
    rule = searches.rule_of(history)
    if rule is None:
        return {history.model}
    adopted = [view for view in history.rounds if view.adopted]
    past = {view.plan.model for view in adopted[-rule.memory :]}
    return {history.model, searches.releasable(history)[0] or history.model, *past}


def _table(desk: Desk, find: str, past: list[RoundView]) -> bytes | None:
    parts = [desk.projected.get((find, view.plan.round)) for view in past]
    there = [part for part in parts if part is not None]
    return attributions.to_bytes(there) if len(there) == len(parts) else None


def _projections(desk: Desk, history: History, view: RoundView, finds: Sequence[str]) -> dict[str, Floats]:
    """Projections of what a past round's silos showed on each find, in quantisation steps: float64[judged, classes].

    Empty where the round's model is not here.
    """
    model = desk.workspace.load_model(history.genesis.task.layout.size, view.plan.model) if finds else None
    if model is None:
        return {}
    setting, shown = replay.setting_of(history, view), attributions.exhibits(history, view)
    searcher, public, found = _searcher(desk), root(desk, history), {}
    for find in finds:
        trigger = history.search.trigger(find)
        even_blind = searches.tells_blind(history, trigger, view.plan.round)
        directions = searcher.directions(model, public, trigger, even_blind)
        folded = sketched(directions, history.packing, setting.signs)
        made = project(Past(view.plan.round, setting, shown, folded, told=0)).projections
        found[find] = made / setting.step
    return found


def _searcher(desk: Desk) -> Searcher:
    if desk.searcher is None:
        raise SitOut("this silo has nothing to search models with")
    return desk.searcher()


def _model(desk: Desk, history: History) -> Model:
    model = desk.workspace.load_model(history.genesis.task.layout.size, history.search.search.model)
    if model is None:
        raise SitOut("the model to be searched is not here")
    return model


def root(desk: Desk, history: History) -> Root:
    """The federation's public root set, fetched where it is not here.

    Raises:
        SitOut: another one is handed out, or the task says of it which classes are alike, and it is not so.
    """
    task = history.genesis.task
    assert task.search is not None
    data = desk.workspace.load_root(task.search.root)
    if data is None:
        data = b"".join(desk.link.download(task.search.root))
        if hashlib.sha256(data).hexdigest() != task.search.root:
            raise SitOut("the coordinator handed out a root set that is not the task's")
        desk.workspace.save_root(data)
    public, confusions = _read(data, task.model.sizes[0])
    if confusions != task.search.alike:
        raise SitOut("the task calls other classes alike than its root set does; have it packed anew")
    return public


@lru_cache(maxsize=1)
def _read(data: bytes, inputs: int) -> tuple[Root, tuple[Confusion, ...]]:
    """A root set and its classes that are alike; kept, as it is asked for once for each past round and find."""
    public = rootset.from_bytes(data, inputs)
    return public, alike(public)
