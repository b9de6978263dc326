"""A silo's life: read the log, check everything, owe an answer, send it, remember.

`step` is one turn; whoever drives it (the command line, the simulator) decides how often. All state is on disk before
anything is sent, so that a killed silo goes on where it was, and sends the same bytes again.

A silo goes on only with a log that extends the one it has. It stops (`Halted`) when the coordinator's word is broken:
a false sum, an own commitment or opening that was taken and then left out. Its operator resumes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from audit import attributions, searches, turns
from audit.errors import AuditError, UnwritableLog
from audit.files import LogFile
from audit.history import History
from audit.log import verify_head_signature
from crypto import sealing
from crypto.errors import CryptoError
from crypto.identity import sign
from protos import canonical
from protos.canonical import MAX_INTEGER
from protos.codec import pack, unpack
from protos.errors import MalformedMessage
from protos.messages import Refusal, Signed
from protos.records import (
    Attributed,
    Challenge,
    Clean,
    Decision,
    Finds,
    Openings,
    Outcome,
    Recheck,
    Record,
    Searched,
    SignedHead,
    Trace,
    TraceOpenings,
)
from protos.rounds import Phase
from silo import duties, keying, searching
from silo.desk import Desk, NotYet, SitOut
from silo.errors import SiloError
from silo.journal import Journal
from silo.link import Link, Refused, Unreachable
from silo.workspace import Workspace

if TYPE_CHECKING:
    from silo.identity import SiloIdentity

HALT = "halt"
EXCUSED = "excused"
_CARRIERS = {
    cls.KIND
    for cls in (
        Challenge, Openings, Recheck, Decision, Trace, TraceOpenings, Outcome, Searched, Clean, Finds, Attributed,
    )
}  # fmt: skip
"""Records that carry every message taken since the last one."""


class Halted(SiloError):
    """Raised when the coordinator broke its word; look at the log with the other silos, then `resume`."""


@dataclass(frozen=True)
class Progress:
    """What a turn did: `news` records read, `done` the phase that was answered, `note` for the operator."""

    news: int
    done: str | None = None
    note: str | None = None
    finished: bool = False


class Session:
    """One silo over its directory, link and desk.

    `desk_for` makes the desk once genesis is known: trainer and ledger depend on the task. `new_history` makes what the
    log is read into.
    """

    def __init__(
        self,
        directory: Path,
        identity: SiloIdentity,
        link: Link,
        desk_for: Callable[[History, Workspace], Desk],
        new_history: Callable[[], History] = History,
    ) -> None:
        self.workspace = Workspace(directory)
        self.identity, self.link, self._desk_for = identity, link, desk_for
        self.journal = Journal(directory / "journal.db")
        self.log = LogFile(directory / "log.jsonl")
        self._new_history = new_history
        self.history = new_history()
        self._desk: Desk | None = None
        self._load()

    def step(self, wait_s: float) -> Progress:
        """Read news (waiting up to `wait_s` if there are none) and answer what is owed.

        Raises:
            Halted: the coordinator broke its word; nothing is answered until `resume`.
            SiloError: for what the operator has to mend (data, budget, disk).
        """
        self._require_running()
        if self._stale:
            self._load()
        owed = self._owes()
        news = self._read(0.0 if owed else wait_s)
        self._fetch_model()
        if self.history.phase is Phase.FINISHED:
            return Progress(news, finished=self._has_released())
        return self._answer(news) if self._owes() else Progress(news)

    def resume(self) -> None:
        """The operator has looked: go on, past the false sum of a round if there was one."""
        self.journal.set_note(EXCUSED, str(len(self.history.rounds)))
        self.journal.set_note(HALT, None)

    def close(self) -> None:
        """Close the files."""
        self.journal.close()
        if self._desk is not None:
            self._desk.ledger.close()

    @property
    def desk(self) -> Desk:
        """What the duties work with, made on first use."""
        if self._desk is None:
            self._desk = self._desk_for(self.history, self.workspace)
        return self._desk

    def _load(self) -> None:
        """Make the history from the file."""
        history = self._new_history()
        try:
            if self.log.recover(MAX_INTEGER):
                for data in self.log.records():
                    history.apply(data)
        except AuditError as error:
            raise SiloError(f"this silo's own log: {error}; restore its directory or enrol anew") from error
        self.history, self._stale, self._signed_size = history, False, 0
        head = self.log.head()
        if head is not None and head.head.size == history.chain.size:
            self._require_head(head)

    def _require_head(self, head: SignedHead) -> None:
        """The log key has signed for exactly the records that we have; nothing is answered before."""
        self.history.chain.verify_head(head)
        self._signed_size = head.head.size

    def _require_running(self) -> None:
        reason = self.journal.note(HALT)
        if reason is not None:
            raise Halted(f"{reason}; compare logs with the other silos, then run `resume`")

    def _halt(self, reason: str) -> None:
        self.journal.set_note(HALT, reason)
        self._require_running()

    def _owes(self) -> bool:
        if self.history.phase in (Phase.EMPTY, Phase.FINISHED) or self._signed_size != self.history.chain.size:
            return False
        due = self.identity.name in turns.awaited(self.history)
        return due and self.journal.state(self.history.phase_digest) not in ("taken", "refused")

    def _read(self, wait_s: float) -> int:
        """Take in new records; each is checked in full and on disk before it has an effect."""
        try:
            batch, head_bytes = self.link.tail(self.history.chain.size, wait_s)
        except Refused as error:
            raise SiloError(str(error)) from error
        except Unreachable:
            return 0
        # Until all of it is taken, memory may be ahead of the file; whatever happens then, the file is read again.
        self._stale = True
        try:
            head = unpack(SignedHead, head_bytes)
            self._require_extension(head, len(batch))
            for index, data in enumerate(batch):
                last = index + 1 == len(batch)
                self._take(data, head if last else None)
        except UnwritableLog as error:
            raise SiloError(str(error)) from error
        except (AuditError, MalformedMessage) as error:
            self._halt(f"the coordinator's log does not hold: {error}")
        self._stale = False
        return len(batch)

    def _require_extension(self, head: SignedHead, news: int) -> None:
        """The head must be signed and not shorter than what we have: a log that was rolled back is refused."""
        chain = self.history.chain
        verify_head_signature(head, self.identity.log_key)
        if head.head.size < chain.size + news:
            raise AuditError(f"its head has {head.head.size} records and {chain.size + news} were shown: rolled back")
        if head.head.size == chain.size and news == 0:
            self._require_head(head)

    def _take(self, data: bytes, head: SignedHead | None) -> None:
        record = self.history.chain.check(data)
        if record.sequence == 0 and record.body.get("log_key") != self.identity.log_key:
            raise AuditError("genesis names another log key than the invitation")
        phase, asked = self.history.phase, self.history.phase_digest
        self.history.apply(data)
        covers = head is not None and head.head.size == self.history.chain.size
        if covers and head is not None:
            self._require_head(head)
        broken = self._broken_word(phase, asked, record)
        if broken is not None:
            # Before the record is ours: a silo that is killed here halts when it comes back.
            self.journal.set_note(HALT, broken)
        self.log.append(data, head if covers else None)
        if broken is not None:
            self._stale = False
            self._require_running()

    def _broken_word(self, phase: Phase, asked: str, record: Record) -> str | None:
        """What the coordinator has taken from us must be in its record, and its sum must not have been false."""
        if not self.history.rounds:
            return None
        number = self.history.round.plan.round
        if self.history.halted and number > int(self.journal.note(EXCUSED) or 0):
            return f"the sum of round {number} was false, or too many sums failed without a complete trace"
        if self.journal.state(asked) != "taken":
            return None
        framed = self._framed(record)
        if framed is not None:
            return f"{framed} was convicted of a find in round {number} that our own past models clear it of"
        if self._outvoted(asked, record):
            return f"a check of the sum of round {number} failed here, and most silos adopted it"
        if not self._left_out(phase, asked, record):
            return None
        return f"our answer in phase {phase.value} of round {number} was taken and then left out or changed"

    def _framed(self, record: Record) -> str | None:
        """A silo that most drawn silos' tables convict and ours clears: a dissenter stops, and only itself."""
        if record.body["kind"] != Attributed.KIND:
            return None
        return attributions.contradicts(self.history, self.identity.name)

    def _outvoted(self, asked: str, record: Record) -> bool:
        """We refused the sum that the majority adopted: a dissenter stops, and only itself."""
        message = unpack(Signed, self.journal.message(asked) or b"")
        return record.body.get("result") == "adopted" and message.body["kind"] == Refusal.KIND

    def _left_out(self, phase: Phase, asked: str, record: Record) -> bool:
        ends_early = record.body["kind"] == Outcome.KIND and phase not in (Phase.VERIFYING, Phase.TRACE_CHECKING)
        if record.body["kind"] not in _CARRIERS or ends_early:
            return self.identity.name in record.body.get("late", ())
        listed = [item for value in record.body.values() if isinstance(value, list) for item in value]
        return canonical.loads(self.journal.message(asked) or b"null") not in listed

    def _answer(self, news: int) -> Progress:
        phase, asked = self.history.phase, self.history.phase_digest
        try:
            self._require_same_life()
            message = self._message(asked)
            wanted = self.link.submit(message)
            self.journal.mark(asked, "taken")
            self._upload(wanted)
        except NotYet as error:
            return Progress(news, note=str(error))
        except Unreachable:
            return Progress(news, note="the coordinator cannot be reached; trying again")
        except (SitOut, Refused) as error:
            self.journal.mark(asked, "refused")
            return Progress(news, note=str(error))
        return Progress(news, done=phase.value)

    def _message(self, asked: str) -> bytes:
        stored = self.journal.message(asked)
        if stored:
            return stored
        try:
            body = duties.answer(self.desk, self.history)
        except CryptoError as error:
            raise SiloError(str(error)) from error
        message = pack(sign(body, self.identity.name, self.identity.signing))
        self.journal.put_message(asked, message)
        return message

    def _require_same_life(self) -> None:
        """A directory that was restored from a copy lacks what we have sent since: it sits out the open round."""
        if not self.history.rounds or self.history.round.outcome is not None:
            return
        view, name = self.history.round, self.identity.name
        sent = [view.plan_digest] if name in view.commits else []
        sent += [view.challenge_digest] if name in view.openings else []
        if not all(self.journal.message(asked) for asked in sent):
            raise SitOut(f"this directory is an older copy, it lacks what we sent in round {view.plan.round}")

    def _upload(self, wanted: tuple[str, ...]) -> None:
        """Send the sealed model where the coordinator has no copy yet; nothing depends on this one attempt."""
        if not wanted:
            return
        history = self.history
        confirming = history.phase is Phase.CONFIRMING and history.roster is not None
        epoch = history.roster.epoch if confirming and history.roster else history.round.plan.epoch
        try:
            keys = self.desk.keys(epoch)
            digest = history.model if confirming else self._adopted_digest()
            sealed = keying.sealed_model(self.desk, history, keys, digest)
            if hashlib.sha256(sealed).hexdigest() in wanted:
                self.link.upload(hashlib.sha256(sealed).hexdigest(), [sealed])
        except (Refused, Unreachable, SitOut):
            return

    def _adopted_digest(self) -> str:
        message = self.journal.message(self.history.phase_digest)
        assert message is not None
        return str(unpack(Signed, message).body["model"])

    def _fetch_model(self) -> None:
        """Get the current model where it is not here: the public first one, or the sealed copy that the log names."""
        history = self.history
        if not history.model or self.workspace.has_model(history.model):
            self._forget_models()
            return
        size = history.genesis.task.layout.size
        try:
            if history.model == history.genesis.task.initial_model:
                pieces = self.link.download(history.model)
            else:
                pieces = iter([self._unsealed(history.model, history.sealed, history.sealed_round)])
            if self.workspace.fetch_model(history.model, pieces, size):
                self._forget_models()
        except (Refused, Unreachable, CryptoError):
            return

    def _unsealed(self, digest: str, sealed: str | None, number: int) -> bytes:
        """A model from its sealed copy; no bytes where copy or key is missing."""
        secret = self.workspace.load_secret(self.history.epoch)
        if sealed is None or secret is None:
            return b""
        keys = self.desk.scheme.join(secret)
        return sealing.unseal_model(
            b"".join(self.link.download(sealed)), keys.model_secret, round=number, digest=digest
        )

    def _has_released(self) -> bool:
        """Whether this silo is done: the released model is here, there is none, or it can no longer be had."""
        released, view = searches.releasable(self.history)[0], searches.newest_clean(self.history)
        if released is None or self.workspace.has_model(released):
            return True
        if view is None or released == self.history.model:
            return False
        if view.epoch == self.history.epoch:
            try:
                data = self._unsealed(released, view.sealed, view.sealed_round)
                if self.workspace.fetch_model(released, [data], self.history.genesis.task.layout.size):
                    return True
            except Unreachable:
                return False
            except (Refused, CryptoError):
                pass
        return True

    def _forget_models(self) -> None:
        """Until an update is made only the current model and epoch are needed; later a candidate may be here too."""
        if self.history.phase in (Phase.IDLE, Phase.COMMITTING, Phase.FINISHED):
            self.workspace.keep_secrets(self.history.epoch)
            if self.history.rounds:
                self.workspace.keep_models(searching.kept_models(self.history))
