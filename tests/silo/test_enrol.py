"""Enrolment over real sockets: an invitation works once, for its silo, and gives what it promised."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from coordinator.authority import Authority, utc_now
from coordinator.errors import CertificateRefused, StoreError, TokenRefused
from coordinator.invitation import Registrar
from crypto.identity import ExchangeKey, SigningKey, fingerprint
from protos.invitation import write_token
from protos.transport import silo_uri
from protos.wire import enrolment_pb2
from silo.client import Credentials
from silo.enrol import enrol, open_invitation
from silo.identity import (
    AUTHORITY_FILE,
    CHAIN_FILE,
    EXCHANGE_KEY_FILE,
    FACTS_FILE,
    SIGNING_KEY_FILE,
    TLS_KEY_FILE,
    Enrolled,
    load_certificates,
    load_enrolment,
    load_identity,
    make_keys,
)
from silo.link import BadInvitation, BadSiloDirectory, Refused, Unreachable
from tests.loopback import Edge, edge, request

pytestmark = pytest.mark.processes


@pytest.fixture
def running() -> Iterator[Edge]:
    with edge() as made:
        yield made


def test_invited_silo_enrols_and_its_certificate_opens_the_round_port(running: Edge, tmp_path: Path) -> None:
    invitation = open_invitation(write_token(running.invitation("a")), utc_now())
    enrolled = enrol(tmp_path / "a", invitation)
    assert enrolled == load_enrolment(tmp_path / "a") == Enrolled("a", "fed", running.log_key, "round.example:1")
    identity = load_identity(tmp_path / "a")
    assert running.service.enrolled == [("a", identity.signing.public, identity.exchange.public)]
    assert identity.fingerprint == fingerprint("a", identity.signing.public, identity.exchange.public)
    running.service.records = [b"genesis"]
    assert running.link(Credentials(*load_certificates(tmp_path / "a"))).tail(0, 0)[0] == [b"genesis"]


def test_private_files_are_readable_by_the_owner_only(running: Edge, tmp_path: Path) -> None:
    enrol(tmp_path / "a", running.invitation("a"))
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    for name in (TLS_KEY_FILE, SIGNING_KEY_FILE, EXCHANGE_KEY_FILE):
        assert stat.S_IMODE((tmp_path / "a" / name).stat().st_mode) == 0o600


def test_used_invitation_is_refused(running: Edge, tmp_path: Path) -> None:
    invitation = running.invitation("a")
    enrol(tmp_path / "first", invitation)
    with pytest.raises(Refused, match="has been used"):
        enrol(tmp_path / "second", invitation)
    assert len(running.service.enrolled) == 1
    assert not (tmp_path / "second" / FACTS_FILE).exists()


def test_expired_invitation_is_refused_by_both_sides(running: Edge, tmp_path: Path) -> None:
    invitation = running.invitation("a", valid_s=0.2)
    time.sleep(0.25)
    with pytest.raises(BadInvitation, match="expired at"):
        open_invitation(write_token(invitation), utc_now())
    with pytest.raises(Refused, match="has expired"):
        enrol(tmp_path / "a", invitation)
    assert running.service.enrolled == []


def test_invitation_for_another_silo_is_refused_and_stays_good(running: Edge, tmp_path: Path) -> None:
    invitation = running.invitation("a")
    with pytest.raises(Refused, match="for a, not for b"):
        enrol(tmp_path / "b", replace(invitation, name="b"))
    assert running.service.enrolled == []
    enrol(tmp_path / "a", invitation)


def test_unknown_invitation_is_refused(running: Edge, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="unknown here"):
        enrol(tmp_path / "a", replace(running.invitation("a"), secret="0" * 64))


def test_coordinator_that_the_invitations_authority_did_not_certify_gets_no_secret(
    running: Edge, tmp_path: Path
) -> None:
    other = Authority.create("fed", utc_now())
    invitation = replace(running.invitation("a"), authority=other.certificate.public_bytes(Encoding.DER))
    with pytest.raises(Unreachable, match="no certificate of this federation"):
        enrol(tmp_path / "a", invitation)
    assert running.service.enrolled == []


def test_attempt_that_failed_is_repeated_with_the_same_keys(running: Edge, tmp_path: Path) -> None:
    invitation = running.invitation("a")
    running.service.faults = [StoreError("no space left")]
    with pytest.raises(Unreachable, match="no space left"):
        enrol(tmp_path / "a", invitation)
    with pytest.raises(BadSiloDirectory, match="no enrolled silo"):
        load_enrolment(tmp_path / "a")
    before = make_keys(tmp_path / "a").signing.public
    enrol(tmp_path / "a", invitation)
    assert [keys for _, keys, _ in running.service.enrolled] == [before]


def test_enrolled_directory_is_not_enrolled_again(running: Edge, tmp_path: Path) -> None:
    enrol(tmp_path / "a", running.invitation("a"))
    invitation = running.invitation("a")
    with pytest.raises(BadSiloDirectory, match="enrolled silo already"):
        enrol(tmp_path / "a", invitation)
    enrol(tmp_path / "b", invitation)


def test_directory_of_something_else_is_refused(running: Edge, tmp_path: Path) -> None:
    (tmp_path / "coordinator.json").write_text("{}")
    with pytest.raises(BadSiloDirectory, match="not empty and no silo's"):
        enrol(tmp_path, running.invitation("a"))
    assert [path.name for path in tmp_path.iterdir()] == ["coordinator.json"]


@pytest.mark.parametrize("token", ["", "nonsense", "e30", "§§§", "A" * 5000])
def test_token_that_is_none_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(BadInvitation, match="copy the whole line") as caught:
        open_invitation(token, utc_now())
    assert not token or token not in str(caught.value)


def test_invitation_shows_no_secret(running: Edge) -> None:
    invitation = running.invitation("a")
    assert invitation.secret not in repr(invitation)
    assert open_invitation(write_token(invitation) + "\n", utc_now()) == invitation


def _registrar(running: Edge) -> Registrar:
    return Registrar(
        running.store,
        running.authority,
        running.service,
        log_key=running.log_key,
        round_address=lambda: "x",
        clock=lambda: running.clock_ms,
    )


def _request(running: Edge, **changes: object) -> enrolment_pb2.EnrolRequest:
    key = ec.generate_private_key(ec.SECP256R1())
    fields = {
        "name": "a",
        "secret": bytes.fromhex(running.invitation("a").secret),
        "certificate_request": request("a", "fed", key),
        "signing_key": SigningKey.generate().public,
        "exchange_key": ExchangeKey.generate().public,
    }
    return enrolment_pb2.EnrolRequest(**(fields | changes))


def test_request_for_another_name_spends_nothing(running: Edge) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    wrong = _request(running, certificate_request=request("b", "fed", key))
    with pytest.raises(CertificateRefused, match="not for a"):
        _registrar(running).enrol(wrong)
    assert running.service.enrolled == []
    good = enrolment_pb2.EnrolRequest()
    good.CopyFrom(wrong)
    good.certificate_request = request("a", "fed", key)
    leaf = x509.load_pem_x509_certificate(_registrar(running).enrol(good).certificate_chain)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [silo_uri("fed", "a")]


def test_crash_between_record_and_certificate_lets_the_same_silo_try_again(
    running: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, use = _request(running), running.store.use_token

    def crash(*arguments: object) -> None:
        raise StoreError("killed here")

    monkeypatch.setattr(running.store, "use_token", crash)
    with pytest.raises(StoreError, match="killed here"):
        _registrar(running).enrol(asked)
    monkeypatch.setattr(running.store, "use_token", use)
    assert _registrar(running).enrol(asked).certificate_chain
    with pytest.raises(TokenRefused, match="used"):
        _registrar(running).enrol(asked)


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "A b"), ("signing_key", "xy"), ("exchange_key", ""), ("secret", b"short"), ("secret", bytes(33))],
)
def test_request_that_cannot_be_read_is_refused(running: Edge, field: str, value: object) -> None:
    from coordinator.errors import BadRequest

    with pytest.raises(BadRequest, match="cannot be read"):
        _registrar(running).enrol(_request(running, **{field: value}))
    assert running.service.enrolled == []


@pytest.mark.parametrize("change", ["log_key", "federation", "chain", "key"])
def test_reply_that_the_invitation_did_not_promise_is_refused(
    running: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    invitation = running.invitation("a")
    other = Authority.create("fed", utc_now())
    stranger = ec.generate_private_key(ec.SECP256R1())
    chains = {
        "chain": other.issue_silo("a", request("a", "fed", stranger), utc_now()),
        "key": running.authority.issue_silo("a", request("a", "fed", stranger), utc_now()),
    }
    reply = enrolment_pb2.EnrolReply(
        certificate_chain=chains.get(change, b""),
        federation="other" if change == "federation" else "fed",
        log_key="0" * 64 if change == "log_key" else running.log_key,
        round_address="x:1",
    )
    monkeypatch.setattr("silo.enrol._call", lambda *arguments: reply)
    with pytest.raises(Refused, match="ask"):
        enrol(tmp_path / "a", invitation)
    for name in (FACTS_FILE, CHAIN_FILE, AUTHORITY_FILE):
        assert not (tmp_path / "a" / name).exists()
