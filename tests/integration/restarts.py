"""What tests of crashes share: patient deadlines, copies of a silo's directory, and that nothing was lost."""

from __future__ import annotations

import shutil
from pathlib import Path

from audit.files import LogFile
from protos import canonical
from protos.rounds import Phase
from protos.task import Deadlines
from tests.integration.bench import Bench, replay

ROUND = (Phase.COMMITTING, Phase.OPENING, Phase.CHECKING, Phase.SUMMING, Phase.VERIFYING)
PATIENT = {"deadlines": Deadlines(10**8, 10**8, 10**8, 10**8)}


def assert_nothing_was_lost(federation: Bench, rounds: int) -> None:
    """Every acknowledged message is on record, ledgers are charged once, and log, mirror and silos agree."""
    said = [
        item
        for data in federation.service._records
        for value in canonical.loads(data)["body"].values()
        for item in (value if isinstance(value, list) else [value])
    ]
    for name, session in federation.sessions.items():
        for _, message in session.journal.sent():
            assert canonical.loads(message) in said, name
        keys = [entry.key for entry in session.desk.ledger.entries()]
        assert keys == ["counts", *(f"round-{number}" for number in range(1, rounds + 1))]
        assert session.history.chain.digest == federation.history.chain.digest
    fresh = replay(federation)
    assert fresh.chain.digest == federation.history.chain.digest
    head = LogFile(federation.directory / "log.jsonl").head()
    assert head is not None
    fresh.chain.verify_head(head)


def finished(federation: Bench) -> bool:
    return federation.history.phase is Phase.FINISHED


def snapshot(federation: Bench, name: str) -> Path:
    copy = federation.directory / f"copy-of-{name}"
    shutil.copytree(federation.directory / name, copy)
    return copy


def restore(federation: Bench, name: str, copy: Path, *, ledger: bool) -> None:
    federation.sessions[name].close()
    target = federation.directory / name
    kept = {path.name: path.read_bytes() for path in target.glob("ledger.db*")}
    shutil.rmtree(target)
    shutil.copytree(copy, target)
    if not ledger:
        for path in target.glob("ledger.db*"):
            path.unlink()
        for file, data in kept.items():
            (target / file).write_bytes(data)
    federation.sessions[name] = federation.open_session(name)
