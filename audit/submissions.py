"""What a silo's message must fulfil to be taken, given the log: the coordinator asks it on arrival, readers again.

What needs the ciphertext (that a folded one is the fold of the committed one) is checked where the ciphertext is.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from audit import attributions, searches, turns
from audit.accounting import counts_charge, round_charges
from audit.errors import RejectedSubmission
from crypto.scheme import SCHEMES
from crypto.tags import SALT_BYTES
from protos.codec import digest_of
from protos.messages import (
    MAX_FINDS,
    Adoption,
    Answers,
    Attribution,
    Charge,
    Commit,
    Counts,
    Deal,
    FindAnswers,
    KeyCheck,
    Opening,
    Receipt,
    Refusal,
    SearchReport,
    TraceOpening,
)
from protos.search import Trigger
from protos.task import Layout

if TYPE_CHECKING:
    from audit.history import History

_FOLD_BYTES = 4
_TAG_BYTES = 8
_PROTOTYPE_BYTES = 8
_TABLE_BYTES = 8
_MAX_INPUT = 10**12
"""A million, in millionths: inputs of models are of the order of one."""
_MAX_PROTOTYPE = 2**45
"""More than 2^35 records clipped to 2^10 units: a larger sum is no sum of records, and floats stay exact below."""


def require(condition: bool, message: str) -> None:
    """Raise RejectedSubmission with `message` unless the condition holds."""
    if not condition:
        raise RejectedSubmission(message)


def verify_submission(history: History, silo: str, body: Any) -> None:
    """Check a message against the log so far.

    Raises:
        RejectedSubmission: says what does not fit.
    """
    require(body.federation == history.genesis.federation, "the message is for another federation")
    _RULES[type(body)](history, silo, body)


def _deal(history: History, silo: str, body: Deal) -> None:
    roster = history.roster
    require(roster is not None and body.roster == history.roster_digest, "the deal answers another roster")
    assert roster is not None
    require(body.epoch == roster.epoch, "the deal is of another key epoch")
    require(body.scheme in SCHEMES, f"the deal is for the scheme {body.scheme!r}, this version has {SCHEMES}")
    require(tuple(secret.silo for secret in body.secrets) == roster.members, "the deal must seal for every member")


def _key_check(history: History, silo: str, body: KeyCheck) -> None:
    require(body.deal == history.deal_digest, "the key check answers another deal")
    require(history.roster is not None and body.epoch == history.roster.epoch, "the key check is of another epoch")


def _counts(history: History, silo: str, body: Counts) -> None:
    task = history.genesis.task
    require(body.task == task.digest, "the counts are of another task: the silo runs with a different task file")
    require(len(body.classes) == task.layout.classes, f"counts of {task.layout.classes} classes are needed")
    require(silo not in history.counts, "counts are released once per task")
    _receipt(history, silo, body.receipt, (counts_charge(task),))


def _commit(history: History, silo: str, body: Commit) -> None:
    view = history.round
    require(body.plan == view.plan_digest, "the commitment answers another plan")
    require((body.prototypes is None) == (view.plan.prototypes is None), "prototypes are owed exactly when planned")


def _opening(history: History, silo: str, body: Opening) -> None:
    view, packing, layout = history.round, history.packing, history.genesis.task.layout
    require(body.challenge == view.challenge_digest, "the opening answers another challenge")
    commit = view.commits.get(silo)
    require(commit is not None, "nothing was committed")
    assert commit is not None
    require(len(body.folds) == packing.folds * packing.width * _FOLD_BYTES, "the folds have the wrong size")
    output = layout.output_size if packing.exact_output else 0
    require(len(body.output) == output * _FOLD_BYTES, "the output layer has the wrong size")
    require(len(body.tags) == SALT_BYTES + packing.chunks * _TAG_BYTES, "the tags have the wrong size")
    require(hashlib.sha256(body.tags).hexdigest() == commit.tags, "the tags are not the committed ones")
    _prototypes(layout, commit.prototypes, body.prototypes)
    plan = view.plan
    charges = round_charges(plan.training, plan.prototypes, plan.evaluation_noise_micro)
    _receipt(history, silo, body.receipt, charges)


def _prototypes(layout: Layout, committed: str | None, data: bytes | None) -> None:
    require((data is None) == (committed is None), "prototypes must be opened as committed")
    if data is None:
        return
    size = layout.classes * layout.embedding * _PROTOTYPE_BYTES
    require(len(data) == size, f"prototypes need {layout.classes} classes of dimension {layout.embedding}")
    require(hashlib.sha256(data).hexdigest() == committed, "the prototypes are not the committed ones")
    sums = np.frombuffer(data, dtype="<i8")
    require(bool((np.abs(sums.astype(np.float64)) < _MAX_PROTOTYPE).all()), "a prototype is out of range")


def _receipt(history: History, silo: str, receipt: Receipt, charges: tuple[Charge, ...]) -> None:
    budget = history.genesis.task.budget
    require(receipt.charges == charges, "the receipt's charges are not the plan's")
    require(receipt.entry > history.entries.get(silo, 0), "the receipt is not newer than the last one on record")
    require(receipt.delta_nano == budget.delta_nano, "the receipt is for another delta")
    require(receipt.epsilon_micro <= budget.epsilon_micro, "the receipt exceeds the task's privacy budget")


def _answers(history: History, silo: str, body: Answers) -> None:
    require(body.record == turns.asking_record(history) != "", "the answers are to another record")
    names = tuple(answer.silo for answer in body.answers)
    require(names == turns.subjects(history, silo), "answers are owed about exactly the silos that were drawn")


def _adoption(history: History, silo: str, body: Adoption) -> None:
    view = history.round
    require(body.sum == view.sum_digest != "", "the adoption is of another sum")
    planned = view.plan.evaluation_noise_micro is not None
    require((body.evaluation is not None) == planned, "evaluation counts are owed exactly when planned")


def _refusal(history: History, silo: str, body: Refusal) -> None:
    require(body.sum == history.round.sum_digest != "", "the refusal is of another sum")


def _trace_opening(history: History, silo: str, body: TraceOpening) -> None:
    require(body.trace == history.round.trace_digest != "", "the trace opening answers another trace")


def _search_report(history: History, silo: str, body: SearchReport) -> None:
    search = history.search
    require(body.search == search.digest, "the report answers another search")
    require(body.model == search.search.model, "the report is of another model")
    require(not (body.blind and body.finds), "a report that could look for nothing has no finds")
    require(len(body.finds) <= MAX_FINDS, f"a report has at most {MAX_FINDS} finds")
    for find in body.finds:
        _trigger(history, find.trigger)
        require(searches.works(history, find.success_micro), "a find below the task's success is none")
    digests = [digest_of(find.trigger) for find in body.finds]
    require(len(set(digests)) == len(digests), "a trigger is reported once")


def _trigger(history: History, trigger: Trigger) -> None:
    task = history.genesis.task
    classes, inputs = task.layout.classes, task.model.sizes[0]
    sources = (None, *range(classes)) if not trigger.flip else range(classes)
    require(trigger.target < classes and trigger.source in sources, "the trigger is of a class that is not there")
    require(trigger.source != trigger.target, "a trigger moves no inputs to their own class")
    require(len(trigger.mask) in (0, inputs), f"a mask has {inputs} values, or none in a flip")
    require(len(trigger.pattern) == len(trigger.mask), "mask and pattern must be of one size")
    limits = abs(trigger.low_micro) < _MAX_INPUT and abs(trigger.high_micro) < _MAX_INPUT
    require(limits and trigger.low_micro <= trigger.high_micro, "the trigger's range of inputs is none")


def _find_answers(history: History, silo: str, body: FindAnswers) -> None:
    search = history.search
    require(body.searched == search.searched_digest != "", "the answers are to another search")
    given = tuple(answer.find for answer in body.answers)
    require(given == search.measurable, "answers are owed about exactly the reported finds and those that stand")


def _attribution(history: History, silo: str, body: Attribution) -> None:
    search = history.search
    require(body.finds == search.finds_digest != "", "the attribution is of another search")
    asked = searches.to_attribute(search)
    require(tuple(made.find for made in body.tables) == asked, "tables are owed of exactly the marked finds")
    size = attributions.table_size(history, search)
    for made in body.tables:
        if made.table is not None:
            require(len(made.table) == _TABLE_BYTES * size, f"a table has {size} numbers")
            numbers = np.frombuffer(made.table, dtype="<i8").astype(np.float64)
            require(bool((np.abs(numbers) <= attributions.MAX_PROJECTION).all()), "a projection is out of range")


_RULES: dict[type[Any], Any] = {
    Deal: _deal, KeyCheck: _key_check, Counts: _counts, Commit: _commit, Opening: _opening, Answers: _answers,
    Adoption: _adoption, Refusal: _refusal, TraceOpening: _trace_opening, SearchReport: _search_report,
    FindAnswers: _find_answers, Attribution: _attribution,
}  # fmt: skip
