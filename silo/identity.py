"""A silo's own keys and what its enrolment gave it, in the silo's directory.

`silo.json` is written last: a directory without it is not enrolled, and its keys are used again at the next attempt.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from crypto.errors import CryptoError
from crypto.identity import ExchangeKey, SigningKey, fingerprint
from protos.transport import silo_uri
from silo.link import BadSiloDirectory

FACTS_FILE = "silo.json"
TLS_KEY_FILE = "tls.key"
SIGNING_KEY_FILE = "signing.key"
EXCHANGE_KEY_FILE = "exchange.key"
CHAIN_FILE = "certificate.pem"
AUTHORITY_FILE = "authority.pem"


@dataclass(frozen=True)
class SiloIdentity:
    """Who this silo is in its federation. `log_key` is the coordinator's Ed25519 public key in hex."""

    name: str
    federation: str
    log_key: str
    signing: SigningKey
    exchange: ExchangeKey

    @property
    def fingerprint(self) -> str:
        """What other operators approve."""
        return fingerprint(self.name, self.signing.public, self.exchange.public)


@dataclass(frozen=True)
class Enrolled:
    """What `silo.json` holds. `address` is host:port of the round service."""

    name: str
    federation: str
    log_key: str
    address: str


@dataclass(frozen=True)
class Keys:
    """The private keys of a silo."""

    tls: ec.EllipticCurvePrivateKey
    signing: SigningKey
    exchange: ExchangeKey

    def __repr__(self) -> str:
        return "Keys(...)"


def make_keys(directory: Path) -> Keys:
    """The directory's keys; those that are missing are made. The directory is made with mode 0700.

    Raises:
        BadSiloDirectory: if files cannot be read or written.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(directory, 0o700)
        if not (directory / TLS_KEY_FILE).exists():
            _write(directory / TLS_KEY_FILE, _pem(ec.generate_private_key(ec.SECP256R1())), 0o600)
        if not (directory / SIGNING_KEY_FILE).exists():
            SigningKey.generate().save(directory / SIGNING_KEY_FILE)
        if not (directory / EXCHANGE_KEY_FILE).exists():
            ExchangeKey.generate().save(directory / EXCHANGE_KEY_FILE)
    except OSError as error:
        raise BadSiloDirectory(f"{directory} cannot be written: {error.strerror}") from error
    return load_keys(directory)


def load_keys(directory: Path) -> Keys:
    """The keys of a directory that `make_keys` made; BadSiloDirectory names what is missing or damaged."""
    try:
        tls = serialization.load_pem_private_key((directory / TLS_KEY_FILE).read_bytes(), password=None)
        signing = SigningKey.load(directory / SIGNING_KEY_FILE)
        exchange = ExchangeKey.load(directory / EXCHANGE_KEY_FILE)
    except OSError as error:
        raise BadSiloDirectory(f"{error.filename} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, CryptoError) as error:
        raise BadSiloDirectory(f"a key in {directory} is damaged: restore it, or enrol anew elsewhere") from error
    if not isinstance(tls, ec.EllipticCurvePrivateKey):
        raise BadSiloDirectory(f"{directory / TLS_KEY_FILE} holds no ECDSA key: restore it")
    return Keys(tls, signing, exchange)


def certificate_request(keys: Keys, federation: str, name: str) -> bytes:
    """PKCS #10 in DER for the silo `name`: CN for people, URI SAN as identity."""
    identity = x509.UniformResourceIdentifier(silo_uri(federation, name))
    builder = x509.CertificateSigningRequestBuilder()
    builder = builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
    builder = builder.add_extension(x509.SubjectAlternativeName([identity]), critical=False)
    return builder.sign(keys.tls, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def save_enrolment(directory: Path, enrolled: Enrolled, chain: bytes, authority: bytes) -> None:
    """Keep what enrolment gave, both certificates in PEM; the facts come last and at once."""
    facts = json.dumps(enrolled.__dict__, indent=1).encode() + b"\n"
    try:
        _write(directory / CHAIN_FILE, chain, 0o644)
        _write(directory / AUTHORITY_FILE, authority, 0o644)
        _write(directory / FACTS_FILE, facts, 0o644)
    except OSError as error:
        raise BadSiloDirectory(f"{directory} cannot be written: {error.strerror}") from error


def load_enrolment(directory: Path) -> Enrolled:
    """What `silo.json` says; BadSiloDirectory if there is none: the silo is not enrolled."""
    path = directory / FACTS_FILE
    try:
        return Enrolled(**json.loads(path.read_bytes()))
    except FileNotFoundError as error:
        raise BadSiloDirectory(
            f"{directory} is no enrolled silo: run `concordat-silo init` with an invitation"
        ) from error
    except OSError as error:
        raise BadSiloDirectory(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise BadSiloDirectory(f"{path} is damaged: restore it, or enrol again with a new invitation") from error


def load_identity(directory: Path) -> SiloIdentity:
    """Keys and enrolment together."""
    enrolled, keys = load_enrolment(directory), load_keys(directory)
    return SiloIdentity(enrolled.name, enrolled.federation, enrolled.log_key, keys.signing, keys.exchange)


def load_certificates(directory: Path) -> tuple[bytes, bytes, bytes]:
    """CA certificate, certificate chain and TLS key, all in PEM."""
    try:
        return tuple((directory / name).read_bytes() for name in (AUTHORITY_FILE, CHAIN_FILE, TLS_KEY_FILE))  # type: ignore[return-value]  # three names
    except OSError as error:
        raise BadSiloDirectory(f"{error.filename} cannot be read: {error.strerror}") from error


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, data: bytes, mode: int) -> None:
    """Replace `path` at once, durably, readable as `mode` from its first moment."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
