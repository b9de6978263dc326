"""Inviting and enrolling silos: a secret known by its digest, a certificate request, a member on record.

The store keeps the SHA-256 of an invitation's secret only, so that nobody enrols by reading the database.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections.abc import Callable
from typing import Protocol

from cryptography.hazmat.primitives.serialization import Encoding

from coordinator.authority import Authority, utc_now
from coordinator.errors import BadRequest
from coordinator.store import Store
from protos.codec import decode, encode
from protos.errors import MalformedMessage
from protos.invitation import Invitation
from protos.records import Member
from protos.wire import enrolment_pb2


class EnrollingService(Protocol):
    """What enrolment needs of the service."""

    def enrol(self, name: str, signing_key: str, exchange_key: str) -> None: ...


def invite(store: Store, authority: Authority, name: str, *, address: str, log_key: str, expires_ms: int) -> Invitation:
    """Make an invitation for the silo `name` and remember its digest; durable on return.

    Raises:
        BadRequest: for a name that no silo can have.
    """
    secret = secrets.token_bytes(32)
    der = authority.certificate.public_bytes(Encoding.DER)
    invitation = Invitation(name, secret.hex(), address, der, log_key, authority.federation, expires_ms)
    try:
        decode(Invitation, encode(invitation))
    except MalformedMessage as error:
        raise BadRequest(f"no invitation can be made: {error}") from error
    store.add_token(token_digest(secret), name, expires_ms)
    return invitation


def token_digest(secret: bytes) -> str:
    """What the store knows of a secret."""
    return hashlib.sha256(secret).hexdigest()


class Registrar:
    """Answers enrolment requests; calls are taken one at a time.

    The member is put on record before the invitation is spent: after a crash between the two, the same silo can try
    again with the same keys, and nobody else can with others.
    """

    def __init__(
        self,
        store: Store,
        authority: Authority,
        service: EnrollingService,
        *,
        log_key: str,
        round_address: Callable[[], str],
        clock: Callable[[], int],
    ) -> None:
        self._store, self._authority, self._service = store, authority, service
        self._log_key, self._round_address, self._clock = log_key, round_address, clock
        self._lock = threading.Lock()

    def enrol(self, request: enrolment_pb2.EnrolRequest) -> enrolment_pb2.EnrolReply:
        """The certificate and the federation's facts.

        Raises:
            BadRequest: a name or key that is none.
            TokenRefused: the invitation does not hold for this name now.
            CertificateRefused: the certificate request is not the invited silo's.
            RejectedMessage: the name is enrolled with other keys.
        """
        _require_member(request)
        digest = token_digest(request.secret)
        with self._lock:
            self._store.check_token(digest, request.name, self._clock())
            chain = self._authority.issue_silo(request.name, request.certificate_request, utc_now())
            self._service.enrol(request.name, request.signing_key, request.exchange_key)
            self._store.use_token(digest, request.name, self._clock())
        return enrolment_pb2.EnrolReply(
            certificate_chain=chain,
            federation=self._authority.federation,
            log_key=self._log_key,
            round_address=self._round_address(),
        )


def _require_member(request: enrolment_pb2.EnrolRequest) -> None:
    member = Member(request.name, request.signing_key, request.exchange_key)
    try:
        decode(Member, encode(member))
    except MalformedMessage as error:
        raise BadRequest(f"the request cannot be read: {error}") from error
    if re.fullmatch("[0-9a-f]{64}", request.secret.hex()) is None:
        raise BadRequest("the request cannot be read: the invitation's secret has 32 bytes")
