"""What a silo needs of its coordinator, whatever carries it: gRPC between processes, calls in the simulator.

The log is the bulletin board: a silo tails it, and answers a new record with a signed message. Everything that comes
through a link is untrusted; whoever calls checks records, heads and the digests of downloaded bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from silo.errors import SiloError


class BadSiloDirectory(SiloError):
    """Raised for a silo's directory that is not enrolled, is enrolled already, or lacks or cannot keep a file."""


class BadInvitation(SiloError):
    """Raised for a token that is none or has expired; ask the coordinator's operator for a new one."""


class LinkError(SiloError):
    """Base of the errors of a link."""


class Refused(LinkError):
    """Raised when the coordinator answered and said no; its one-line reason. Sending the same again is vain."""


class Unreachable(LinkError):
    """Raised when no answer came after bounded retries; nothing is known of the request. Try again later."""


class Link(Protocol):
    """A silo's way to the coordinator. Every method raises `Refused` or `Unreachable`, and may block for long.

    All calls may be repeated: what they ask for is named by content, so that a repetition changes nothing.
    """

    def tail(self, size: int, wait_s: float) -> tuple[list[bytes], bytes]:
        """Records from sequence number `size` on (a bounded batch, perhaps none), and a signed head.

        Waits up to `wait_s` seconds for news. The head, packed, is of the log after the last of these records if that
        is the log's end, else of the end as it stands.
        """

    def submit(self, message: bytes) -> tuple[str, ...]:
        """Send a packed `Signed`; when this returns, the message is durable at the coordinator.

        Returns the digests of blobs that the coordinator now wants from this silo, perhaps none.
        """

    def upload(self, digest: str, chunks: Iterable[bytes]) -> None:
        """Send the bytes of `digest`; an iterable that can be iterated again (a list) is sent again after a fault."""

    def download(self, digest: str) -> Iterator[bytes]:
        """The bytes of `digest` in pieces of any size, not verified: the caller compares the digest."""
