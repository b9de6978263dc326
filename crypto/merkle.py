"""Merkle root over the chunks of a ciphertext, with the domain separation of RFC 6962, section 2.1.

Leaves are SHA-256(0x00 || chunk), nodes SHA-256(0x01 || left || right), split at the largest power of two.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from crypto.errors import BadCiphertext


def root(chunks: Iterable[bytes]) -> str:
    """The tree's root in hex. Streams: no more than one hash per level is kept.

    The root of no chunks at all is SHA-256 of nothing, as in RFC 6962.
    """
    stack: list[tuple[int, bytes]] = []
    for chunk in chunks:
        level, node = 0, hashlib.sha256(b"\x00" + chunk).digest()
        while stack and stack[-1][0] == level:
            node = _join(stack.pop()[1], node)
            level += 1
        stack.append((level, node))
    if not stack:
        return hashlib.sha256().hexdigest()
    # What is left are full subtrees, the smallest last: RFC 6962 joins them from the right.
    node = stack.pop()[1]
    while stack:
        node = _join(stack.pop()[1], node)
    return node.hex()


def verify_root(chunks: Iterable[bytes], expected: str) -> None:
    """Raises BadCiphertext unless `chunks` have the root `expected`."""
    if not hmac.compare_digest(root(chunks), expected):
        raise BadCiphertext(f"these chunks have not the Merkle root {expected[:16]}; fetch them again")


def _join(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
