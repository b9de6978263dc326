"""The log's chain: how records hang together, and heads that sign for all records up to one.

A chain alone does not notice a missing tail; a signed head does, and a co-signature by a silo makes a head that the
coordinator cannot take back. Neither says that what was recorded is true.
"""

from __future__ import annotations

from typing import Any

from audit.errors import BrokenLog
from crypto.errors import BadSignature
from crypto.identity import SigningKey, sign_bytes, verify_bytes
from protos import canonical
from protos.codec import decode, encode, pack, unpack
from protos.errors import MalformedMessage
from protos.records import NO_RECORD, Genesis, Head, Record, SignedHead


class Chain:
    """The end of a chain of records: enough to extend it and to check a head against it."""

    def __init__(self) -> None:
        self.size = 0
        self.digest = NO_RECORD
        self.genesis: Genesis | None = None

    def next_record(self, body: Any, time_ms: int) -> bytes:
        """Canonical bytes of the record that would follow with this body. Changes nothing."""
        return pack(Record(self.size, self.digest, time_ms, encode(body)))

    def check(self, data: bytes) -> Record:
        """The record in `data`, if it is the next one. Changes nothing.

        Raises:
            BrokenLog: if it is no canonical record or does not follow the last one.
        """
        try:
            record = unpack(Record, data)
        except MalformedMessage as error:
            raise BrokenLog(f"record {self.size} cannot be read: {error}") from error
        if record.sequence != self.size:
            raise BrokenLog(f"record {self.size} is missing: the next one says {record.sequence}")
        if record.previous != self.digest:
            raise BrokenLog(f"record {self.size} does not follow record {self.size - 1}: changed or forked")
        return record

    def extend(self, data: bytes) -> Record:
        """`check`, then take the record into the chain."""
        record = self.check(data)
        if record.sequence == 0:
            self.genesis = _genesis(record)
        self.size += 1
        self.digest = canonical.digest(data)
        return record

    def sign_head(self, key: SigningKey) -> SignedHead:
        """The head of the chain as it stands, signed by the log key."""
        head = Head(self._genesis().federation, self.size, self.digest)
        return SignedHead(head, sign_bytes(key, pack(head)))

    def verify_head(self, signed: SignedHead) -> None:
        """Check that the head is signed by genesis' log key and is of exactly this chain.

        Raises:
            BrokenLog: for a wrong signature, or a head of more, fewer or other records.
        """
        genesis = self._genesis()
        verify_head_signature(signed, genesis.log_key)
        if signed.head.federation != genesis.federation:
            raise BrokenLog("the head is of another federation")
        if signed.head.size != self.size:
            raise BrokenLog(f"the head is of {signed.head.size} records and there are {self.size}: the tail is missing")
        if signed.head.digest != self.digest:
            raise BrokenLog("the head is of other records: the log was changed or forked")

    def _genesis(self) -> Genesis:
        if self.genesis is None:
            raise BrokenLog("the log is empty")
        return self.genesis


def verify_head_signature(signed: SignedHead, log_key: str) -> None:
    """Check the log key's signature on a head; `log_key` is the Ed25519 public key in hex.

    Raises:
        BrokenLog: if it does not verify.
    """
    try:
        verify_bytes(log_key, pack(signed.head), signed.signature)
    except BadSignature as error:
        raise BrokenLog("the head is not signed by the log key") from error


def _genesis(record: Record) -> Genesis:
    try:
        return decode(Genesis, record.body)
    except MalformedMessage as error:
        raise BrokenLog(f"the first record is no genesis: {error}") from error
