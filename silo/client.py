"""`GrpcLink`: the silo's link over gRPC with mTLS.

Every call has a deadline. A call that got no answer is repeated a few times with growing, jittered pauses; that is safe
because tail and download change nothing, and submit and upload say the same bytes again. An answer is never repeated.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from protos.transport import (
    CALL_S,
    KEEPALIVE_S,
    MAX_BLOB,
    MAX_SUBMISSION,
    MAX_TAIL,
    MAX_WAIT_S,
    MESSAGE_BYTES,
    SUBMIT_S,
    TRANSFER_S,
    WINDOW_BYTES,
    coordinator_host,
    parts,
)
from protos.wire import grpc, round_pb2, round_pb2_grpc
from silo.link import LinkError, Refused, Unreachable

T = TypeVar("T")
_UNANSWERED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)


@dataclass(frozen=True)
class Patience:
    """How long a link tries: `attempts` calls, pauses doubling from `pause_s` up to `longest_s`, each jittered."""

    attempts: int = 5
    pause_s: float = 0.2
    longest_s: float = 5.0
    call_s: float = CALL_S
    submit_s: float = SUBMIT_S
    transfer_s: float = TRANSFER_S

    def pause(self, attempt: int) -> float:
        """Seconds to wait after attempt number `attempt` (from 0) failed."""
        # Jitter only spreads the silos' retries; nothing secret depends on it.
        return random.uniform(0.5, 1.0) * min(self.longest_s, self.pause_s * 2.0**attempt)


@dataclass(frozen=True)
class Credentials:
    """The silo's side of mTLS, all in PEM: CA certificate, certificate chain, private key."""

    authority: bytes
    chain: bytes
    key: bytes

    def __repr__(self) -> str:
        return "Credentials(...)"


class GrpcLink:
    """A `silo.link.Link` to the coordinator at `address` (host:port). Threads may share it."""

    def __init__(
        self, address: str, federation: str, credentials: Credentials, patience: Patience | None = None
    ) -> None:
        self._address, self._patience = address, patience or Patience()
        secured = grpc.ssl_channel_credentials(credentials.authority, credentials.key, credentials.chain)
        self._channel = grpc.secure_channel(address, secured, channel_options(federation))
        self._stub = round_pb2_grpc.RoundStub(self._channel)  # type: ignore[no-untyped-call]  # generated

    def tail(self, size: int, wait_s: float) -> tuple[list[bytes], bytes]:
        """See `Link.tail`."""
        wait_s = min(max(wait_s, 0.0), MAX_WAIT_S)
        request = round_pb2.TailRequest(size=size, wait_ms=int(wait_s * 1000))
        deadline = wait_s + self._patience.call_s
        return self._retried(lambda: _gathered(self._stub.Tail(request, timeout=deadline)))

    def submit(self, message: bytes) -> tuple[str, ...]:
        """See `Link.submit`."""
        if len(message) > MAX_SUBMISSION:
            raise Refused(f"a message of {len(message)} bytes is too long: at most {MAX_SUBMISSION} are taken")
        reply = self._retried(
            lambda: self._stub.Submit(
                (round_pb2.Part(data=part) for part in parts(message)), timeout=self._patience.submit_s
            )
        )
        return tuple(reply.wanted)

    def upload(self, digest: str, chunks: Iterable[bytes]) -> None:
        """See `Link.upload`."""
        # An iterator is gone after the first attempt, and half of it would not be the blob.
        attempts = 1 if isinstance(chunks, Iterator) else self._patience.attempts
        self._retried(
            lambda: self._stub.Upload(_upload(digest, chunks), timeout=self._patience.transfer_s), attempts=attempts
        )

    def download(self, digest: str) -> Iterator[bytes]:
        """See `Link.download`; after a fault it goes on where it stopped."""
        received, failures = 0, 0
        while True:
            request = round_pb2.DownloadRequest(digest=digest, offset=received)
            try:
                for part in self._stub.Download(request, timeout=self._patience.transfer_s):
                    received += len(part.data)
                    if received > MAX_BLOB:
                        raise Refused(f"the blob {digest[:16]} is longer than {MAX_BLOB} bytes")
                    failures = 0
                    yield part.data
                return
            except grpc.RpcError as error:
                failures += 1
                self._pause_or_raise(error, failures, self._patience.attempts)

    def close(self) -> None:
        """Close the channel; calls under way fail as unreachable."""
        self._channel.close()

    def _retried(self, call: Callable[[], T], attempts: int | None = None) -> T:
        failures = 0
        while True:
            try:
                return call()
            except grpc.RpcError as error:
                failures += 1
                self._pause_or_raise(error, failures, attempts or self._patience.attempts)
            except ValueError as error:
                raise Unreachable("the link is closed") from error

    def _pause_or_raise(self, error: grpc.RpcError, failures: int, attempts: int) -> None:
        ours = translated(error, self._address)
        if isinstance(ours, Refused) or failures >= attempts:
            raise ours from None
        time.sleep(self._patience.pause(failures - 1))


def channel_options(federation: str) -> list[tuple[str, Any]]:
    """Options of every channel to the coordinator of `federation`."""
    return [
        # The coordinator is known by its federation's name, wherever it listens; its certificate must say so.
        ("grpc.ssl_target_name_override", coordinator_host(federation)),
        ("grpc.max_receive_message_length", MESSAGE_BYTES),
        ("grpc.max_send_message_length", MESSAGE_BYTES),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
        ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        # Retries are ours alone: two layers of them multiply.
        ("grpc.enable_retries", 0),
        # A proxy of the environment would see the address; the link goes straight to it.
        ("grpc.enable_http_proxy", 0),
    ]


def translated(error: grpc.RpcError, address: str) -> LinkError:
    """Our error for one of gRPC's, with the coordinator's line where it gave one."""
    code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
    details = " ".join(((error.details() or "") if isinstance(error, grpc.Call) else str(error)).split())
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unreachable(f"no answer from {address} in time: check the network, or try again later")
    if code in _UNANSWERED:
        return Unreachable(_unavailable(details, address))
    if code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED):
        return Unreachable(f"the coordinator at {address} failed: {details or code.name}")
    return Refused(details or f"refused ({code.name})")


def _unavailable(details: str, address: str) -> str:
    lowered = details.lower()
    if "certificate_verify_failed" in lowered or "hostname verification" in lowered or "peer name" in lowered:
        return f"{address} has no certificate of this federation's authority: is it the right coordinator?"
    if "handshake" in lowered or "ssl" in lowered or "tls" in lowered or "socket closed" in lowered:
        return (
            f"{address} ended the connection in or after the TLS handshake: it accepts TLS 1.3 and this federation's "
            "valid certificates only; if yours has expired, enrol again"
        )
    if "failed to connect" in lowered or "connection refused" in lowered:
        return f"nobody answers at {address}: is the coordinator running, and the address right?"
    return f"the coordinator at {address} cannot answer now: {details}"


def _gathered(stream: Iterable[Any]) -> tuple[list[bytes], bytes]:
    """Records and head from the parts of a tail."""
    records: list[bytes] = []
    pending = bytearray()
    total = 0
    for part in stream:
        kind = part.WhichOneof("kind")
        if kind == "head":
            return records, part.head
        data = part.piece if kind == "piece" else part.last_piece
        total += len(data)
        if total > MAX_TAIL:
            raise Refused(f"the coordinator sent more than {MAX_TAIL} bytes of records at once")
        pending += data
        if kind == "last_piece":
            records.append(bytes(pending))
            pending.clear()
    raise Unreachable("the coordinator ended the records without a head: try again")


def _upload(digest: str, chunks: Iterable[bytes]) -> Iterator[round_pb2.UploadPart]:
    yield round_pb2.UploadPart(digest=digest)
    for chunk in chunks:
        if chunk:
            yield from (round_pb2.UploadPart(data=part) for part in parts(chunk))
