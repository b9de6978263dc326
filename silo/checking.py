"""Checks by a silo: other silos' folded ciphertexts, and the sum before its model is adopted.

Nothing computed from a decryption is in any message but adoptions, which `open_sum` returns only for tagged bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audit import turns
from audit.history import History
from crypto import merkle, sketch
from crypto.errors import BadCiphertext, CheckFailed
from crypto.quantise import apply_aggregate
from crypto.tags import Contribution
from protos.codec import pack, unpack
from protos.messages import Adoption, Answer, Answers, Evaluation, Refusal
from protos.rounds import Phase
from silo.desk import Desk, SitOut, round_key
from silo.keying import sealed_model
from silo.releases import noised_evaluation
from silo.workspace import Chunks


def check(desk: Desk, history: History) -> Answers:
    """Yes or no about each drawn subject, and nothing else. Bytes that are not the signed ones are not decrypted."""
    name = desk.identity.name
    answers = tuple(Answer(subject, bears_out(desk, history, subject)) for subject in turns.subjects(history, name))
    return Answers(history.genesis.federation, turns.asking_record(history), answers)


def bears_out(desk: Desk, history: History, subject: str) -> bool:
    view, packing = history.round, history.packing
    tracing = history.phase is Phase.TRACE_CHECKING
    opening = view.openings[subject]
    rows = history.trace_rows if tracing else history.opening_rows
    with fetched(desk, view.traced[subject] if tracing else opening.folded, len(rows)) as found:
        chunks = list(found)
    keys = desk.keys(view.plan.epoch)
    try:
        said = sketch.from_bytes(opening.folds, opening.output, packing, packing.folds)
        if tracing:
            keys.check_sketch(
                said, history.opening_rows, packing, plan=view.plan_digest, silo=subject, tags=opening.tags
            )
        keys.check_folded(
            chunks,
            rows,
            packing,
            plan=view.plan_digest,
            silo=subject,
            tags=opening.tags,
            sketch=None if tracing else said,
        )
    except (CheckFailed, BadCiphertext):
        return False
    return True


@contextmanager
def fetched(desk: Desk, root: str, count: int) -> Iterator[Chunks]:
    """A fold or sum of `count` chunks by its Merkle root, in a file while the context is open.

    Raises:
        SitOut: the coordinator hands out other bytes, before any of them is decrypted.
    """
    # A root that is signed over some chunks too many is refused by whoever opens it; endless bytes are not read.
    with desk.workspace.received(desk.link.download(root), 2 * count) as chunks:
        if chunks is None or merkle.root(chunks) != root:
            raise SitOut("the coordinator handed out a ciphertext that is not the signed one: nothing was decrypted")
        yield chunks


def verify(desk: Desk, history: History) -> Adoption | Refusal:
    view = history.round
    assert view.sum is not None
    if not desk.workspace.has_model(view.plan.model):
        raise SitOut("the model of this round is not here")
    keys = desk.keys(view.plan.epoch)
    total = sum(view.weights.values())
    parts = [Contribution(silo, weight, view.openings[silo].tags) for silo, weight in view.weights.items()]
    try:
        with fetched(desk, view.sum.root, history.packing.chunks) as chunks:
            aggregate = keys.open_sum(
                chunks, history.packing, plan=view.plan_digest, contributions=parts, total_weight=total
            )
        _check_prediction(history, aggregate)
    except CheckFailed as error:
        return Refusal(history.genesis.federation, view.sum_digest, error.name)
    except BadCiphertext:
        return Refusal(history.genesis.federation, view.sum_digest, "digest")
    applied = aggregate if desk.combine is None else desk.combine(view, aggregate)
    digest, evaluation = _new_model(desk, history, applied, total)
    # Sealing takes two models of memory; the sum is not needed any more.
    del aggregate, applied
    sealed = hashlib.sha256(sealed_model(desk, history, keys, digest)).hexdigest()
    return Adoption(history.genesis.federation, view.sum_digest, digest, sealed, evaluation)


def _new_model(desk: Desk, history: History, aggregate: NDArray[Any], total: int) -> tuple[str, Evaluation | None]:
    """Keep the new model, and evaluate it where the plan asks for it; its digest."""
    plan = history.round.plan
    model = desk.workspace.load_model(history.genesis.task.layout.size, plan.model)
    if model is None:
        raise SitOut("the model of this round is damaged")
    new = apply_aggregate(model, aggregate, plan.step_log2, total, out=model)
    return desk.workspace.save_model(new), _evaluate(desk, history, new)


def _check_prediction(history: History, aggregate: NDArray[np.int32]) -> None:
    """The sketch of the aggregate must be the weighted sum of the openings' sketches: R is linear, so exactly."""
    view, packing = history.round, history.packing
    signs = sketch.signs(view.seed, packing.folds, packing.body_chunks)
    folds = np.zeros((packing.folds, packing.width), dtype=np.int64)
    output = np.zeros(packing.output_size, dtype=np.int64)
    for silo, weight in view.weights.items():
        opening = view.openings[silo]
        table, exact = sketch.from_bytes(opening.folds, opening.output, packing, packing.folds)
        folds += weight * table.astype(np.int64)
        output += weight * exact.astype(np.int64)
    body, exact_part = sketch.sketch(packing.to_fields(aggregate), packing, signs)
    if not (np.array_equal(body, folds) and np.array_equal(exact_part, output)):
        raise CheckFailed("sketch")


def _evaluate(desk: Desk, history: History, model: Any) -> Evaluation | None:
    """Noised hold-out counts of the new model where the plan asks for them; stored before they are sent."""
    plan = history.round.plan
    if plan.evaluation_noise_micro is None:
        return None
    desk.ledger.require_not_behind(history.entries.get(desk.identity.name, 0))
    # A silo that was late to train has charged nothing yet; its hold-out counts are a release all the same.
    desk.charge_round(plan)
    key = f"{round_key(plan.round)}/evaluation"
    stored = desk.ledger.release(key)
    if stored is None:
        stored = pack(noised_evaluation(*desk.trainer.evaluate(model), plan.evaluation_noise_micro, desk.entropy))
        desk.ledger.store_release(key, stored)
    return unpack(Evaluation, stored)
