"""What both ends of the wire agree on besides the messages: limits, and names in certificates.

Pure values; grpc itself is imported by the adapters only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MESSAGE_BYTES = 4 << 20
"""No single gRPC message is larger."""
PART_BYTES = 1 << 20
"""Everything longer travels in parts of this size."""
PIECE_BYTES = 1 << 18
"""Blobs are read, sent and written in pieces of this size: each transfer under way holds a few of them."""
WINDOW_BYTES = 2 << 20
"""What one stream may have under way. Fixed, or gRPC would let it grow with the line's speed until memory follows the
number of silos; 2 MB still fill 20 MB/s at a round trip of 100 ms."""
MAX_SUBMISSION = 64 << 20
MAX_TAIL = 256 << 20
MAX_BLOB = 16 << 30
MAX_WAIT_S = 60.0
"""A silo may ask a tail to wait this long for news."""
CALL_S = 30.0
"""Deadline of a call that moves little."""
SUBMIT_S = 300.0
"""Deadline of a submission: the coordinator folds a ciphertext before it answers an opening."""
TRANSFER_S = 900.0
"""Deadline of a call that moves a blob."""
KEEPALIVE_S = 30
"""Silos ping an idle connection this often; the coordinator accepts pings from half of it."""

_NAME = r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?"
_SILO_URI = re.compile(rf"concordat://({_NAME})/silo/({_NAME})")


def parts(data: bytes) -> Iterator[bytes]:
    """`data` in parts of at most `PART_BYTES`, at least one."""
    for start in range(0, max(len(data), 1), PART_BYTES):
        yield data[start : start + PART_BYTES]


def silo_uri(federation: str, name: str) -> str:
    """The URI SAN of a silo's certificate: its identity."""
    return f"concordat://{federation}/silo/{name}"


def coordinator_uri(federation: str) -> str:
    """The URI SAN of the coordinator's certificate."""
    return f"concordat://{federation}/coordinator"


def coordinator_host(federation: str) -> str:
    """The DNS SAN by which silos know the coordinator, wherever it listens."""
    return f"coordinator.{federation}.concordat.internal"


def silo_of(uri: str, federation: str) -> str | None:
    """The silo's name in a URI SAN of this federation, None for any other URI."""
    match = _SILO_URI.fullmatch(uri)
    return match[2] if match is not None and match[1] == federation else None
