"""The federation's certificate authority: ECDSA P-256 throughout, and identity in the URI SAN only.

A silo's certificate says `concordat://FEDERATION/silo/NAME` and nothing that a host name check would accept, so that
it cannot pose as the coordinator. Renewal and revocation are left out.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coordinator.errors import BadDirectory, CertificateRefused, StoreError
from protos.transport import coordinator_host, coordinator_uri, silo_uri

KEY_FILE = "authority.key"
CERTIFICATE_FILE = "authority.pem"
AUTHORITY_VALID = timedelta(days=3650)
CERTIFICATE_VALID = timedelta(days=397)
_SKEW = timedelta(minutes=5)
"""Certificates begin this much in the past: clocks of institutions differ."""


class Authority:
    """The CA of one federation, with its private key."""

    def __init__(self, federation: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self.federation, self._key, self.certificate = federation, key, certificate

    @classmethod
    def create(cls, federation: str, now: datetime) -> Authority:
        """A new authority with a self-signed certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"Concordat authority of {federation}")
        usage = _usage(key_cert_sign=True)
        builder = _builder(name, name, key.public_key(), now, AUTHORITY_VALID)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        return cls(federation, key, builder.add_extension(usage, critical=True).sign(key, hashes.SHA256()))

    @classmethod
    def load(cls, directory: Path, federation: str) -> Authority:
        """Read what `save` wrote; BadDirectory names a file that is missing or damaged."""
        try:
            key = serialization.load_pem_private_key((directory / KEY_FILE).read_bytes(), password=None)
            certificate = x509.load_pem_x509_certificate((directory / CERTIFICATE_FILE).read_bytes())
        except OSError as error:
            raise BadDirectory(f"{error.filename} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError) as error:
            raise BadDirectory(f"{KEY_FILE} or {CERTIFICATE_FILE} in {directory} is damaged: restore it") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise BadDirectory(f"{directory / KEY_FILE} holds no ECDSA key: restore it")
        return cls(federation, key, certificate)

    def save(self, directory: Path) -> None:
        """Write key (mode 0600) and certificate; existing files are not overwritten."""
        _write_new(directory / KEY_FILE, key_pem(self._key), 0o600)
        _write_new(directory / CERTIFICATE_FILE, self.certificate_pem, 0o644)

    @property
    def certificate_pem(self) -> bytes:
        """The authority's own certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def digest(self) -> str:
        """SHA-256 of the certificate's DER in hex: what genesis pins."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    def issue_server(self, hosts: Iterable[str], now: datetime) -> tuple[bytes, bytes]:
        """A fresh key and certificate for the coordinator, both in PEM, for host names and addresses `hosts`."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(coordinator_uri(self.federation))]
        names += [x509.DNSName(coordinator_host(self.federation)), *(_host(host) for host in sorted(set(hosts)))]
        subject = _name(f"Concordat coordinator of {self.federation}")
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        return key_pem(key), self._issue(subject, key.public_key(), names, usage, now, CERTIFICATE_VALID)

    def issue_silo(self, name: str, request_der: bytes, now: datetime, valid: timedelta = CERTIFICATE_VALID) -> bytes:
        """The certificate chain in PEM for the silo `name`, whose invitation has been checked.

        Raises:
            CertificateRefused: if the request is for another name or federation, not signed by its own key, or its
                key is not P-256.
        """
        request = _parse(request_der)
        public = request.public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
            raise CertificateRefused("the request's key is not ECDSA P-256: make a new key with `concordat-silo init`")
        _require_own_signature(request)
        _require_identity(request, name, silo_uri(self.federation, name))
        identity = x509.UniformResourceIdentifier(silo_uri(self.federation, name))
        usage = ExtendedKeyUsageOID.CLIENT_AUTH
        # A CN that no host can have: it is for people to read and nothing trusts it.
        leaf = self._issue(_name(f"Concordat silo {name}"), public, [identity], usage, now, valid)
        return leaf + self.certificate_pem

    def _issue(
        self,
        subject: x509.Name,
        public: ec.EllipticCurvePublicKey,
        names: list[x509.GeneralName],
        usage: x509.ObjectIdentifier,
        now: datetime,
        valid: timedelta,
    ) -> bytes:
        builder = _builder(subject, self.certificate.subject, public, now, valid)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(digital_signature=True), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        signed = builder.add_extension(issuer, critical=False).sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key in unencrypted PKCS #8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _parse(request_der: bytes) -> x509.CertificateSigningRequest:
    try:
        request = x509.load_der_x509_csr(request_der)
        request.public_key()
    except (ValueError, UnsupportedAlgorithm, TypeError) as error:
        raise CertificateRefused("the certificate request cannot be read: PKCS #10 in DER is needed") from error
    return request


def _require_own_signature(request: x509.CertificateSigningRequest) -> None:
    try:
        good = request.is_signature_valid
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        good = False
    if not good:
        raise CertificateRefused("the certificate request is not signed by the key it asks for")


def _require_identity(request: x509.CertificateSigningRequest, name: str, uri: str) -> None:
    """CN and URI SAN must be exactly what the invitation is for, and nothing else may be asked for."""
    common = [str(attribute.value) for attribute in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    try:
        wanted = [*request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value]
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        raise CertificateRefused(f"the certificate request must name {uri} as its only URI SAN") from error
    if common != [name] or wanted != [x509.UniformResourceIdentifier(uri)]:
        raise CertificateRefused(f"the certificate request is not for {name}, whom the invitation is for")


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: datetime, valid: timedelta
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - _SKEW).not_valid_after(now + valid)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)


def _usage(*, key_cert_sign: bool = False, digital_signature: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from error


def utc_now() -> datetime:
    """The time that certificates are compared with."""
    return datetime.now(UTC)
