"""A fold or sum that does not arrive as it was signed: nothing of it is decrypted, and the operator reads one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crypto import ring
from protos.rounds import Phase
from tests.integration.bench import Bench, bench, in_phase, outcomes, where_drawn
from tests.integration.test_lying_coordinator import VICTIM, _Watching

pytestmark = pytest.mark.integration


def cut_after_a_chunk(data: bytes) -> bytes:
    return data[: -ring.CHUNK_BYTES]


def cut_in_the_middle(data: bytes) -> bytes:
    return data[: len(data) // 2 + 3]


def empty(data: bytes) -> bytes:
    return b""


def swapped(data: bytes) -> bytes:
    first, second = data[: ring.CHUNK_BYTES], data[ring.CHUNK_BYTES : 2 * ring.CHUNK_BYTES]
    return second + first + data[2 * ring.CHUNK_BYTES :]


def one_bit(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def twice_over_and_a_byte(data: bytes) -> bytes:
    return data + data + b"\0"


FAULTS = [cut_after_a_chunk, cut_in_the_middle, empty, swapped, one_bit, twice_over_and_a_byte]


@pytest.fixture(params=["fold", "sum"])
def asked(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    """A federation in which the victim is to fetch a fold, or the sum."""
    federation = where_drawn(tmp_path, lambda directory: bench(directory, rounds=1), VICTIM)
    if request.param == "sum":
        federation.until(in_phase(Phase.VERIFYING))
    return federation


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_other_bytes_than_the_signed_ones_are_not_decrypted_and_not_kept(
    asked: Bench, monkeypatch: pytest.MonkeyPatch, fault: Callable[[bytes], bytes]
) -> None:
    with monkeypatch.context() as patch:
        decrypted = _step_with(asked, patch, fault)
    assert decrypted == []
    note = asked.progress[VICTIM][-1].note
    assert note is not None
    assert "nothing was decrypted" in note
    assert "\n" not in note
    _assert_nothing_left(asked)
    assert outcomes(asked.run())[0].result == "adopted"


def test_full_disk_is_one_clear_error_and_the_step_is_repeated(asked: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (asked.sessions[VICTIM].workspace.directory / "received.tmp").symlink_to("/dev/full")
    with monkeypatch.context() as patch:
        decrypted = _step_with(asked, patch, lambda data: data)
    assert decrypted == []
    assert asked.errors[VICTIM][-1].startswith("SiloError: ")
    assert "cannot be written: No space left on device; free space and retry" in asked.errors[VICTIM][-1]
    _assert_nothing_left(asked)
    history = asked.run()
    assert outcomes(history)[0].result == "adopted"
    assert VICTIM in {signed.signer for signed in outcomes(history)[0].adoptions}


def _step_with(federation: Bench, patch: pytest.MonkeyPatch, fault: Callable[[bytes], bytes]) -> list[Any]:
    """One step of the victim, whose downloads go through `fault`; what it was asked to decrypt. It says nothing."""
    desk, decrypted = federation.sessions[VICTIM].desk, list[Any]()
    honest = desk.link.download

    def download(digest: str) -> Iterator[bytes]:
        data = fault(b"".join(honest(digest)))
        return (data[start : start + 50_000] for start in range(0, len(data), 50_000))

    patch.setattr(desk.link, "download", download)
    patch.setattr(desk, "scheme", _Watching(decrypted))
    patch.setattr(desk, "_joined", None)
    sent = len(federation.link(VICTIM).sent)
    federation._step(VICTIM)
    assert len(federation.link(VICTIM).sent) == sent
    return decrypted


def _assert_nothing_left(federation: Bench) -> None:
    assert not list(federation.sessions[VICTIM].workspace.directory.glob("*.tmp"))
