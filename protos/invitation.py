"""An invitation: what a silo must know and trust before it knows anybody, in one line for its operator."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import ClassVar

from protos.codec import Digest, Name, Positive, Text, pack, unpack
from protos.errors import MalformedMessage


@dataclass(frozen=True, repr=False)
class Invitation:
    """Single-use and for one silo's name; who has it can enrol as that silo until it expires.

    `secret` is 32 bytes in hex, `address` host:port of the enrolment service, `authority` the CA certificate in DER.
    """

    KIND: ClassVar[str] = "concordat/invitation/v1"

    name: Name
    secret: Digest
    address: Text
    authority: bytes
    log_key: Digest
    federation: Name
    expires_ms: Positive

    def __repr__(self) -> str:
        return f"Invitation(name={self.name!r}, federation={self.federation!r}, expires_ms={self.expires_ms})"


def write_token(invitation: Invitation) -> str:
    """The invitation as one line: base64url of canonical JSON."""
    return base64.urlsafe_b64encode(pack(invitation)).decode("ascii").rstrip("=")


def read_token(token: str) -> Invitation:
    """Inverse of `write_token`; MalformedMessage, which never shows the token, for anything else."""
    text = token.strip()
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return unpack(Invitation, data)
    except (MalformedMessage, ValueError, binascii.Error):
        raise MalformedMessage("this is no invitation: copy the whole line that `invite` printed") from None
