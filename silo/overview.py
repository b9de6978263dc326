"""What a silo's operator may want to know, from its own directory: standing, what left the building, the model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from audit import searches
from audit.errors import BrokenLog
from audit.files import LogFile
from audit.findings import described
from audit.history import History
from crypto.packing import LEVELS
from crypto.ring import FRESH_BYTES
from protos import canonical
from protos.codec import unpack
from protos.messages import Signed
from protos.rounds import Phase
from protos.task import MICRO
from silo.identity import load_enrolment, load_identity
from silo.journal import Journal
from silo.ledger import Ledger
from silo.link import BadSiloDirectory
from silo.runner import approved, last_ledger
from silo.session import HALT
from silo.workspace import Workspace


def status(directory: Path) -> dict[str, Any]:
    """Who this silo is and where it stands, by its own log; nobody is asked."""
    identity, enrolled, history = load_identity(directory), load_enrolment(directory), history_of(directory)
    facts: dict[str, Any] = {
        "name": identity.name,
        "federation": identity.federation,
        "fingerprint": identity.fingerprint,
        "address": enrolled.address,
        "approved": sorted(approved(directory)),
        "phase": history.phase.value,
        "records": history.chain.size,
        "round": len(history.rounds),
        "halted": _halt(directory),
        "epsilon_micro": _spent(directory, history),
    }
    if history.chain.genesis is not None:
        task = history.genesis.task
        facts["at_range_limit"] = _at_range_limit(directory, history)
        facts |= {"rounds": task.rounds, "budget_micro": task.budget.epsilon_micro, "model": history.model}
        if task.search is not None:
            known = searches.triggers_for(history, identity.name)
            facts["triggers"] = [described(trigger) for trigger in known]
    return facts


def sent(directory: Path) -> list[dict[str, Any]]:
    """Everything that left, in order: signed messages with what they held by field and size in bytes, and uploads."""
    history, journal = history_of(directory), Journal(directory / "journal.db")
    try:
        described = [_described(answered, message) for answered, message in journal.sent() if message]
    finally:
        journal.close()
    return [entry for message in described for entry in (*_uploads(history, message), message)]


def export(directory: Path, out: Path, unsearched: bool = False) -> dict[str, Any]:
    """Write a model to `out` (.npz): one array per tensor, and all in `flat` (float32).

    Where the task has a search it is the newest model whose search was clean, else the current one.

    Args:
        directory: the silo's.
        out: the file.
        unsearched: write the current model whatever the search says.

    Raises:
        BadSiloDirectory: there is no model that may be released, it is not here, or the file cannot be written.
    """
    history = history_of(directory)
    if history.chain.genesis is None:
        raise BadSiloDirectory(f"the silo in {directory} has not read a log yet: use `run`")
    layout = history.genesis.task.layout
    model = history.model if unsearched else _releasable(history, load_identity(directory).name)
    flat = Workspace(directory).load_model(layout.size, model)
    if flat is None:
        how = (
            "let `run` fetch it" if model == history.model else "get it from another silo, `check-certificate` knows it"
        )
        raise BadSiloDirectory(f"the model {model[:16]} is not here: {how}")
    ends = {tensor.name: tensor.offset + int(np.prod(tensor.shape)) for tensor in layout.tensors}
    arrays = {tensor.name: flat[tensor.offset : ends[tensor.name]].reshape(tensor.shape) for tensor in layout.tensors}
    temporary = out.with_name(out.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **{**arrays, "flat": flat})
        os.replace(temporary, out)
    except OSError as error:
        raise BadSiloDirectory(f"{out} cannot be written: {error.strerror}") from error
    done = history.phase is Phase.FINISHED
    searched = history.genesis.task.search is not None and not unsearched
    adopted = (view.plan.round for view in history.rounds if view.outcome and view.outcome.model == model)
    number = len(history.rounds) if model == history.model else next(adopted, 0)
    return {"model": model, "path": str(out), "finished": done, "round": number, "searched": searched}


def _releasable(history: History, silo: str) -> str:
    """The model that the search allows, and that this silo's own search does not speak against."""
    model = searches.releasable(history)[0]
    if model is None:
        why = "no search has ended yet"
        if any(view.blind for view in history.searches if view.closed):
            why = "the models are right on too few public records to be searched; train longer, or look at the root set"
        if any(view.confirmed for view in history.searches):
            why = "every search found a trigger"
        raise BadSiloDirectory(f"no model may be released: {why}; --unsearched writes the current one all the same")
    if searches.denied(history, silo, model):
        raise BadSiloDirectory(
            f"this silo's own search found a trigger in {model[:16]} that the others deny: compare with the others; "
            "--unsearched writes the current model all the same"
        )
    return model


def history_of(directory: Path) -> History:
    """The silo's log, every record checked again; a last line that is being written is left out."""
    load_enrolment(directory)
    history, log = History(), LogFile(directory / "log.jsonl")
    if not log.path.exists():
        return history
    try:
        for record in log.records():
            history.apply(record)
    except BrokenLog:
        # `run` drops a half-written line when it starts; it is no reason to show nothing.
        if log.path.read_bytes().endswith(b"\n"):
            raise
    return history


def _described(answered: str, message: bytes) -> dict[str, Any]:
    body = unpack(Signed, message).body
    parts = {name: len(canonical.dumps(value)) for name, value in body.items() if name not in ("kind", "federation")}
    return {"kind": body["kind"].split("/")[1], "answers": answered, "bytes": len(message), "parts": parts}


def _uploads(history: History, message: dict[str, Any]) -> list[dict[str, Any]]:
    """The ciphertext that goes before an opening; its size is the layout's."""
    if message["kind"] != "opening":
        return []
    size = history.packing.chunks * FRESH_BYTES
    return [{"kind": "ciphertext", "answers": message["answers"], "bytes": size, "parts": {"encrypted chunks": size}}]


def _at_range_limit(directory: Path, history: History) -> int | None:
    """Coordinates of the last round's own update at ±127, which were or may have been cut; stays here."""
    update = Workspace(directory).load_update(len(history.rounds))
    return None if update is None else int((np.abs(update.values) == LEVELS).sum())


def _halt(directory: Path) -> str | None:
    journal = Journal(directory / "journal.db")
    try:
        return journal.note(HALT)
    finally:
        journal.close()


def _spent(directory: Path, history: History) -> int | None:
    """ε by the ledger of the last run, None before the first."""
    path = last_ledger(directory)
    if path is None or not path.exists() or history.chain.genesis is None:
        return None
    task = history.genesis.task
    ledger = Ledger(path, history.genesis_digest, task.budget)
    try:
        return ledger.spent()
    finally:
        ledger.close()


def epsilon_text(micro: int | None) -> str:
    """ε with three decimals, never rounded down."""
    return "-" if micro is None else f"{-(-micro // 1000) * 1000 / MICRO:.3f}"
