"""Signatures and key files."""

from __future__ import annotations

import dataclasses
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crypto.errors import BadSignature, CryptoError, KeyMismatch
from crypto.identity import ExchangeKey, SigningKey, fingerprint, sign, sign_bytes, verify, verify_bytes
from protos.errors import MalformedMessage
from protos.messages import Commit, KeyCheck

BODY = KeyCheck("clinics", "ab" * 32, 3, "cd" * 32, "ef" * 32)


def test_signed_message_comes_back() -> None:
    key = SigningKey.generate()
    assert verify(sign(BODY, "north", key), key.public, KeyCheck) == BODY


@pytest.mark.parametrize(
    "change",
    [
        {"signer": "south"},
        {"body": {"federation": "others"}},
        {"body": {"epoch": 4}},
        {"signature": "00" * 64},
        {"signature": "zz"},
    ],
)
def test_anything_changed_under_a_signature_is_refused(change: dict[str, object]) -> None:
    key = SigningKey.generate()
    signed = sign(BODY, "north", key)
    if isinstance(change.get("body"), dict):
        change = {"body": signed.body | change["body"]}  # type: ignore[operator]
    with pytest.raises(BadSignature):
        verify(dataclasses.replace(signed, **change), key.public, KeyCheck)  # type: ignore[arg-type]


def test_another_key_is_refused() -> None:
    signed = sign(BODY, "north", SigningKey.generate())
    for public in (SigningKey.generate().public, "00" * 31, "no hex"):
        with pytest.raises(BadSignature):
            verify(signed, public, KeyCheck)


def test_signed_message_of_another_kind_is_malformed() -> None:
    key = SigningKey.generate()
    with pytest.raises(MalformedMessage):
        verify(sign(BODY, "north", key), key.public, Commit)


def test_rfc_8032_vector_2() -> None:
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    key = SigningKey(Ed25519PrivateKey.from_private_bytes(seed))
    assert key.public == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    signature = (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert sign_bytes(key, b"\x72") == signature
    verify_bytes(key.public, b"\x72", signature)


@pytest.mark.parametrize("kind", [SigningKey, ExchangeKey])
def test_key_file_is_private_and_comes_back(kind: type[SigningKey] | type[ExchangeKey], tmp_path: Path) -> None:
    key, path = kind.generate(), tmp_path / "key.pem"
    key.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert kind.load(path).public == key.public
    with pytest.raises(CryptoError, match="exists"):
        kind.generate().save(path)
    assert kind.load(path).public == key.public


def test_key_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    SigningKey.generate().save(tmp_path / "signing.pem")
    ExchangeKey.generate().save(tmp_path / "exchange.pem")
    (tmp_path / "garbage.pem").write_bytes(b"garbage")
    with pytest.raises(KeyMismatch):
        SigningKey.load(tmp_path / "exchange.pem")
    with pytest.raises(KeyMismatch):
        ExchangeKey.load(tmp_path / "signing.pem")
    with pytest.raises(KeyMismatch):
        SigningKey.load(tmp_path / "garbage.pem")
    with pytest.raises(CryptoError, match="cannot read"):
        SigningKey.load(tmp_path / "missing.pem")


def test_repr_of_keys_holds_the_public_half_only(tmp_path: Path) -> None:
    key = SigningKey.generate()
    key.save(tmp_path / "key.pem")
    assert repr(key) == f"SigningKey(public={key.public})"
    assert (tmp_path / "key.pem").read_text().splitlines()[1] not in repr(key)


def test_fingerprint_changes_with_name_and_each_key() -> None:
    prints = {
        fingerprint(*parts)
        for parts in [("a", "1", "2"), ("b", "1", "2"), ("a", "3", "2"), ("a", "1", "3"), ("a", "2", "1")]
    }
    assert len(prints) == 5
