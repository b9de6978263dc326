"""The coordinator as plain calls: keeps log, messages and blobs together and moves the machine.

gRPC and the simulator call the same methods. Every method may be called from several threads. What a caller has
been told is durable: a message or record is in the store before its call returns.

Blobs by digest: `ciphertext` of a commitment and its folds, the sum, the sealed copy of the current model, the
initial model. Ciphertexts, folds and sums go when their round closes.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from typing import Any

from numpy.typing import NDArray

from audit import searches, turns
from audit.errors import AuditError, RejectedSubmission
from audit.files import LogFile
from audit.history import History
from coordinator import machine
from coordinator.blobs import Blobs
from coordinator.errors import NoSuchBlob, NotEnrolled, RejectedMessage, StoreError
from coordinator.store import Store
from crypto import merkle, ring
from crypto.errors import CryptoError
from crypto.identity import SigningKey
from protos.codec import pack, unpack
from protos.errors import MalformedMessage
from protos.messages import Adoption, KeyCheck, Opening, Signed, TraceOpening
from protos.records import Genesis, Member
from protos.rounds import Phase
from protos.transport import PIECE_BYTES

PRESENCE_MS = 30_000
BATCH_BYTES = 4 << 20
MAX_MESSAGE = 64 << 20
SEALED_OVERHEAD = 1024


class Service:
    """One coordinator over its store, blobs, log key and clock (milliseconds since 1970)."""

    def __init__(
        self, store: Store, blobs: Blobs, log_key: SigningKey, clock: Callable[[], int], mirror: LogFile | None = None
    ) -> None:
        self._store, self._blobs, self._log_key, self._clock = store, blobs, log_key, clock
        self._mirror = mirror
        self._lock = threading.RLock()
        self._grown = threading.Condition(self._lock)
        self._seen: dict[str, int] = {}
        self._mirrored: int | None = None
        self._records: list[bytes] = []
        self._pending: dict[str, Signed] = {}
        self.history, self._stale = History(), True
        self._refresh()
        self._since_ms = clock()
        self._settled = False
        self._settle()

    def found(self, genesis: Genesis, initial_model: bytes, root: bytes | None = None) -> None:
        """Write the first record and keep what is public: the initial model, the root set. Refused where a log exists.

        `root` is owed where the task has a search.
        """
        with self._lock:
            if self._records:
                raise RejectedMessage("this directory holds a federation already: choose another one")
            self._blobs.write(genesis.task.initial_model, [initial_model], leaf=None, limit=len(initial_model))
            if genesis.task.search is not None:
                data = root or b""
                self._blobs.write(genesis.task.search.root, [data], leaf=None, limit=len(data))
            self._append(genesis)

    def enrol(self, name: str, signing_key: str, exchange_key: str) -> None:
        """Put a new member on record. The same keys again are a retry and change nothing."""
        with self._lock:
            self._refresh()
            member = Member(name, signing_key, exchange_key)
            if self.history.members.get(name) == member:
                return
            try:
                self._append(member)
            except AuditError as error:
                raise RejectedMessage(str(error)) from error

    def tail(self, peer: str, size: int) -> tuple[list[bytes], bytes]:
        """Records from sequence `size` on, 4 MiB at a time but at least one, and the signed head of the whole log."""
        with self._lock:
            self._admit(peer)
            batch: list[bytes] = []
            total = 0
            for data in self._records[size:]:
                if batch and total + len(data) > BATCH_BYTES:
                    break
                batch.append(data)
                total += len(data)
            head = self._store.head()
            assert head is not None
            return batch, head

    def wait(self, size: int, seconds: float) -> None:
        """Return when the log has more than `size` records, or after `seconds`."""
        with self._grown:
            self._grown.wait_for(lambda: len(self._records) > size, timeout=seconds)

    def submit(self, peer: str, message: bytes) -> tuple[str, ...]:
        """Take a signed message from `peer`; returns digests of blobs that are wanted from it now.

        Raises:
            RejectedMessage: says what does not fit; nothing has changed.
        """
        if len(message) > MAX_MESSAGE:
            raise RejectedMessage(f"a message has at most {MAX_MESSAGE} bytes")
        try:
            signed = unpack(Signed, message)
        except MalformedMessage as error:
            raise RejectedMessage(str(error)) from error
        with self._lock:
            self._admit(peer)
            if signed.signer != peer:
                raise RejectedMessage(f"{peer} cannot speak for {signed.signer}")
            try:
                new = machine.accept(self.history, self._pending, signed)
                if new:
                    self._check_folds(signed)
            except (RejectedSubmission, CryptoError, MalformedMessage) as error:
                raise RejectedMessage(str(error)) from error
            if new:
                self._store.add_submission(peer, message)
                self._pending[peer] = signed
            return self._wanted(signed)

    def upload(self, peer: str, digest: str, chunks: Iterator[bytes]) -> None:
        """Store a blob that the round awaits from `peer`; a second upload of the same blob changes nothing."""
        with self._lock:
            self._admit(peer)
            limit, leaf = self._expected(peer, digest)
        if not self._blobs.has(digest):
            self._blobs.write(digest, chunks, leaf=leaf, limit=limit)

    def download(self, peer: str, digest: str) -> Iterator[bytes]:
        """A blob in pieces; only blobs that the log makes public to silos, never a whole update."""
        with self._lock:
            self._admit(peer)
            if digest not in self._public(peer) or not self._blobs.has(digest):
                raise NoSuchBlob(f"there is no blob {digest[:16]} for {peer} now: read the log again")
        return self._blobs.read(digest, PIECE_BYTES)

    def start(self) -> None:
        """Ask for (re)keying with everybody enrolled: training begins or resumes, after an operator's look."""
        self._store.set_note("start", str(len(self._records)).encode())

    def tick(self) -> None:
        """Append every record that is due now."""
        while self._step():
            pass

    def status(self) -> dict[str, Any]:
        """Facts for the operator."""
        history = self.history
        with self._lock:
            return {
                "federation": history.genesis.federation,
                "phase": history.phase.value,
                "records": len(self._records),
                "round": len(history.rounds),
                "rounds": history.genesis.task.rounds,
                "epoch": history.epoch,
                "members": sorted(history.members),
                "active": list(history.active),
                "convicted": dict(history.convicted),
                "awaited": [silo for silo in turns.awaited(history) if silo not in self._pending],
                "halted": history.halted,
                "model": history.model,
            }

    def _step(self) -> bool:
        with self._lock:
            self._refresh()
            self._settle()
        root = self._sum() if self.history.phase is Phase.SUMMING else None
        with self._lock:
            body = machine.next_body(self.history, self._pending, self._facts(root))
            if body is None:
                return False
            self._append(body)
            return True

    def _facts(self, root: str | None) -> machine.Facts:
        now = self._clock()
        deadline = turns.deadline_ms(self.history)
        since = max(self._since_ms, self.history.phase_since_ms)
        request = self._store.note("start")
        asked_at = -1 if request is None else int(request)
        return machine.Facts(
            expired=deadline is not None and now - since > deadline,
            start=asked_at > self.history.roster_sequence,
            present=frozenset(silo for silo, seen in self._seen.items() if now - seen <= PRESENCE_MS),
            nonce=self._nonce(),
            sum_root=root,
        )

    def _nonce(self) -> str:
        """The nonce of the round that is open or comes next: durable before its hash is published."""
        number = len(self.history.rounds) + (self.history.phase is Phase.IDLE)
        key = f"nonce-{number}"
        stored = self._store.note(key)
        if stored is None:
            stored = secrets.token_hex(32).encode()
            self._store.set_note(key, stored)
        return stored.decode()

    def _append(self, body: Any) -> None:
        data = self.history.chain.next_record(body, self._clock())
        self.history.apply(data)
        signed_head = self.history.chain.sign_head(self._log_key)
        enrolment = isinstance(body, Member)
        self._settled = False
        try:
            self._store.append(data, pack(signed_head), keep_submissions=enrolment)
        except BaseException:
            # The record may be in the store or not; memory must neither run ahead of it nor lag behind.
            self._stale = True
            raise
        self._records.append(data)
        self._pending = self._pending if enrolment else {}
        self._grown.notify_all()
        self._settle()

    def _load(self) -> None:
        """Make the state in memory from the store."""
        records, history = self._store.records(), History()
        for data in records:
            history.apply(data)
        self._pending = {silo: unpack(Signed, message) for silo, message in self._store.submissions()}
        self._records, self.history, self._stale = records, history, False

    def _refresh(self) -> None:
        if self._stale:
            self._load()

    def _settle(self) -> None:
        """What follows from a record that is in the store; made up for at the next tick or start where it fails."""
        if self._settled:
            return
        if self.history.phase in (Phase.IDLE, Phase.FINISHED):
            self._forget_round()
        self._write_mirror()
        self._settled = True

    def _write_mirror(self) -> None:
        """Bring the mirror up to the log; after a crash or fault it may lack records or end in half a line.

        Raises:
            StoreError: the disk refuses; the log itself is safe, and the next call goes on from what is there.
        """
        if self._mirror is None or not self._records:
            return
        try:
            present = self._mirror.recover(len(self._records)) if self._mirrored is None else self._mirrored
            self._mirrored = None
            head = self.history.chain.sign_head(self._log_key)
            for data in self._records[present:]:
                self._mirror.append(data, head)
        except AuditError as error:
            raise StoreError(str(error)) from error
        self._mirrored = len(self._records)

    def _admit(self, peer: str) -> None:
        self._refresh()
        if peer not in self.history.members:
            raise NotEnrolled(f"{peer} is not enrolled: ask the administrator for an invitation")
        self._seen[peer] = self._clock()

    def _check_folds(self, signed: Signed) -> None:
        """A folded ciphertext must be the fold of the committed one: fold it here and compare."""
        kind = signed.body["kind"]
        if kind not in (Opening.KIND, TraceOpening.KIND):
            return
        view = self.history.round
        committed = view.commits[signed.signer].ciphertext
        if not self._blobs.has(committed):
            raise RejectedMessage("the ciphertext is missing: upload it before the opening")
        rows = self._rows(kind)
        folded = ring.fold(self._words(committed), rows)
        chunks = [ring.to_bytes(row) for row in folded]
        root = merkle.root(chunks)
        if root != signed.body["folded"]:
            raise RejectedMessage("the folded ciphertext is not the fold of the committed one")
        self._blobs.write(root, chunks, leaf=ring.CHUNK_BYTES, limit=len(chunks) * ring.CHUNK_BYTES)

    def _rows(self, kind: str) -> NDArray[Any]:
        return self.history.opening_rows if kind == Opening.KIND else self.history.trace_rows

    def _words(self, digest: str) -> Iterator[NDArray[Any]]:
        return (ring.parse_fresh(data) for data in self._blobs.read(digest, ring.FRESH_BYTES))

    def _sum(self) -> str | None:
        """Compute and store the weighted sum of the retained ciphertexts; Merkle root, or None where it may not be."""
        view = self.history.round
        weights = view.weights
        if len(weights) < view.plan.privacy_minimum:
            return None
        sources = [self._words(view.commits[silo].ciphertext) for silo in weights]
        chunks = (ring.to_bytes(words) for words in ring.weighted_sum(sources, list(weights.values())))
        return self._blobs.add(chunks, leaf=ring.CHUNK_BYTES, limit=self.history.packing.chunks * ring.CHUNK_BYTES)

    def _wanted(self, signed: Signed) -> tuple[str, ...]:
        sealed = signed.body.get("sealed")
        if not isinstance(sealed, str) or self._blobs.has(sealed):
            return ()
        # While the first copy is on its way only the second, fourth, eighth ... silo is asked too, in case it fails.
        holders = sum(pending.body.get("sealed") == sealed for pending in self._pending.values())
        return (sealed,) if holders & (holders - 1) == 0 else ()

    def _expected(self, peer: str, digest: str) -> tuple[int, int | None]:
        """Most bytes, and bytes of a Merkle leaf (None: flat), of a blob that `peer` may upload now."""
        history = self.history
        opening = history.phase is Phase.OPENING and peer in history.round.commits
        if opening and history.round.commits[peer].ciphertext == digest:
            return history.packing.chunks * ring.FRESH_BYTES, ring.FRESH_BYTES
        pending = self._pending.get(peer)
        promised = pending.body.get("sealed") if pending and pending.body["kind"] in _SEALING else None
        if digest in (promised, history.sealed):
            return 4 * history.genesis.task.layout.size + SEALED_OVERHEAD, None
        raise RejectedMessage(f"no blob {digest[:16]} is awaited from {peer} now")

    def _public(self, peer: str) -> set[str]:
        history = self.history
        public = self._kept()
        if history.rounds:
            view = history.round
            public |= {opening.folded for opening in view.openings.values()} | set(view.traced.values())
            public |= {view.sum.root} if view.sum else set()
        return public

    def _forget_round(self) -> None:
        self._blobs.clear_except(self._kept())

    def _kept(self) -> set[str]:
        """Blobs that no round ends: what the task names, and the sealed copies of the models that silos may lack."""
        history = self.history
        task = history.genesis.task
        kept = {task.initial_model, history.sealed or ""}
        if task.search is not None:
            clean = searches.newest_clean(history)
            kept |= {task.search.root, (clean and clean.sealed) or ""}
        return kept


_SEALING = (Adoption.KIND, KeyCheck.KIND)
