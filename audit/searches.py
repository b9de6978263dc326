"""Searches of the model as the log tells them: when one is due, what follows from reports and answers, who attributes.

A search has three steps. Every silo searches the model and signs what it finds. Every silo that did measures each
reported trigger itself on the public root set. Drawn silos project the logged sketches of past rounds on what would
teach a confirmed trigger (`audit.attributions`).

That a trigger works is not enough: every model takes an input for another class if enough of the input is replaced. A
silo *bears out* a find where its own measurement reaches the task's success and its own search, signed before it saw
anybody else's, has a find of the same target and source that is not much smaller. Of the silos' words, or of a
referee's, follows what is confirmed (`audit.confirming`). Confirmed triggers are trained against from then on. A silo
goes by its own word where it gave one, so that nobody keeps a trigger from it that it has found itself.

A trigger that a model has by nature is unlearnt: where one comes back under inoculation, somebody may teach it. It may
come back in other inputs than those that were unlearnt, and inoculation may leave too little for the next search to
find. So a trigger of a class that an earlier search had confirmed one of *stands*: each later search measures it and
attributes it anew, found or not, and whether or not it works: who goes on teaching what the others unlearn shows it all
the same. It forbids nothing by that. Its class is searched for weaker triggers.

*Flips* have nothing to stamp: silos unlearn one with public records of its source class, which are also those that it
is measured on, so that it may go on unseen. So flips stand from the first time they are confirmed, and of those that
stand the ones that still work best are attributed. A flip convicts by what silos do *after* they were told of it, and
neither where the remedies against it and against a trigger pull apart nor where public records show the two classes as
alike. Nothing convicts in a task of two classes, nor does a trigger that covers much of the input (`disputed`).

A trigger forbids the release of the model where this search confirms it, or where it stands and still takes half of the
inputs; so does a search in which too few silos could look. So does a flip of half of a class, unless silos were told of
it and it has an `excuse`: models confuse some classes by nature, accuracy shows it, and right labels are the answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from audit.plans import quorum_of
from audit.resemblance import UNLEARNT, about, large, nearly, of_a_kind, small
from crypto.sketch import checkers
from protos.codec import decode, digest_of
from protos.messages import Attribution, FindAnswers, SearchReport, Signed
from protos.records import Attributed, Clean, Confirmed, Search, Searched
from protos.search import Trigger
from protos.task import MICRO, SearchRule

if TYPE_CHECKING:
    from audit.history import History

MAX_ATTRIBUTED = 4
"""Most triggers, and as many flips, that one search attributes, found now or before."""
HALF_MICRO = MICRO // 2
"""Success from which a flip, or a trigger that stands, forbids a release. Models that have not learned much have weaker
flips, and what is left of an unlearnt trigger is weaker too."""
FEWEST_CLASSES = 3
"""Of a task in which a find convicts: the measure of a silo's evidence is what it does to classes beside the target."""


@dataclass
class SearchView:
    """One search as far as the log tells it. Digests are of the records that carried the bodies.

    `adopted` is the record that made the model current; `sealed` its sealed copy, and of which round and key epoch.
    `referee` is the task's, unless it is no active member any more.
    `standing` are triggers of earlier searches whose class came back, and flips, newest first; `stood` what was
    measured of those attributed that this one did not find again; `triggers` every reported one by its digest, sorted.
    """

    search: Search
    digest: str
    adopted: int
    quorum: int
    sealed: str | None
    sealed_round: int
    epoch: int
    referee: str | None = None
    standing: dict[str, Trigger] = field(default_factory=dict)
    reports: dict[str, SearchReport] = field(default_factory=dict)
    triggers: dict[str, Trigger] = field(default_factory=dict)
    silent: tuple[str, ...] = ()
    searched_digest: str = ""
    answers: dict[str, FindAnswers] = field(default_factory=dict)
    confirmed: tuple[Confirmed, ...] = ()
    stood: tuple[Confirmed, ...] = ()
    finds_digest: str = ""
    attributions: dict[str, Attribution] = field(default_factory=dict)
    attributed: Attributed | None = None
    blocking: tuple[str, ...] = ()
    closed: bool = False

    def receive(self, reports: dict[str, SearchReport]) -> None:
        """The reports are in."""
        found = (find.trigger for report in reports.values() for find in report.finds)
        self.reports, self.triggers = reports, dict(sorted((digest_of(trigger), trigger) for trigger in found))

    def trigger(self, find: str) -> Trigger:
        """The reported or standing trigger of that digest."""
        return self.standing[find] if find in self.standing else self.triggers[find]

    @property
    def measurable(self) -> tuple[str, ...]:
        """Digests of what every silo measures, sorted."""
        return tuple(sorted({*self.triggers, *self.standing}))

    def reporters(self, find: str) -> tuple[str, ...]:
        """Silos that reported a trigger."""
        named = ((silo, digest_of(one.trigger)) for silo, report in self.reports.items() for one in report.finds)
        return tuple(sorted({silo for silo, digest in named if digest == find}))

    def measured(self, find: str) -> dict[str, int]:
        """What each silo that answered measured, in millionths."""
        return {
            silo: answer.success_micro
            for silo, answers in self.answers.items()
            for answer in answers.answers
            if answer.find == find
        }

    @property
    def enough(self) -> bool:
        """Whether silos enough for a round's quorum reported."""
        return len(self.reports) >= self.quorum

    @property
    def blind(self) -> bool:
        """Whether too few of them could look for anything: the model has hardly learned, or not this task."""
        return sum(not report.blind for report in self.reports.values()) < self.quorum

    @property
    def clean(self) -> bool:
        """Whether the search is over, enough silos could look, and nothing was left that forbids a release."""
        return self.closed and not self.blind and not self.blocking


def rule_of(history: History) -> SearchRule | None:
    """The task's rule, None where the model is not searched."""
    return history.genesis.task.search


def due(history: History) -> bool:
    """Whether the current model has to be searched before the next plan, or before the end."""
    rule, task = rule_of(history), history.genesis.task
    adopted = sum(view.adopted for view in history.rounds)
    if rule is None or adopted == 0 or _searched(history):
        return False
    return (adopted - 1) % rule.every == 0 or len(history.rounds) >= task.rounds


def derive_search(history: History) -> Search:
    """The record that asks for a search now."""
    return Search(len(history.rounds), history.model)


def derive_reported(history: History, reports: tuple[Signed, ...], silent: tuple[str, ...]) -> Searched | Clean:
    """What follows the silos' reports: a check of the finds, or, without any and with none standing, the end."""
    search = history.search.search
    if history.search.standing or any(decode(SearchReport, signed.body).finds for signed in reports):
        return Searched(search.round, search.model, reports, silent)
    return Clean(search.round, search.model, reports, (), silent)


def drawn(history: History) -> tuple[str, ...]:
    """Silos that attribute the confirmed finds: drawn by the digest of the record that asks, all where few; and the
    referee."""
    rule, view = rule_of(history), history.search
    assert rule is not None
    chosen = checkers(bytes.fromhex(view.finds_digest), "attribution", history.active, rule.checkers)
    return tuple(sorted({*chosen, view.referee} if view.referee else chosen))


def to_attribute(view: SearchView) -> tuple[str, ...]:
    """Digests of the triggers that are attributed, sorted."""
    return tuple(sorted(one.find for one in (*view.confirmed, *view.stood) if one.attributed))


def triggers(history: History) -> tuple[Trigger, ...]:
    """All triggers that a search ever confirmed, in the order of their digests: the inoculation list."""
    found = {one.find: view.triggers[one.find] for view in history.searches for one in view.confirmed}
    return tuple(trigger for _, trigger in sorted(found.items()))


def triggers_for(history: History, silo: str) -> tuple[Trigger, ...]:
    """What `silo` trains against: what it measured to work itself, and confirmed triggers that it did not measure."""
    return tuple(trigger for _, trigger in sorted(_believed(history, silo).items()))


def doses_for(history: History, silo: str) -> tuple[tuple[Trigger, ...], ...]:
    """What `silo` trains against, in doses of equal size: all triggers that it knows of, what of them stands, flips.

    Of what ever was confirmed most may be what clean models have by nature; it must not thin out what somebody teaches.
    """
    known, stands = triggers_for(history, silo), standing(history).values()
    flips = tuple(one for one in known if one.flip)
    stamps = tuple(one for one in known if not one.flip)
    again = tuple(one for one in stamps if any(nearly(one, other, UNLEARNT) for other in stands))
    return tuple(dose for dose in (stamps, again, flips) if dose)


def blocking(history: History, view: SearchView) -> tuple[str, ...]:
    """Digests of what forbids the release of the searched model, found or standing, sorted; once it is attributed."""

    def forbids(one: Confirmed) -> bool:
        trigger = view.trigger(one.find)
        if not trigger.flip and one in view.confirmed:
            return True
        natural = trigger.flip and told(history, trigger, view.search.round) and excuse(history, trigger)
        return one.success_micro >= HALF_MICRO and not natural

    return tuple(sorted(one.find for one in (*view.confirmed, *view.stood) if forbids(one)))


def told(history: History, trigger: Trigger, number: int) -> int:
    """Of how many rounds in which silos trained against nearly this trigger the `number`th is the last; 0 if not one.

    They are those after the first search that confirmed one; of earlier rounds only adopted ones count.
    """
    told_by = (
        view.search.round
        for view in history.searches
        for one in view.confirmed
        if nearly(trigger, view.triggers[one.find], UNLEARNT)
    )
    since = next(told_by, number)  # searches are in order
    return sum(view.adopted for view in history.rounds[since : number - 1]) + (number > since)


def tells_blind(history: History, trigger: Trigger, number: int) -> bool:
    """Whether the `number`th round tells who teaches a trigger though its model is right too seldom to be searched.

    It does once silos train against it, or whoever destroys the model would never be found. Only of small triggers:
    larger ones look like what honest data teach, which moves such a model most.
    """
    return small(trigger) and told(history, trigger, number) > 0


def standing(history: History) -> dict[str, Trigger]:
    """Triggers of targets and sources that came back, and flips, newest first, of nearly equal ones the newest.

    At most MAX_ATTRIBUTED triggers; flips without limit, since they cost nothing to measure.
    """
    found: dict[str, Trigger] = {}
    for view in reversed(history.searches):
        earlier = {about(other) for other in _earlier(history, view.search.round)}
        for one in view.confirmed:
            trigger = view.triggers[one.find]
            came_back = trigger.flip or about(trigger) in earlier
            if came_back and not any(nearly(trigger, other, UNLEARNT) for other in found.values()):
                found[one.find] = trigger
    stamps = [find for find in found if not found[find].flip][:MAX_ATTRIBUTED]
    return {find: trigger for find, trigger in found.items() if trigger.flip or find in stamps}


def disputed(history: History, trigger: Trigger) -> str:
    """Why honest silos may well seem to teach it, so that it convicts nobody, in words; empty where it may convict.

    Beside what has an `excuse` that is a flip from a class that a known trigger leads to: to unlearn a trigger is to
    move inputs away from its target, to where the silo's own records are.
    """
    if trigger.flip and any(not one.flip and one.target == trigger.source for one in triggers(history)):
        return excuse(history, trigger) or f"who unlearns a trigger for class {trigger.source} moves inputs off it too"
    return excuse(history, trigger)


def excuse(history: History, trigger: Trigger) -> str:
    """Why it convicts nobody whatever else is known, in words; empty where it may.

    Who holds many records of a class teaches triggers that leave little of an input, and flips between classes that
    public records show as alike (`silo.likeness`), by honest data and whatever it is told.
    """
    task = history.genesis.task
    if task.layout.classes < FEWEST_CLASSES:
        return "there is no third class to compare with"
    if large(trigger):
        return "it covers more than a quarter of the input"
    alike = {(one.source, one.target) for one in task.search.alike} if task.search else set()
    if trigger.flip and (trigger.source, trigger.target) in alike:
        return "public records show these classes as alike"
    return ""


def denied(history: History, silo: str, model: str) -> tuple[str, ...]:
    """Triggers, flips aside, in `model` that `silo` bears out and that no search of it confirmed."""
    return tuple(
        find
        for view in history.searches
        if view.search.model == model and view.closed
        for find in sorted(set(view.triggers) - {one.find for one in view.confirmed})
        for own in (view.measured(find).get(silo),)
        if not view.triggers[find].flip and own is not None and bears_out(history, view, silo, find, own)
    )


def works(history: History, success_micro: int) -> bool:
    """Whether a measured success makes a trigger a find."""
    rule = rule_of(history)
    return rule is not None and success_micro >= rule.success_micro


def bears_out(history: History, view: SearchView, silo: str, find: str, success_micro: int) -> bool:
    """Whether the silo's own search and its measurement of a reported trigger bear it out."""
    report, trigger = view.reports.get(silo), view.triggers[find]
    own = [one.trigger for one in report.finds] if report else []
    return works(history, success_micro) and any(of_a_kind(trigger, one) for one in own)


def releasable(history: History) -> tuple[str | None, int | None]:
    """Digest of the model that may be released and the record that made it current; None where there is none."""
    if rule_of(history) is None:
        return history.model, history.adopted
    clean = newest_clean(history)
    return (clean.search.model, clean.adopted) if clean else (None, None)


def newest_clean(history: History) -> SearchView | None:
    """The newest search that left nothing against a release."""
    return next((view for view in reversed(history.searches) if view.clean), None)


def open_search(history: History, body: Search, digest: str) -> SearchView:
    """The view of a search that was asked for now."""
    quorum, rule = quorum_of(history.genesis.policy, len(history.active)), rule_of(history)
    sealed = history.sealed, history.sealed_round, history.epoch
    referee = rule.referee if rule is not None and rule.referee in history.active else None
    return SearchView(body, digest, history.adopted, quorum, *sealed, referee, standing(history))


def _searched(history: History) -> bool:
    return any(view.search.model == history.model and view.closed and view.enough for view in history.searches)


def _earlier(history: History, number: int) -> list[Trigger]:
    """What searches before round `number` confirmed."""
    past = (view for view in history.searches if view.search.round < number)
    return [view.triggers[one.find] for view in past for one in view.confirmed]


def _believed(history: History, silo: str) -> dict[str, Trigger]:
    found: dict[str, Trigger] = {}
    for view in history.searches:
        confirmed = {one.find for one in view.confirmed}
        for find, trigger in view.triggers.items():
            own = view.measured(find).get(silo)
            if find in confirmed if own is None else bears_out(history, view, silo, find, own):
                found[find] = trigger
    return found
