"""The serving process: both ports, the clock tick, signals, and the file that says where it listens.

Enrolment has a port of its own, because gRPC asks for client certificates only where it requires them.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from coordinator import server_file
from coordinator.authority import Authority, utc_now
from coordinator.errors import AlreadyRunning, BadRequest, CoordinatorError
from coordinator.servicers import Enrolment, Round, RoundService
from crypto import memory
from protos.transport import KEEPALIVE_S, MESSAGE_BYTES, WINDOW_BYTES
from protos.wire import enrolment_pb2, enrolment_pb2_grpc, grpc, round_pb2_grpc

TICK_S = 0.1
GRACE_S = 5.0
_THREADS = 256
"""A waiting silo holds one; threads start when needed."""
_CONNECTION_AGE_MS = 600_000
_CONNECTION_GRACE_MS = 900_000
_log = logging.getLogger("concordat.coordinator")

Enrol = Callable[[enrolment_pb2.EnrolRequest], enrolment_pb2.EnrolReply]


class ServedService(RoundService, Protocol):
    """What the serving loop needs besides the round's calls."""

    def tick(self) -> None: ...


class Server:
    """Both gRPC servers; `ports` are the real ones after construction. `start` begins to answer."""

    def __init__(
        self,
        service: RoundService,
        authority: Authority,
        enrol: Enrol,
        *,
        host: str,
        port: int,
        enrol_port: int,
        names: tuple[str, ...] = (),
    ) -> None:
        self._stopping = threading.Event()
        key, certificate = authority.issue_server((*names, *_certifiable(host)), utc_now())
        root, pair = authority.certificate_pem, [(key, certificate + authority.certificate_pem)]
        self._round, self._enrolment = _server(_THREADS), _server(8)
        servicer = Round(service, authority.federation, utc_now, self._stopping)
        # Generated code has no types.
        round_pb2_grpc.add_RoundServicer_to_server(servicer, self._round)  # type: ignore[no-untyped-call]
        enrolment_pb2_grpc.add_EnrolmentServicer_to_server(  # type: ignore[no-untyped-call]
            Enrolment(enrol), self._enrolment
        )
        mutual = grpc.ssl_server_credentials(pair, root, require_client_auth=True)
        self.port = _bind(self._round, host, port, mutual, "port")
        self.enrol_port = _bind(self._enrolment, host, enrol_port, grpc.ssl_server_credentials(pair), "enrol-port")

    def start(self) -> None:
        """Begin to answer on both ports."""
        self._round.start()
        self._enrolment.start()

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Stop taking calls, let those under way end for `grace_s` seconds, then cut them."""
        self._stopping.set()
        events = [self._enrolment.stop(grace_s), self._round.stop(grace_s)]
        for event in events:
            event.wait(grace_s + 1)


def serve(
    directory: Path, server: Server, service: ServedService, ready: Callable[[dict[str, Any]], None], host: str
) -> None:
    """Serve until SIGTERM or SIGINT. Call it from the main thread, with the directory's lock held.

    Args:
        directory: gets `serve.json` while the process serves.
        server: not started yet.
        service: gets a tick about every 0.1 s, from this thread.
        ready: called once with the facts in `serve.json`, when both ports answer.
        host: where the ports are bound.

    Raises:
        CoordinatorError: if a tick fails for good (disk full); everything acknowledged is durable.
    """
    facts = {"pid": os.getpid(), "host": host, "port": server.port, "enrol_port": server.enrol_port}
    stop = threading.Event()
    memory.keep_little()
    with _signals(stop):
        server.start()
        try:
            server_file.write(directory, facts)
            ready(facts)
            while not stop.wait(TICK_S):
                service.tick()
        finally:
            server.stop()
            server_file.remove(directory)


@contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _server(threads: int) -> grpc.Server:
    options = [
        # Without this, Linux would let a second coordinator share the port unnoticed.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", MESSAGE_BYTES),
        ("grpc.max_send_message_length", MESSAGE_BYTES),
        ("grpc.max_metadata_size", 16384),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
        ("grpc.max_connection_age_ms", _CONNECTION_AGE_MS),
        ("grpc.max_connection_age_grace_ms", _CONNECTION_GRACE_MS),
        ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_S * 500),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", KEEPALIVE_S * 500),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", 2 * KEEPALIVE_S * 1000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
    pool = ThreadPoolExecutor(threads, thread_name_prefix="call")
    return grpc.server(pool, options=options, maximum_concurrent_rpcs=threads)


def _bind(server: grpc.Server, host: str, port: int, credentials: grpc.ServerCredentials, option: str) -> int:
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_secure_port(address, credentials)
    except RuntimeError:
        bound = 0
    if bound == 0:
        raise _bind_error(host, port, option)
    return bound


def _bind_error(host: str, port: int, option: str) -> CoordinatorError:
    """gRPC does not say why it could not bind: try it by hand."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return AlreadyRunning(f"port {port} on {host} is in use: choose another with --{option}")
        return BadRequest(f"cannot listen on {host}:{port}: {error.strerror}: choose another with --host or --{option}")
    return AlreadyRunning(f"port {port} on {host} was in use: try again, or choose another with --{option}")


def _certifiable(host: str) -> tuple[str, ...]:
    """Names for the certificate; an unspecified address (0.0.0.0) is none."""
    try:
        return () if ipaddress.ip_address(host).is_unspecified else (host,)
    except ValueError:
        return (host,)
