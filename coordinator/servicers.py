"""gRPC servicers: who calls, parts to bytes, the service's plain call, errors to status codes. Nothing else."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NoReturn, Protocol

from audit.errors import AuditError
from coordinator import errors
from coordinator.peers import silo_name
from crypto.errors import CryptoError
from protos.errors import ProtocolError
from protos.transport import MAX_BLOB, MAX_SUBMISSION, MAX_WAIT_S, parts
from protos.wire import enrolment_pb2, enrolment_pb2_grpc, grpc, round_pb2, round_pb2_grpc

_SLICE_S = 1.0
"""A waiting call looks this often whether its silo is still there."""
_log = logging.getLogger("concordat.coordinator")

STATUS: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (errors.NotEnrolled, grpc.StatusCode.PERMISSION_DENIED),
    (errors.CertificateRefused, grpc.StatusCode.UNAUTHENTICATED),
    (errors.TokenRefused, grpc.StatusCode.PERMISSION_DENIED),
    (errors.RejectedMessage, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.NoSuchBlob, grpc.StatusCode.NOT_FOUND),
    (errors.BadBlob, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.BadRequest, grpc.StatusCode.INVALID_ARGUMENT),
    # The silo did nothing wrong and may try again once the operator has freed space.
    (errors.StoreError, grpc.StatusCode.UNAVAILABLE),
    (errors.CoordinatorError, grpc.StatusCode.FAILED_PRECONDITION),
    (AuditError, grpc.StatusCode.FAILED_PRECONDITION),
    (CryptoError, grpc.StatusCode.INVALID_ARGUMENT),
    (ProtocolError, grpc.StatusCode.INVALID_ARGUMENT),
)
"""The one table of errors to status codes; the first line that fits holds."""


class RoundService(Protocol):
    """What the round servicer calls; `coordinator.service.Service` has these methods."""

    def tail(self, peer: str, size: int) -> tuple[list[bytes], bytes]: ...

    def wait(self, size: int, seconds: float) -> None: ...

    def submit(self, peer: str, message: bytes) -> tuple[str, ...]: ...

    def upload(self, peer: str, digest: str, chunks: Iterator[bytes]) -> None: ...

    def download(self, peer: str, digest: str) -> Iterator[bytes]: ...


class Round(round_pb2_grpc.RoundServicer):
    """The round service for the silos of `federation`."""

    def __init__(
        self, service: RoundService, federation: str, now: Callable[[], datetime], stopping: threading.Event
    ) -> None:
        self._service, self._federation, self._now, self._stopping = service, federation, now, stopping

    def Tail(self, request: round_pb2.TailRequest, context: Any) -> Iterator[round_pb2.TailPart]:
        """Records from `size` on, then the head."""
        with _answering(context):
            end = time.monotonic() + min(request.wait_ms / 1000, MAX_WAIT_S)
            records, head = self._service.tail(self._peer(context), request.size)
            # Every turn asks again who calls: a certificate may expire while its silo waits.
            while not records and (left := end - time.monotonic()) > 0 and self._awaited(context):
                self._service.wait(request.size, min(left, _SLICE_S))
                records, head = self._service.tail(self._peer(context), request.size)
            for record in records:
                *pieces, last = parts(record)
                for piece in pieces:
                    yield round_pb2.TailPart(piece=piece)
                yield round_pb2.TailPart(last_piece=last)
            yield round_pb2.TailPart(head=head)

    def Submit(self, request_iterator: Iterator[round_pb2.Part], context: Any) -> round_pb2.SubmitReply:
        """One signed message in parts."""
        with _answering(context):
            peer = self._peer(context)
            message = b"".join(_bounded((part.data for part in request_iterator), MAX_SUBMISSION))
            return round_pb2.SubmitReply(wanted=self._service.submit(peer, message))

    def Upload(self, request_iterator: Iterator[round_pb2.UploadPart], context: Any) -> round_pb2.UploadReply:
        """A blob; the first message names its digest."""
        with _answering(context):
            peer = self._peer(context)
            first = next(request_iterator, None)
            if first is None or first.WhichOneof("kind") != "digest":
                raise errors.BadRequest("an upload begins with the digest of the blob")
            self._service.upload(peer, first.digest, _bounded(_data(request_iterator), MAX_BLOB))
            return round_pb2.UploadReply()

    def Download(self, request: round_pb2.DownloadRequest, context: Any) -> Iterator[round_pb2.Part]:
        """The bytes of a blob from `offset` on."""
        with _answering(context):
            skip = request.offset
            for chunk in self._service.download(self._peer(context), request.digest):
                if skip < len(chunk):
                    yield from (round_pb2.Part(data=part) for part in parts(chunk[skip:]))
                skip = max(0, skip - len(chunk))

    def _peer(self, context: Any) -> str:
        return silo_name(context.auth_context(), self._federation, self._now())

    def _awaited(self, context: Any) -> bool:
        return bool(context.is_active()) and not self._stopping.is_set()


class Enrolment(enrolment_pb2_grpc.EnrolmentServicer):
    """The enrolment service; `enrol` takes a request and returns the reply, or raises."""

    def __init__(self, enrol: Callable[[enrolment_pb2.EnrolRequest], enrolment_pb2.EnrolReply]) -> None:
        self._enrol = enrol

    def Enrol(self, request: enrolment_pb2.EnrolRequest, context: Any) -> enrolment_pb2.EnrolReply:
        """Spend an invitation for a certificate."""
        with _answering(context):
            return self._enrol(request)


@contextmanager
def _answering(context: Any) -> Iterator[None]:
    """Turn our errors into a status with their one line; anything else is a defect, logged here and not told."""
    try:
        yield
    except (errors.CoordinatorError, AuditError, CryptoError, ProtocolError) as error:
        _abort(context, status_of(error), str(error))
    except grpc.RpcError:
        raise
    except Exception as error:
        if not context.is_active():
            return
        _log.exception("a call failed")
        _abort(context, grpc.StatusCode.INTERNAL, f"the coordinator failed ({type(error).__name__}): see its log")


def status_of(error: Exception) -> grpc.StatusCode:
    """The status code for one of our errors."""
    return next(code for cls, code in STATUS if isinstance(error, cls))


def _abort(context: Any, code: grpc.StatusCode, text: str) -> NoReturn:
    context.abort(code, " ".join(text.split())[:1000])
    raise AssertionError("abort raises")


def _data(messages: Iterable[round_pb2.UploadPart]) -> Iterator[bytes]:
    for message in messages:
        if message.WhichOneof("kind") != "data":
            raise errors.BadRequest("an upload has one digest, and data after it")
        yield message.data


def _bounded(chunks: Iterable[bytes], limit: int) -> Iterator[bytes]:
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > limit:
            raise errors.BadRequest(f"more than {limit} bytes in one request")
        yield chunk
