"""HPKE against RFC 9180 (through an implementation of our own here) and the sealed model."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from crypto.errors import KeyMismatch, SealBroken
from crypto.identity import ExchangeKey
from crypto.sealing import seal, seal_model, unseal, unseal_model
from protos import canonical

VECTORS = Path(__file__).parents[1] / "vectors"
WHERE = {"federation": "clinics", "epoch": 3, "silo": "north"}


def _extract(salt: bytes, suite: bytes, label: bytes, material: bytes) -> bytes:
    return hmac.new(salt or bytes(32), b"HPKE-v1" + suite + label + material, hashlib.sha256).digest()


def _expand(key: bytes, suite: bytes, label: bytes, info: bytes, length: int) -> bytes:
    data = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.new(key, data + b"\x01", hashlib.sha256).digest()[:length]


def open_by_rfc_9180(private: bytes, sealed: bytes, info: bytes, aad: bytes) -> bytes:
    """Base mode of DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305, written from sections 4 and 5."""
    enc, ciphertext = sealed[:32], sealed[32:]
    key = X25519PrivateKey.from_private_bytes(private)
    kem, suite = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x03"
    shared = key.exchange(X25519PublicKey.from_public_bytes(enc))
    context = enc + key.public_key().public_bytes_raw()
    secret = _expand(_extract(b"", kem, b"eae_prk", shared), kem, b"shared_secret", context, 32)
    schedule = b"\x00" + _extract(b"", suite, b"psk_id_hash", b"") + _extract(b"", suite, b"info_hash", info)
    root = _extract(secret, suite, b"secret", b"")
    cipher = ChaCha20Poly1305(_expand(root, suite, b"key", schedule, 32))
    return cipher.decrypt(_expand(root, suite, b"base_nonce", schedule, 12), ciphertext, aad)


def test_oracle_opens_the_published_vector() -> None:
    vector = {k: bytes.fromhex(v) for k, v in json.loads((VECTORS / "hpke-rfc9180-a2.json").read_text()).items()}
    sealed = vector["enc"] + vector["ct"]
    assert open_by_rfc_9180(vector["skRm"], sealed, vector["info"], vector["aad"]) == vector["pt"]


def test_our_seal_is_rfc_9180_bound_to_federation_epoch_and_recipient() -> None:
    key = ExchangeKey.generate()
    info = canonical.dumps({**WHERE, "recipient": key.public, "use": "concordat/deal/v1"})
    sealed = seal(b"secret", key.public, **WHERE)  # type: ignore[arg-type]
    assert open_by_rfc_9180(key.private().private_bytes_raw(), sealed, info, b"") == b"secret"


def test_sealed_secret_comes_back_and_two_seals_differ() -> None:
    key = ExchangeKey.generate()
    first, second = (seal(b"secret" * 9000, key.public, **WHERE) for _ in range(2))  # type: ignore[arg-type]
    assert first != second
    assert unseal(first, key, **WHERE) == b"secret" * 9000  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"federation": "banks"}, {"epoch": 4}, {"silo": "south"}])
def test_seal_for_another_federation_epoch_or_silo_does_not_open(change: dict[str, object]) -> None:
    key = ExchangeKey.generate()
    sealed = seal(b"secret", key.public, **WHERE)  # type: ignore[arg-type]
    with pytest.raises(SealBroken):
        unseal(sealed, key, **(WHERE | change))  # type: ignore[arg-type]


def test_seal_for_another_key_or_damaged_does_not_open() -> None:
    key = ExchangeKey.generate()
    sealed = seal(b"secret", key.public, **WHERE)  # type: ignore[arg-type]
    with pytest.raises(SealBroken):
        unseal(sealed, ExchangeKey.generate(), **WHERE)  # type: ignore[arg-type]
    for bad in (b"", sealed[:31], sealed[:-1], bytes([sealed[0] ^ 1]) + sealed[1:], sealed[:-1] + b"\x00\x00"):
        with pytest.raises(SealBroken):
            unseal(bad, key, **WHERE)  # type: ignore[arg-type]


@pytest.mark.parametrize("public", ["", "00", "00" * 32, "no hex"])
def test_seal_to_no_usable_key_is_refused(public: str) -> None:
    with pytest.raises(KeyMismatch):
        seal(b"secret", public, **WHERE)  # type: ignore[arg-type]


def test_sealed_model_is_the_same_for_every_holder_and_opens() -> None:
    model, secret = b"\x00\x01" * 500, b"s" * 32
    digest = canonical.digest(model)
    sealed = seal_model(model, secret, round=5, digest=digest)
    assert sealed == seal_model(model, secret, round=5, digest=digest)
    assert unseal_model(sealed, secret, round=5, digest=digest) == model


def test_sealed_model_of_another_round_secret_or_digest_does_not_open() -> None:
    model, secret = b"\x00\x01" * 500, b"s" * 32
    digest = canonical.digest(model)
    sealed = seal_model(model, secret, round=5, digest=digest)
    for bad, key, number, name in [
        (sealed, secret, 6, digest),
        (sealed, b"t" * 32, 5, digest),
        (sealed, secret, 5, canonical.digest(b"other")),
        (sealed[:-1], secret, 5, digest),
        (b"", secret, 5, digest),
    ]:
        with pytest.raises(SealBroken):
            unseal_model(bad, key, round=number, digest=name)


def test_model_is_not_sealed_under_the_digest_of_another() -> None:
    with pytest.raises(SealBroken):
        seal_model(b"model", b"s" * 32, round=1, digest=canonical.digest(b"other"))
