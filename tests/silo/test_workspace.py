"""Files of a silo: what is large goes through in pieces, and a fault leaves nothing half-written behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from crypto.quantise import model_bytes, model_digest
from crypto.ring import CHUNK_BYTES, FRESH_BYTES
from silo.errors import SiloError
from silo.workspace import Update, Workspace

UPDATE = Update(np.array([-127, 0, 127], dtype=np.int8), b"t" * 48, None)


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "silo")


def leftovers(space: Workspace) -> list[str]:
    return sorted(path.name for path in space.directory.iterdir())


def test_update_comes_back_and_its_ciphertext_is_read_again_in_pieces_of_any_size(space: Workspace) -> None:
    chunks = [bytes([number]) * FRESH_BYTES for number in range(3)]
    space.save_update(4, UPDATE, iter(chunks))
    kept = space.load_update(4)
    assert kept is not None
    assert kept.values.tolist() == [-127, 0, 127]
    assert (kept.tags, kept.prototypes) == (UPDATE.tags, None)
    ciphertext = space.ciphertext(4)
    assert list(ciphertext) == list(ciphertext) == chunks
    assert b"".join(space.ciphertext(4, 1000)) == b"".join(chunks)


def test_encryption_that_fails_half_way_leaves_no_update(space: Workspace) -> None:
    def chunks() -> Iterator[bytes]:
        yield bytes(FRESH_BYTES)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        space.save_update(4, UPDATE, chunks())
    assert space.load_update(4) is None
    assert not [name for name in leftovers(space) if name.endswith("tmp")]


def test_full_disk_under_a_model_is_one_clear_error(space: Workspace) -> None:
    model = np.ones(50, dtype=np.float32)
    (space.directory / f"{model_digest(model)}.f32.tmp").symlink_to("/dev/full")
    with pytest.raises(SiloError, match=r"f32 cannot be written: No space left on device; free space and retry$"):
        space.save_model(model)
    assert leftovers(space) == []


def test_received_chunks_are_a_file_only_while_they_are_looked_at(space: Workspace) -> None:
    data = bytes(range(256)) * (2 * CHUNK_BYTES // 256)
    with space.received((data[start : start + 999] for start in range(0, len(data), 999)), 2) as chunks:
        assert chunks is not None
        assert list(chunks) == list(chunks) == [data[:CHUNK_BYTES], data[CHUNK_BYTES:]]
        assert (space.directory / "received.tmp").stat().st_mode & 0o777 == 0o600
    assert leftovers(space) == []


def test_more_bytes_than_expected_are_not_read_to_their_end(space: Workspace) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(CHUNK_BYTES)

    with space.received(endless(), 3) as chunks:
        assert chunks is None
    assert leftovers(space) == []


def test_fetched_model_is_kept_only_under_its_digest(space: Workspace) -> None:
    model = np.linspace(-1, 1, 50, dtype=np.float32)
    data, digest = model_bytes(model), model_digest(model)
    for bad in (data[:-4], data + bytes(4), data[:-1] + b"\x00", b""):
        assert not space.fetch_model(digest, [bad], 50)
        assert leftovers(space) == []
    assert space.fetch_model(digest, iter([data[:7], data[7:]]), 50)
    found = space.load_model(50, digest)
    assert found is not None
    assert np.array_equal(found, model)
    assert leftovers(space) == [f"{digest}.f32"]


def test_model_damaged_on_disk_is_none(space: Workspace) -> None:
    digest = space.save_model(np.ones(50, dtype=np.float32))
    path = space.directory / f"{digest}.f32"
    path.write_bytes(bytes(4) + path.read_bytes()[4:])
    assert space.load_model(50, digest) is None
