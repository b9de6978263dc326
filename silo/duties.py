"""What a silo answers in each phase: one function per row of the table, from the history to a message.

The caller has verified the history; these functions use keys, ledger, trainer and files, and return the body to sign.
`NotYet` means that the operator or the network has to do something first; `SitOut` that this step cannot be answered.
Nothing computed from a decryption is in any message but adoptions, which `open_sum` returns only for tagged bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from audit import turns
from audit.accounting import counts_charge, round_charges
from audit.history import History
from crypto import merkle, ring, sealing, sketch
from crypto.errors import BadCiphertext, CheckFailed, CryptoError, KeyMismatch
from crypto.identity import fingerprint
from crypto.quantise import apply_aggregate, model_bytes, quantise, randomness_needed
from crypto.scheme import SumKeys, SumScheme
from crypto.tags import Contribution
from protos.codec import decode, pack, unpack
from protos.messages import (
    Adoption,
    Answer,
    Answers,
    Commit,
    Counts,
    Deal,
    Evaluation,
    KeyCheck,
    Opening,
    Receipt,
    Refusal,
    SealedSecret,
    TraceOpening,
)
from protos.records import Plan
from protos.rounds import Phase
from silo.entropy import Entropy
from silo.errors import SiloError
from silo.ledger import Ledger
from silo.link import Link
from silo.releases import noised_counts, noised_evaluation, noised_prototypes
from silo.trainer import Trainer
from silo.workspace import Update, Workspace

if TYPE_CHECKING:
    from silo.identity import SiloIdentity


class NotYet(SiloError):
    """Raised when the operator has to act before this step, such as approving a member; it is tried again."""


class SitOut(SiloError):
    """Raised when this silo cannot take part in the step any more; it rejoins with the next round."""


@dataclass(frozen=True)
class LocalPolicy:
    """A silo's own floors under what a plan may ask for."""

    quorum: int = 3
    privacy_minimum: int = 2


@dataclass
class Desk:
    """Everything that the duties work with."""

    identity: SiloIdentity
    link: Link
    workspace: Workspace
    ledger: Ledger
    trainer: Trainer
    labels: NDArray[np.int64]
    scheme: SumScheme
    entropy: Entropy
    approved: Callable[[], Mapping[str, str]]
    policy: LocalPolicy
    _joined: tuple[bytes, SumKeys] | None = field(default=None, init=False, repr=False)

    def keys(self, epoch: int) -> SumKeys:
        """The sum's keys of a key epoch; SitOut where they are not here."""
        secret = self.workspace.load_secret(epoch)
        if secret is None:
            raise SitOut(f"the secrets of key epoch {epoch} are not here: ask the coordinator to start a new epoch")
        # By the secret, not the epoch: the next steward deals other secrets for the same epoch.
        if self._joined is None or self._joined[0] != secret:
            self._joined = secret, self.scheme.join(secret)
        return self._joined[1]


def answer(desk: Desk, history: History) -> Any:
    """The body that this silo owes in the present phase."""
    return _DUTIES[history.phase](desk, history)


def member_fingerprint(history: History, silo: str) -> str:
    """What the log says a member's fingerprint is."""
    member = history.members[silo]
    return fingerprint(member.name, member.signing_key, member.exchange_key)


def _require_approved(desk: Desk, history: History, members: tuple[str, ...]) -> None:
    approved = desk.approved()
    for silo in members:
        own = silo == desk.identity.name
        if not own and approved.get(silo) != member_fingerprint(history, silo):
            known = "another fingerprint is approved" if silo in approved else "it is not approved"
            raise NotYet(f"waiting for approval of {silo}: {known}; compare fingerprints by phone, then `approve`")


def _deal(desk: Desk, history: History) -> Deal:
    roster = history.roster
    assert roster is not None
    _require_approved(desk, history, roster.members)
    federation = history.genesis.federation
    secret = desk.scheme.deal(federation, roster.epoch)
    sealed = tuple(
        SealedSecret(
            silo,
            member_fingerprint(history, silo),
            sealing.seal(
                secret, history.members[silo].exchange_key, federation=federation, epoch=roster.epoch, silo=silo
            ),
        )
        for silo in roster.members
    )
    return Deal(federation, history.roster_digest, roster.epoch, desk.scheme.name, sealed)


def _confirm(desk: Desk, history: History) -> KeyCheck:
    roster, name = history.roster, desk.identity.name
    assert roster is not None
    assert history.deal is not None
    _require_approved(desk, history, roster.members)
    deal = decode(Deal, history.deal.deal.body)
    federation = history.genesis.federation
    (own,) = [item for item in deal.secrets if item.silo == name]
    try:
        if any(item.fingerprint != member_fingerprint(history, item.silo) for item in deal.secrets):
            raise KeyMismatch("the deal names another fingerprint than the log: the steward sealed for somebody else")
        secret = sealing.unseal(
            own.sealed, desk.identity.exchange, federation=federation, epoch=roster.epoch, silo=name
        )
        keys = desk.scheme.join(secret)
        value = keys.key_check(federation, roster.epoch)
    except CryptoError:
        # Silence would cost us our seat, not the steward his: a value that nobody else can have changes the steward.
        alone = hashlib.sha256(f"unusable/{history.deal_digest}/{name}".encode()).hexdigest()
        return KeyCheck(federation, history.deal_digest, roster.epoch, alone, None)
    desk.workspace.save_secret(roster.epoch, secret)
    return KeyCheck(federation, history.deal_digest, roster.epoch, value, _sealed_current(desk, history, keys))


def _sealed_current(desk: Desk, history: History, keys: SumKeys) -> str | None:
    """Digest of the current model sealed for the new epoch, None before any round or without the model."""
    if not history.rounds or not desk.workspace.has_model(history.model):
        return None
    return hashlib.sha256(sealed_model(desk, history, keys, history.model)).hexdigest()


def sealed_model(desk: Desk, history: History, keys: SumKeys, digest: str) -> bytes:
    """A model of ours sealed under the keys' model secret, as of the last round; every holder makes the same bytes."""
    model = desk.workspace.load_model(history.genesis.task.layout.size, digest)
    if model is None:
        raise SitOut("the model is not here")
    return sealing.seal_model(model_bytes(model), keys.model_secret, round=len(history.rounds), digest=digest)


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
    key = _ledger_key(plan.round)
    _charge_round(desk, plan)
    stored = desk.ledger.release(key)
    if stored is not None:
        return unpack(Commit, stored)
    update = desk.trainer.train(model, plan.training, history.counts[name].total)
    values = quantise(update, plan.step_log2, desk.entropy.take(randomness_needed(update.size)))
    fields = history.packing.to_fields(values.astype(np.int64))
    protected = keys.protect(fields, history.packing, plan=history.round.plan_digest, silo=name)
    prototypes = _prototypes(desk, history, model)
    desk.workspace.save_update(plan.round, Update(values, protected.tags, prototypes), protected.chunks)
    commit = Commit(
        history.genesis.federation,
        history.round.plan_digest,
        merkle.root(protected.chunks),
        hashlib.sha256(protected.tags).hexdigest(),
        None if prototypes is None else hashlib.sha256(prototypes).hexdigest(),
    )
    desk.ledger.store_release(key, pack(commit))
    return commit


def _prototypes(desk: Desk, history: History, model: Any) -> bytes | None:
    rule = history.round.plan.prototypes
    if rule is None:
        return None
    embeddings, labels = desk.trainer.embed(model)
    sums = noised_prototypes(embeddings, labels, rule, history.genesis.task.layout.classes, desk.entropy)
    return sums.astype("<i8").tobytes()


def _ledger_key(number: int) -> str:
    return f"round-{number}"


def _charge_round(desk: Desk, plan: Plan) -> Receipt:
    """Everything that a round releases, charged once: the same call later finds the same receipt."""
    charges = round_charges(plan.training, plan.prototypes, plan.evaluation_noise_micro)
    return desk.ledger.charge(_ledger_key(plan.round), charges)


def _own_update(desk: Desk, history: History) -> Update:
    view, name = history.round, desk.identity.name
    update = desk.workspace.load_update(view.plan.round)
    if update is None or hashlib.sha256(update.tags).hexdigest() != view.commits[name].tags:
        raise SitOut(f"the update that round {view.plan.round} committed to is not here: it was made elsewhere")
    return update


def _open(desk: Desk, history: History) -> Opening:
    view, packing = history.round, history.packing
    update = _own_update(desk, history)
    fields = packing.to_fields(update.values.astype(np.int64))
    signs = sketch.signs(view.seed, packing.folds, packing.body_chunks)
    folds, output = sketch.to_bytes(*sketch.sketch(fields, packing, signs))
    plan = view.plan
    receipt = _charge_round(desk, plan)
    desk.link.upload(view.commits[desk.identity.name].ciphertext, list(desk.workspace.ciphertext(plan.round)))
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
    words = (ring.parse_chunk(chunk) for chunk in desk.workspace.ciphertext(number))
    return merkle.root(ring.to_bytes(row) for row in ring.fold(words, rows))


def _check(desk: Desk, history: History) -> Answers:
    """Yes or no about each drawn subject, and nothing else. Bytes that are not the signed ones are not decrypted."""
    name = desk.identity.name
    answers = tuple(Answer(subject, _bears_out(desk, history, subject)) for subject in turns.subjects(history, name))
    return Answers(history.genesis.federation, turns.asking_record(history), answers)


def _bears_out(desk: Desk, history: History, subject: str) -> bool:
    view, packing = history.round, history.packing
    tracing = history.phase is Phase.TRACE_CHECKING
    opening = view.openings[subject]
    chunks = fetch_chunks(desk.link, view.traced[subject] if tracing else opening.folded)
    keys = desk.keys(view.plan.epoch)
    try:
        said = sketch.from_bytes(opening.folds, opening.output, packing, packing.folds)
        if tracing:
            keys.check_sketch(
                said, history.opening_rows, packing, plan=view.plan_digest, silo=subject, tags=opening.tags
            )
        keys.check_folded(
            chunks,
            history.trace_rows if tracing else history.opening_rows,
            packing,
            plan=view.plan_digest,
            silo=subject,
            tags=opening.tags,
            sketch=None if tracing else said,
        )
    except (CheckFailed, BadCiphertext):
        return False
    return True


def fetch_chunks(link: Link, root: str) -> list[bytes]:
    """A ciphertext by its Merkle root; SitOut where the coordinator hands out other bytes (nothing is decrypted)."""
    data = b"".join(link.download(root))
    chunks = [data[start : start + ring.CHUNK_BYTES] for start in range(0, len(data), ring.CHUNK_BYTES)]
    if not chunks or merkle.root(chunks) != root:
        raise SitOut("the coordinator handed out a ciphertext that is not the signed one: nothing was decrypted")
    return chunks


def _verify(desk: Desk, history: History) -> Adoption | Refusal:
    view, task = history.round, history.genesis.task
    assert view.sum is not None
    model = desk.workspace.load_model(task.layout.size, view.plan.model)
    if model is None:
        raise SitOut("the model of this round is not here")
    keys = desk.keys(view.plan.epoch)
    total = sum(view.weights.values())
    parts = [Contribution(silo, weight, view.openings[silo].tags) for silo, weight in view.weights.items()]
    try:
        aggregate = keys.open_sum(
            fetch_chunks(desk.link, view.sum.root),
            history.packing,
            plan=view.plan_digest,
            contributions=parts,
            total_weight=total,
        )
        _check_prediction(history, aggregate)
    except CheckFailed as error:
        return Refusal(history.genesis.federation, view.sum_digest, error.name)
    except BadCiphertext:
        return Refusal(history.genesis.federation, view.sum_digest, "digest")
    return _adopt(desk, history, keys, apply_aggregate(model, aggregate, view.plan.step_log2, total))


def _check_prediction(history: History, aggregate: Any) -> None:
    """The sketch of the aggregate must be the weighted sum of the openings' sketches: R is linear, so exactly."""
    view, packing = history.round, history.packing
    signs = sketch.signs(view.seed, packing.folds, packing.body_chunks).astype(np.int64)
    folds = np.zeros((packing.folds, packing.width), dtype=np.int64)
    output = np.zeros(packing.output_size, dtype=np.int64)
    for silo, weight in view.weights.items():
        opening = view.openings[silo]
        table, exact = sketch.from_bytes(opening.folds, opening.output, packing, packing.folds)
        folds += weight * table.astype(np.int64)
        output += weight * exact.astype(np.int64)
    fields = packing.to_fields(aggregate)
    body = signs @ fields[: packing.body_chunks, : packing.width]
    exact_part = fields[packing.body_chunks :].reshape(-1)[: packing.output_size]
    if not (np.array_equal(body, folds) and np.array_equal(exact_part, output)):
        raise CheckFailed("sketch")


def _adopt(desk: Desk, history: History, keys: SumKeys, model: Any) -> Adoption:
    view = history.round
    digest = desk.workspace.save_model(model)
    evaluation = _evaluate(desk, history, model)
    sealed_digest = hashlib.sha256(sealed_model(desk, history, keys, digest)).hexdigest()
    return Adoption(history.genesis.federation, view.sum_digest, digest, sealed_digest, evaluation)


def _evaluate(desk: Desk, history: History, model: Any) -> Evaluation | None:
    """Noised hold-out counts of the new model where the plan asks for them; stored before they are sent."""
    plan = history.round.plan
    if plan.evaluation_noise_micro is None:
        return None
    desk.ledger.require_not_behind(history.entries.get(desk.identity.name, 0))
    # A silo that was late to train has charged nothing yet; its hold-out counts are a release all the same.
    _charge_round(desk, plan)
    key = f"{_ledger_key(plan.round)}/evaluation"
    stored = desk.ledger.release(key)
    if stored is None:
        stored = pack(noised_evaluation(*desk.trainer.evaluate(model), plan.evaluation_noise_micro, desk.entropy))
        desk.ledger.store_release(key, stored)
    return unpack(Evaluation, stored)


def _trace_open(desk: Desk, history: History) -> TraceOpening:
    view = history.round
    _own_update(desk, history)
    root = _folded_root(desk, view.plan.round, history.trace_rows)
    return TraceOpening(history.genesis.federation, view.trace_digest, root)


_DUTIES: dict[Phase, Callable[[Desk, History], Any]] = {
    Phase.DEALING: _deal,
    Phase.CONFIRMING: _confirm,
    Phase.COUNTING: _counts,
    Phase.COMMITTING: _commit,
    Phase.OPENING: _open,
    Phase.CHECKING: _check,
    Phase.RECHECKING: _check,
    Phase.VERIFYING: _verify,
    Phase.TRACE_OPENING: _trace_open,
    Phase.TRACE_CHECKING: _check,
}
