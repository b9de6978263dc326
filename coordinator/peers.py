"""Who is calling: the silo that a certificate proves, asked anew on every call.

Only the URI SAN counts. A channel may outlive the certificate that opened it, therefore validity is checked here and
not in the handshake alone; so is the TLS version. Whether the silo is enrolled is the service's question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.errors import CertificateRefused
from protos.transport import silo_of

_TLS = b"TLSv1.3"


def silo_name(auth_context: Mapping[str, Sequence[bytes]], federation: str, now: datetime) -> str:
    """The name of the silo behind a call.

    Args:
        auth_context: what gRPC says of the connection.
        federation: whose silos are known here.
        now: with time zone.

    Raises:
        CertificateRefused: no TLS 1.3, no certificate, not valid now, or not a silo's of this federation.
    """
    version = tuple(auth_context.get("ssl_tls_version", ()))
    if version != (_TLS,):
        shown = ", ".join(item.decode("ascii", "replace") for item in version) or "unknown"
        raise CertificateRefused(f"TLS 1.3 is needed and this connection has {shown}: update the client")
    certificates = auth_context.get("x509_pem_cert", ())
    if len(certificates) != 1:
        raise CertificateRefused("a client certificate is needed: enrol with an invitation")
    names, begins, ends = _read(bytes(certificates[0]))
    if not begins <= now < ends:
        raise CertificateRefused(
            f"the certificate is valid from {begins:%Y-%m-%d %H:%M} to {ends:%Y-%m-%d %H:%M} UTC and not now: "
            "check the clock, or enrol again"
        )
    name = silo_of(names[0], federation) if len(names) == 1 else None
    if name is None:
        raise CertificateRefused(
            f"the certificate names no silo of {federation} in its URI SAN: enrol with an invitation"
        )
    return name


@lru_cache(maxsize=1024)
def _read(pem: bytes) -> tuple[tuple[str, ...], datetime, datetime]:
    """URI SANs and validity. The chain and the key were checked in the handshake."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        public = certificate.public_key()
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return (), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except ValueError as error:
        raise CertificateRefused("the client certificate cannot be read: enrol again") from error
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise CertificateRefused("the client certificate's key is not ECDSA: enrol again")
    uris = tuple(extension.value.get_values_for_type(x509.UniformResourceIdentifier))
    return uris, certificate.not_valid_before_utc, certificate.not_valid_after_utc
