"""Sealing: the epoch's secrets for one member (HPKE), and a model for whoever holds the model secret.

HPKE (RFC 9180) in base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305. Base mode does not say who
sealed; the steward's signature on the deal does. The sealed form is `enc || ciphertext`.
"""

from __future__ import annotations

import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from crypto.errors import KeyMismatch, SealBroken
from crypto.identity import ExchangeKey
from protos import canonical

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_NONCE = bytes(12)


def seal(secret: bytes, recipient_exchange_public_hex: str, *, federation: str, epoch: int, silo: str) -> bytes:
    """Seal `secret` for one member; only `unseal` with the same federation, epoch and silo opens it.

    Raises:
        KeyMismatch: the recipient's key is no usable X25519 key.
    """
    info = _info(federation, epoch, silo, recipient_exchange_public_hex)
    try:
        public = X25519PublicKey.from_public_bytes(bytes.fromhex(recipient_exchange_public_hex))
        return bytes(_SUITE.encrypt(secret, public, info=info))
    except ValueError as error:
        raise KeyMismatch(f"the exchange key of {silo} is no X25519 key; enrol it again") from error


def unseal(sealed: bytes, key: ExchangeKey, *, federation: str, epoch: int, silo: str) -> bytes:
    """Inverse of `seal`; raises SealBroken for anything sealed for another key, federation, epoch or silo."""
    try:
        return bytes(_SUITE.decrypt(sealed, key.private(), info=_info(federation, epoch, silo, key.public)))
    except (InvalidTag, ValueError) as error:
        raise SealBroken(f"this secret is not sealed for {silo} in epoch {epoch}; ask for a new deal") from error


def seal_model(model: bytes | memoryview, model_secret: bytes, *, round: int, digest: str) -> bytes:
    """Encrypt a model for all holders of the model secret; every one of them makes the same bytes.

    The nonce is fixed because the key is derived from the model's own digest: one key never meets two plaintexts.

    Raises:
        SealBroken: `digest` is not the model's SHA-256 (the key would not be single-use).
    """
    _require_digest(model, digest)
    return AESGCM(_model_key(model_secret, round, digest)).encrypt(_NONCE, model, None)


def unseal_model(sealed: bytes, model_secret: bytes, *, round: int, digest: str) -> bytes:
    """Inverse of `seal_model`; raises SealBroken for another model, round or secret."""
    try:
        model = AESGCM(_model_key(model_secret, round, digest)).decrypt(_NONCE, sealed, None)
    except (InvalidTag, ValueError, OverflowError) as error:
        raise SealBroken(f"this is not the model of round {round} sealed in our epoch; fetch it again") from error
    _require_digest(model, digest)
    return model


def _info(federation: str, epoch: int, silo: str, public_hex: str) -> bytes:
    return canonical.dumps(
        {"epoch": epoch, "federation": federation, "recipient": public_hex, "silo": silo, "use": "concordat/deal/v1"}
    )


def _model_key(model_secret: bytes, round: int, digest: str) -> bytes:
    info = canonical.dumps({"digest": digest, "round": round, "use": "concordat/model/v1"})
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(model_secret)


def _require_digest(model: bytes | memoryview, digest: str) -> None:
    if not hmac.compare_digest(canonical.digest(model), digest):
        raise SealBroken(f"the model's digest is not {digest[:16]}; fetch the model that the log names")
