"""What a silo answers in each phase: one function per row of the table, from the history to a message.

The caller has verified the history; these functions use keys, ledger, trainer and files, and return the body to sign.
`NotYet` means that the operator or the network has to do something first; `SitOut` that this step cannot be answered.
Here is what a silo contributes; `silo.keying` and `silo.checking` have the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audit import prototypes, searches
from audit.accounting import counts_charge
from audit.history import History
from crypto import merkle, ring, sketch
from crypto.quantise import quantise, randomness_needed
from protos.codec import pack, unpack
from protos.messages import Commit, Counts, Opening, TraceOpening
from protos.rounds import Phase
from protos.task import MICRO
from protos.transport import PIECE_BYTES
from silo import checking, keying, searching
from silo.desk import Desk, NotYet, SitOut, round_key
from silo.guidance import NONE, Guidance, Pull
from silo.releases import noised_counts, noised_prototypes
from silo.workspace import Update

_BLOCK = 2**18


def answer(desk: Desk, history: History) -> Any:
    """The body that this silo owes in the present phase."""
    return _DUTIES[history.phase](desk, history)


def _counts(desk: Desk, history: History) -> Counts:
    task, genesis = history.genesis.task, history.genesis
    receipt = desk.ledger.charge("counts", (counts_charge(task),))
    stored = desk.ledger.release("counts")
    if stored is not None:
        return unpack(Counts, stored)
    total, classes = noised_counts(desk.labels, task.layout.classes, task.counts_noise_micro, desk.entropy)
    counts = Counts(genesis.federation, task.digest, total, classes, receipt)
    desk.ledger.store_release("counts", pack(counts))
    return counts


def _commit(desk: Desk, history: History) -> Commit:
    plan, task = history.round.plan, history.genesis.task
    name = desk.identity.name
    if plan.quorum < desk.policy.quorum or plan.privacy_minimum < desk.policy.privacy_minimum:
        raise NotYet("the plan's quorum or privacy minimum is below the local policy: talk to the administrator")
    model = desk.workspace.load_model(task.layout.size, plan.model)
    if model is None:
        raise SitOut("the current model is not here yet")
    keys = desk.keys(plan.epoch)
    desk.ledger.require_not_behind(history.entries.get(name, 0))
    key = round_key(plan.round)
    desk.charge_round(plan)
    stored = desk.ledger.release(key)
    if stored is not None:
        return unpack(Commit, stored)
    values = _quantised(desk, history, model)
    released = _prototypes(desk, history, model)
    # From here on only the quantised update is in memory, a byte for each parameter.
    del model
    protected = keys.protect(
        history.packing.to_fields(values), history.packing, plan=history.round.plan_digest, silo=name
    )
    desk.workspace.save_update(plan.round, Update(values, protected.tags, released), protected.chunks)
    commit = Commit(
        history.genesis.federation,
        history.round.plan_digest,
        merkle.root(desk.workspace.ciphertext(plan.round)),
        hashlib.sha256(protected.tags).hexdigest(),
        None if released is None else hashlib.sha256(released).hexdigest(),
    )
    desk.ledger.store_release(key, pack(commit))
    return commit


def _quantised(desk: Desk, history: History, model: NDArray[np.float32]) -> NDArray[np.int8]:
    """Train, and round the update at random block by block."""
    plan, name = history.round.plan, desk.identity.name
    arguments, guidance = (model, plan.training, history.counts[name].total), _guidance(desk, history)
    update = desk.trainer.train(*arguments) if guidance == NONE else desk.trainer.train(*arguments, guidance)
    values = np.empty(update.size, dtype=np.int8)
    for start in range(0, update.size, _BLOCK):
        block = update[start : start + _BLOCK].astype(np.float64)
        values[start : start + _BLOCK] = quantise(
            block, plan.step_log2, desk.entropy.take(randomness_needed(block.size))
        )
    return values


def _guidance(desk: Desk, history: History) -> Guidance:
    """What the log tells the desk's silo to train by in the open round."""
    rule = history.genesis.task.prototypes
    found = prototypes.global_prototypes(history) if rule is not None and rule.pull_micro else None
    pull = Pull(rule.pull_micro / MICRO, found) if rule is not None and found is not None else None
    doses = searches.doses_for(history, desk.identity.name)
    flips = any(one.flip for dose in doses for one in dose)
    return Guidance(doses, pull, searching.root(desk, history) if flips else None)


def _prototypes(desk: Desk, history: History, model: Any) -> bytes | None:
    rule = history.round.plan.prototypes
    if rule is None:
        return None
    embeddings, labels = desk.trainer.embed(model)
    sums = noised_prototypes(embeddings, labels, rule, history.genesis.task.layout.classes, desk.entropy)
    return sums.astype("<i8").tobytes()


def _own_update(desk: Desk, history: History) -> Update:
    view, name = history.round, desk.identity.name
    update = desk.workspace.load_update(view.plan.round)
    if update is None or hashlib.sha256(update.tags).hexdigest() != view.commits[name].tags:
        raise SitOut(f"the update that round {view.plan.round} committed to is not here: it was made elsewhere")
    return update


def _open(desk: Desk, history: History) -> Opening:
    view, packing = history.round, history.packing
    update = _own_update(desk, history)
    fields = packing.to_fields(update.values)
    signs = sketch.signs(view.seed, packing.folds, packing.body_chunks)
    folds, output = sketch.to_bytes(*sketch.sketch(fields, packing, signs))
    plan = view.plan
    receipt = desk.charge_round(plan)
    desk.link.upload(view.commits[desk.identity.name].ciphertext, desk.workspace.ciphertext(plan.round, PIECE_BYTES))
    return Opening(
        history.genesis.federation,
        view.challenge_digest,
        folds,
        output,
        _folded_root(desk, plan.round, history.opening_rows),
        update.tags,
        update.prototypes,
        receipt,
    )


def _folded_root(desk: Desk, number: int, rows: Any) -> str:
    words = (ring.parse_fresh(chunk) for chunk in desk.workspace.ciphertext(number))
    return merkle.root(ring.to_bytes(row) for row in ring.fold(words, rows))


def _trace_open(desk: Desk, history: History) -> TraceOpening:
    view = history.round
    _own_update(desk, history)
    root = _folded_root(desk, view.plan.round, history.trace_rows)
    return TraceOpening(history.genesis.federation, view.trace_digest, root)


_DUTIES: dict[Phase, Callable[[Desk, History], Any]] = {
    Phase.DEALING: keying.deal,
    Phase.CONFIRMING: keying.confirm,
    Phase.COUNTING: _counts,
    Phase.COMMITTING: _commit,
    Phase.OPENING: _open,
    Phase.CHECKING: checking.check,
    Phase.RECHECKING: checking.check,
    Phase.VERIFYING: checking.verify,
    Phase.TRACE_OPENING: _trace_open,
    Phase.TRACE_CHECKING: checking.check,
    Phase.SEARCHING: searching.report,
    Phase.FIND_CHECKING: searching.measure,
    Phase.ATTRIBUTING: searching.attribute,
}
