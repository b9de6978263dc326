"""Merkle roots against the recursive definition of RFC 6962."""

from __future__ import annotations

import hashlib

import pytest

from crypto.errors import BadCiphertext
from crypto.merkle import root, verify_root


def definition(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + definition(leaves[:k]) + definition(leaves[k:])).digest()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 65])
def test_streaming_root_is_the_recursive_one(count: int) -> None:
    leaves = [bytes([i]) * i for i in range(count)]
    assert root(iter(leaves)) == definition(leaves).hex()


def test_published_root_of_eight_leaves() -> None:
    # The reference tree of the Certificate Transparency project.
    leaves = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    expected = "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    assert root(bytes.fromhex(leaf) for leaf in leaves) == expected


def test_changed_reordered_dropped_or_merged_chunks_are_refused() -> None:
    chunks = [b"a" * 40, b"b" * 40, b"c" * 40]
    expected = root(chunks)
    verify_root(chunks, expected)
    inner = hashlib.sha256(b"\x00" + chunks[0]).digest() + hashlib.sha256(b"\x00" + chunks[1]).digest()
    for bad in ([chunks[1], chunks[0], chunks[2]], chunks[:2], [*chunks, b""], [inner, chunks[2]], []):
        with pytest.raises(BadCiphertext):
            verify_root(bad, expected)
