"""Verification of a log file: every record replayed, then every head that anybody has compared with it.

1. Each record follows in the chain and obeys protocol, signatures, policy and defence (`audit.history`).
2. Genesis pins the log key that the verifier was given by other means.
3. The head beside the log is signed by that key and is of exactly these records.
4. Every other head, such as one that a silo kept, is signed by it too and was the log's at its size. A head of more
   records proves that the tail is gone; one with another digest that the log was forked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from audit.errors import BrokenLog
from audit.files import LogFile
from audit.history import History
from audit.log import verify_head_signature
from protos.records import SignedHead

Progress = Callable[[int, int], None]
"""Called with bytes read and bytes in all."""


def verify_log(
    path: str | Path, log_key: str, heads: Iterable[SignedHead] = (), progress: Progress | None = None
) -> History:
    """Verify a log on disk and give its history.

    Args:
        path: the file of records; its head lies beside it.
        log_key: Ed25519 public key in hex, known from elsewhere than the log.
        heads: heads that others kept, in any order.

    Raises:
        BrokenLog: the chain, the log key or a head does not hold.
        InvalidRecord: a record breaks protocol or policy.
        UnreadableInput: a file cannot be read.
    """
    log = LogFile(path)
    head, heads = log.head(), list(heads)
    history, digests = _replay(log, log_key, {other.head.size for other in heads}, progress)
    if history.chain.genesis is None:
        raise BrokenLog("the log is empty")
    if head is None:
        raise BrokenLog(f"there is no head {log.head_path.name} beside the log, so that its tail may be missing")
    _verify_own_head(history, head)
    for other in heads:
        _verify_other_head(history, other, digests)
    return history


def history_at(path: str | Path, size: int) -> History:
    """The history after the first `size` records of a log that `verify_log` has accepted.

    Raises:
        BrokenLog: the log has fewer records.
    """
    history = History()
    for data in LogFile(path).records():
        if history.chain.size == size:
            break
        history.apply(data)
    if history.chain.size != size:
        raise BrokenLog(f"{size} records are needed and the log has {history.chain.size}: its tail is missing")
    return history


def _replay(log: LogFile, log_key: str, wanted: set[int], progress: Progress | None) -> tuple[History, dict[int, str]]:
    """The whole history, and the digest after each number of records in `wanted`."""
    history, digests, done = History(), {}, 0
    total = log.path.stat().st_size if progress and log.path.exists() else 0
    for data in log.records():
        history.apply(data)
        if history.chain.size == 1:
            _verify_log_key(history, log_key)
        if history.chain.size in wanted:
            digests[history.chain.size] = history.chain.digest
        done += len(data) + 1
        if progress is not None:
            progress(done, total)
    return history, digests


def _verify_log_key(history: History, log_key: str) -> None:
    if history.genesis.log_key != log_key:
        raise BrokenLog(f"the log is of another log key: its genesis names {history.genesis.log_key[:16]}...")


def _verify_own_head(history: History, head: SignedHead) -> None:
    verify_head_signature(head, history.genesis.log_key)
    if head.head.size < history.chain.size:
        raise BrokenLog(
            f"the head covers {head.head.size} of {history.chain.size} records: records were added, or the log was "
            "copied while it grew; copy it again"
        )
    history.chain.verify_head(head)


def _verify_other_head(history: History, other: SignedHead, digests: dict[int, str]) -> None:
    verify_head_signature(other, history.genesis.log_key)
    head = other.head
    if head.federation != history.genesis.federation:
        raise BrokenLog(f"a given head is of the federation {head.federation}, not {history.genesis.federation}")
    if head.size > history.chain.size:
        raise BrokenLog(
            f"a given head is of {head.size} records and the log has {history.chain.size}: its tail is missing"
        )
    if digests[head.size] != head.digest:
        raise BrokenLog(f"a given head of {head.size} records is of others: the log was changed or forked")
