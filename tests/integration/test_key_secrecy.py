"""The coordinator never holds the epoch's secrets: not in memory, disk or log. The same search finds them in a silo."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from protos import canonical
from tests.integration.federation import SILOS
from tests.integration.processes import Processes

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

_BLOCK = 1 << 24


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Processes]:
    parties = Processes(tmp_path, rounds=2)
    yield parties
    parties.close()


def _needles(secret_file: Path) -> list[bytes]:
    """The three secrets of an epoch as raw bytes, hex, and the base64 text of the secret file."""
    blob = canonical.loads(secret_file.read_bytes())
    texts = [blob[name] for name in ("ckks", "tags", "model")]
    raw = [base64.b64decode(text) for text in texts]
    return [*raw, *(text.encode() for text in texts), *(one.hex().encode() for one in raw)]


def _memory(pid: int) -> Iterator[bytes]:
    """Readable memory of a process in overlapping blocks."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            span, rights = line.split()[:2]
            if not rights.startswith("r") or line.rstrip().endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            yield from _region(memory, start, end)


def _region(memory: object, start: int, end: int) -> Iterator[bytes]:
    for position in range(start, end, _BLOCK):
        size = min(_BLOCK + 256, end - position)
        try:
            yield os.pread(memory.fileno(), size, position)  # type: ignore[attr-defined]
        except OSError:
            continue  # device mappings cannot be read, and hold nothing of ours


def _found_in_memory(pid: int, needles: list[bytes]) -> bool:
    return any(needle in block for block in _memory(pid) for needle in needles)


def _files_with(directory: Path, needles: list[bytes]) -> list[Path]:
    paths = (path for path in directory.rglob("*") if path.is_file())
    return [path for path in paths if any(needle in path.read_bytes() for needle in needles)]


def test_secrets_are_in_no_memory_file_or_log_of_the_coordinator_and_in_those_of_a_silo(
    federation: Processes,
) -> None:
    federation.start()
    federation.wait(lambda kinds: "sum" in kinds)
    secret = federation.directory / SILOS[0] / "epoch-1.key"
    needles = _needles(secret)
    coordinator = federation.parties["coordinator"].process.pid
    silo = federation.parties[SILOS[0]].process.pid
    assert _found_in_memory(silo, needles), "positive control: the search finds what is there"
    assert not _found_in_memory(coordinator, needles)
    federation.finish()
    assert not _found_in_memory(coordinator, needles)
    assert _files_with(federation.directory / SILOS[0], needles), "positive control"
    assert _files_with(federation.coordinator_directory, needles) == []
