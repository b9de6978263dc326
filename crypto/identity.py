"""Keys of a party and signatures over messages: Ed25519 (RFC 8032) and X25519 (RFC 7748).

A signature covers the canonical JSON of `{"body", "signer"}`; the body names its kind and federation, so that it
cannot be taken for another message. Key files hold the 32 raw bytes in PKCS #8 PEM, readable by the owner only.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from crypto.errors import BadSignature, CryptoError, KeyMismatch
from protos import canonical
from protos.codec import JsonObject, decode, encode
from protos.messages import Signed

T = TypeVar("T")
_RAW = serialization.Encoding.Raw, serialization.PublicFormat.Raw


class SigningKey:
    """An Ed25519 private key. Neither `repr` nor any message shows it."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> SigningKey:
        """A fresh key from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read what `save` wrote; raises KeyMismatch for a file of anything else."""
        key = _read_pem(path)
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyMismatch(f"{path} holds no Ed25519 signing key; name the right key file")
        return cls(key)

    def save(self, path: Path) -> None:
        """Write a new file with mode 0600, durably; raises CryptoError where one exists (keys are not overwritten)."""
        _write_pem(path, self._key)

    @property
    def public(self) -> str:
        """The 32-byte public key in hex."""
        return self._key.public_key().public_bytes(*_RAW).hex()

    def sign(self, data: bytes) -> bytes:
        """The 64-byte signature of `data`."""
        return self._key.sign(data)

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public})"


class ExchangeKey:
    """An X25519 private key, to which secrets are sealed. Neither `repr` nor any message shows it."""

    def __init__(self, key: X25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> ExchangeKey:
        """A fresh key from the operating system's randomness."""
        return cls(X25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> ExchangeKey:
        """Read what `save` wrote; raises KeyMismatch for a file of anything else."""
        key = _read_pem(path)
        if not isinstance(key, X25519PrivateKey):
            raise KeyMismatch(f"{path} holds no X25519 exchange key; name the right key file")
        return cls(key)

    def save(self, path: Path) -> None:
        """Write a new file with mode 0600, durably; raises CryptoError where one exists (keys are not overwritten)."""
        _write_pem(path, self._key)

    @property
    def public(self) -> str:
        """The 32-byte public key in hex."""
        return self._key.public_key().public_bytes(*_RAW).hex()

    def private(self) -> X25519PrivateKey:
        """The key itself, for `crypto.sealing` only."""
        return self._key

    def __repr__(self) -> str:
        return f"ExchangeKey(public={self.public})"


def sign(body: Any, signer: str, key: SigningKey) -> Signed:
    """A message (a frozen dataclass of `protos`) with its signature."""
    value = encode(body)
    return Signed(signer, value, sign_bytes(key, _signed_bytes(value, signer)))


def verify(signed: Signed, public_hex: str, cls: type[T]) -> T:
    """The message of class `cls` in a signed body, once the signature holds.

    Raises:
        BadSignature: the key did not sign this body under this signer's name.
        MalformedMessage: the body is signed but is no `cls`.
    """
    verify_bytes(public_hex, _signed_bytes(signed.body, signed.signer), signed.signature)
    return decode(cls, signed.body)


def sign_bytes(key: SigningKey, data: bytes) -> str:
    """Ed25519 signature of `data` in hex."""
    return key.sign(data).hex()


def verify_bytes(public_hex: str, data: bytes, signature_hex: str) -> None:
    """Raises BadSignature unless `signature_hex` is the key's signature of `data`."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_hex)).verify(bytes.fromhex(signature_hex), data)
    except (InvalidSignature, ValueError) as error:
        raise BadSignature(f"this is not a signature by {public_hex[:16]}; ask the sender") from error


def fingerprint(name: str, signing_key_hex: str, exchange_key_hex: str) -> str:
    """SHA-256 over a silo's name and public keys: what operators compare and approve."""
    value = {"exchange_key": exchange_key_hex, "name": name, "signing_key": signing_key_hex}
    return canonical.digest(canonical.dumps(value))


def _signed_bytes(body: JsonObject, signer: str) -> bytes:
    return canonical.dumps({"body": body, "signer": signer})


def _read_pem(path: Path) -> object:
    try:
        return serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise CryptoError(f"cannot read the key file {path}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise KeyMismatch(f"{path} holds no private key; name the right key file") from error


def _write_pem(path: Path, key: Ed25519PrivateKey | X25519PrivateKey) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        # O_EXCL with the mode at creation: the key is at no time readable by others, and none is overwritten.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CryptoError(f"cannot write the key file {path}: {error.strerror}") from error
