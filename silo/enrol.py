"""Enrolment: spend an invitation, get a certificate.

The channel trusts only the CA that the invitation carries; what comes back must be what the invitation promised.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protos.errors import MalformedMessage
from protos.invitation import Invitation, read_token
from protos.transport import CALL_S, silo_uri
from protos.wire import enrolment_pb2, enrolment_pb2_grpc, grpc
from silo.client import channel_options, translated
from silo.identity import FACTS_FILE, TLS_KEY_FILE, Enrolled, Keys, certificate_request, make_keys, save_enrolment
from silo.link import BadInvitation, BadSiloDirectory, Refused


def open_invitation(token: str, now: datetime) -> Invitation:
    """The invitation in a token.

    Raises:
        BadInvitation: if it is none or has expired.
    """
    try:
        invitation = read_token(token)
    except MalformedMessage as error:
        raise BadInvitation(str(error)) from error
    expires = datetime.fromtimestamp(invitation.expires_ms / 1000, UTC)
    if now >= expires:
        raise BadInvitation(f"this invitation expired at {expires:%Y-%m-%d %H:%M} UTC: ask for a new one")
    return invitation


def enrol(directory: Path, invitation: Invitation, address: str | None = None) -> Enrolled:
    """Make keys if there are none, spend the invitation, keep the certificate.

    Args:
        directory: the silo's; may hold keys of an attempt that failed.
        invitation: for this silo.
        address: host:port of the enrolment service, where it differs from the invitation's.

    Raises:
        BadSiloDirectory: it holds an enrolled silo already, or cannot be written.
        LinkError: the coordinator refuses, or cannot be reached.
    """
    if (directory / FACTS_FILE).exists():
        raise BadSiloDirectory(f"{directory} holds an enrolled silo already: choose another directory")
    if directory.exists() and not (directory / TLS_KEY_FILE).exists() and any(directory.iterdir()):
        raise BadSiloDirectory(f"{directory} is not empty and no silo's: choose another directory")
    keys = make_keys(directory)
    authority = _authority_pem(invitation)
    reply = _call(address or invitation.address, authority, invitation, keys)
    enrolled = Enrolled(invitation.name, invitation.federation, invitation.log_key, reply.round_address)
    _require_promised(reply, invitation, keys)
    save_enrolment(directory, enrolled, reply.certificate_chain, authority)
    return enrolled


def _call(address: str, authority: bytes, invitation: Invitation, keys: Keys) -> enrolment_pb2.EnrolReply:
    # Not repeated: when no answer comes, the operator tries again, with a new invitation if this one was spent.
    request = enrolment_pb2.EnrolRequest(
        name=invitation.name,
        secret=bytes.fromhex(invitation.secret),
        certificate_request=certificate_request(keys, invitation.federation, invitation.name),
        signing_key=keys.signing.public,
        exchange_key=keys.exchange.public,
    )
    credentials = grpc.ssl_channel_credentials(authority)
    with grpc.secure_channel(address, credentials, channel_options(invitation.federation)) as channel:
        stub: Any = enrolment_pb2_grpc.EnrolmentStub(channel)  # type: ignore[no-untyped-call]  # generated
        try:
            reply: enrolment_pb2.EnrolReply = stub.Enrol(request, timeout=CALL_S)
            return reply
        except grpc.RpcError as error:
            raise translated(error, address) from None


def _authority_pem(invitation: Invitation) -> bytes:
    try:
        return x509.load_der_x509_certificate(invitation.authority).public_bytes(Encoding.PEM)
    except ValueError as error:
        raise BadInvitation("the invitation's CA certificate cannot be read: ask for a new invitation") from error


def _require_promised(reply: enrolment_pb2.EnrolReply, invitation: Invitation, keys: Keys) -> None:
    if (reply.federation, reply.log_key) != (invitation.federation, invitation.log_key):
        raise Refused("the coordinator names another federation or log key than the invitation: ask both operators")
    try:
        leaf = x509.load_pem_x509_certificate(reply.certificate_chain)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        authority = x509.load_der_x509_certificate(invitation.authority)
        leaf.verify_directly_issued_by(authority)
    except Exception as error:  # cryptography raises many kinds here; each means that this is not our certificate
        raise Refused("the coordinator sent no certificate of this federation: ask its operator") from error
    if uris != [silo_uri(invitation.federation, invitation.name)] or _public(leaf.public_key()) != _public(
        keys.tls.public_key()
    ):
        raise Refused("the coordinator sent a certificate for another silo or key: ask its operator")


def _public(key: Any) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return b""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
