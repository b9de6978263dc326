"""The round port refuses everybody whom a certificate of this federation does not prove, over real sockets."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest

from coordinator.authority import Authority, utc_now
from coordinator.errors import AlreadyRunning, CertificateRefused, StoreError
from coordinator.peers import silo_name
from coordinator.server import ServedService, Server, serve
from crypto.identity import SigningKey, sign
from protos.codec import pack
from protos.messages import KeyCheck
from protos.transport import coordinator_uri, silo_uri
from protos.wire import enrolment_pb2
from silo.client import Credentials
from silo.link import Refused, Unreachable
from tests.loopback import Edge, credentials, edge

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def running() -> Iterator[Edge]:
    with edge() as made:
        yield made


def _message(signer: str) -> bytes:
    return pack(sign(KeyCheck("fed", "0" * 64, 1, "1" * 64, None), signer, SigningKey.generate()))


def test_silo_with_valid_certificate_is_answered(running: Edge) -> None:
    assert running.silo("a").tail(0, 0)[0] == running.service.records


def test_silo_that_is_not_enrolled_is_refused(running: Edge) -> None:
    with pytest.raises(Refused, match="stranger is not enrolled"):
        running.silo("stranger").tail(0, 0)


def test_certificate_of_unknown_authority_is_refused_and_reaches_nothing(running: Edge) -> None:
    other = Authority.create("fed", utc_now())
    calls = running.service.calls
    with pytest.raises(Unreachable, match="valid certificates only"):
        running.link(credentials(running.authority, uris=[silo_uri("fed", "a")], signer=other)).tail(0, 0)
    assert running.service.calls == calls


def test_coordinator_of_unknown_authority_is_refused_by_the_silo(running: Edge) -> None:
    other = Authority.create("fed", utc_now())
    ours = credentials(running.authority, uris=[silo_uri("fed", "a")])
    with pytest.raises(Unreachable, match="no certificate of this federation"):
        running.link(Credentials(other.certificate_pem, ours.chain, ours.key)).tail(0, 0)


def test_coordinator_of_another_federation_under_the_same_authority_is_refused_by_the_silo(running: Edge) -> None:
    from silo.client import GrpcLink
    from tests.loopback import HASTY

    link = GrpcLink(running.address, "other", credentials(running.authority, uris=[silo_uri("fed", "a")]), HASTY)
    with pytest.raises(Unreachable, match="no certificate of this federation"):
        link.tail(0, 0)
    link.close()


def test_silo_cannot_speak_for_another(running: Edge) -> None:
    message = _message("a")
    with pytest.raises(Refused, match="b cannot speak for a"):
        running.silo("b").submit(message)
    assert running.silo("a").submit(message) == ()
    assert running.service.messages == [("a", message)]


@pytest.mark.parametrize(
    "uris",
    [
        [],
        [silo_uri("other", "a")],
        [coordinator_uri("fed")],
        ["concordat://fed/silo/a/b"],
        ["concordat://fed/silo/A"],
        ["https://fed/silo/a"],
        [silo_uri("fed", "a"), silo_uri("fed", "b")],
    ],
)
def test_certificate_without_exactly_one_silo_uri_is_refused_even_with_the_name_as_cn(
    running: Edge, uris: list[str]
) -> None:
    calls = running.service.calls
    with pytest.raises(Refused, match="names no silo of fed in its URI SAN"):
        running.link(credentials(running.authority, uris=uris, common="a")).tail(0, 0)
    assert running.service.calls == calls


def test_client_without_certificate_is_refused(running: Edge) -> None:
    from protos.transport import coordinator_host
    from protos.wire import grpc, round_pb2, round_pb2_grpc

    options = [("grpc.ssl_target_name_override", coordinator_host("fed")), ("grpc.enable_retries", 0)]
    plain = grpc.ssl_channel_credentials(running.authority.certificate_pem)
    calls = running.service.calls
    with grpc.secure_channel(running.address, plain, options) as channel, pytest.raises(grpc.RpcError) as caught:
        list(round_pb2_grpc.RoundStub(channel).Tail(round_pb2.TailRequest(), timeout=5))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert running.service.calls == calls


def _handshake(running: Edge, tmp_path: Path, port: int, version: ssl.TLSVersion) -> str | None:
    ours = credentials(running.authority, uris=[silo_uri("fed", "a")])
    (tmp_path / "client.pem").write_bytes(ours.key + ours.chain)
    (tmp_path / "ca.pem").write_bytes(ours.authority)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(tmp_path / "ca.pem")
    context.load_cert_chain(tmp_path / "client.pem")
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = version
    if version is ssl.TLSVersion.TLSv1_2:
        context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", port), 5) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secured,
    ):
        return secured.version()


@pytest.mark.parametrize("port", ["port", "enrol_port"])
def test_tls_1_2_handshake_is_refused_on_both_ports_and_tls_1_3_is_not(
    running: Edge, tmp_path: Path, port: str
) -> None:
    number = getattr(running.server, port)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        _handshake(running, tmp_path, number, ssl.TLSVersion.TLSv1_2)
    assert _handshake(running, tmp_path, number, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"


@pytest.mark.parametrize("version", [(), (b"TLSv1.2",), (b"TLSv1.3", b"TLSv1.2")])
def test_call_on_a_connection_that_is_not_tls_1_3_is_refused(running: Edge, version: tuple[bytes, ...]) -> None:
    leaf = credentials(running.authority, uris=[silo_uri("fed", "a")]).chain.split(b"-----END CERTIFICATE-----")[0]
    pem = leaf + b"-----END CERTIFICATE-----\n"
    good = {"ssl_tls_version": (b"TLSv1.3",), "x509_pem_cert": (pem,)}
    assert silo_name(good, "fed", utc_now()) == "a"
    with pytest.raises(CertificateRefused, match=r"TLS 1\.3 is needed"):
        silo_name(good | {"ssl_tls_version": version}, "fed", utc_now())


def test_call_without_or_with_unreadable_certificate_is_refused() -> None:
    for pems in ((), (b"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----",)):
        with pytest.raises(CertificateRefused):
            silo_name({"ssl_tls_version": (b"TLSv1.3",), "x509_pem_cert": pems}, "fed", utc_now())


def test_certificate_that_expires_on_a_live_channel_is_refused_at_the_next_call(running: Edge) -> None:
    ends = utc_now() + timedelta(seconds=2)
    link = running.link(credentials(running.authority, uris=[silo_uri("fed", "a")], ends=ends))
    link.tail(0, 0)
    time.sleep(max(0.0, (ends - utc_now()).total_seconds()) + 1.1)
    with pytest.raises(Refused, match="and not now"):
        link.tail(0, 0)


def test_certificate_that_expires_while_its_silo_waits_ends_the_wait(running: Edge) -> None:
    ends = utc_now() + timedelta(seconds=2)
    link = running.link(credentials(running.authority, uris=[silo_uri("fed", "a")], ends=ends))
    started = time.monotonic()
    with pytest.raises(Refused, match="and not now"):
        link.tail(len(running.service.records), 30)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("side", ["past", "future"])
def test_certificate_that_is_not_valid_now_opens_no_channel(running: Edge, side: str) -> None:
    now, day = utc_now(), timedelta(days=1)
    begins, ends = (now - 2 * day, now - day) if side == "past" else (now + day, now + 2 * day)
    with pytest.raises((Unreachable, Refused)):
        running.link(credentials(running.authority, uris=[silo_uri("fed", "a")], begins=begins, ends=ends)).tail(0, 0)


@pytest.mark.parametrize("which", ["port", "enrol_port"])
def test_port_in_use_is_one_clear_error(running: Edge, which: str) -> None:
    taken = {"port": 0, "enrol_port": 0, which: getattr(running.server, which)}
    option = which.replace("_", "-")
    with pytest.raises(AlreadyRunning, match=rf"port {taken[which]} on 127.0.0.1 is in use.*--{option}"):
        Server(running.service, running.authority, lambda _: enrolment_pb2.EnrolReply(), host="127.0.0.1", **taken)


def test_full_disk_ends_serving_with_its_error_and_leaves_no_trace(running: Edge, tmp_path: Path) -> None:
    server = Server(
        running.service,
        running.authority,
        lambda _: enrolment_pb2.EnrolReply(),
        host="127.0.0.1",
        port=0,
        enrol_port=0,
    )
    seen: list[dict[str, object]] = []

    class Full:
        def __getattr__(self, name: str) -> object:
            return getattr(running.service, name)

        def tick(self) -> None:
            seen.append(json.loads((tmp_path / "serve.json").read_text()))
            raise StoreError("no space left")

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoreError, match="no space left"):
        serve(tmp_path, server, cast(ServedService, Full()), lambda facts: None, "127.0.0.1")
    assert seen[0]["port"] == server.port
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(ConnectionError), socket.create_connection(("127.0.0.1", server.port), 1):
        pass


def test_stop_ends_waiting_silos_at_once() -> None:
    with edge() as made:
        link = made.silo("a")
        results: list[object] = []
        waiting = threading.Thread(target=lambda: results.append(link.tail(0, 50)))
        waiting.start()
        while made.service.calls == 0:
            time.sleep(0.01)
        started = time.monotonic()
        made.server.stop()
        waiting.join(10)
        assert results == [([], b"head of 0")]
        assert time.monotonic() - started < 4
