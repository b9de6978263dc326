"""`GrpcLink` over real sockets: what arrives is what was sent, limits hold, retries are bounded and safe."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from coordinator.errors import RejectedMessage, StoreError
from crypto.identity import SigningKey, sign
from protos import transport
from protos.codec import pack
from protos.messages import Deal, SealedSecret
from protos.transport import silo_uri
from silo import client
from silo.client import GrpcLink, Patience
from silo.link import Refused, Unreachable
from tests.loopback import HASTY, Edge, credentials, edge

pytestmark = pytest.mark.processes


@pytest.fixture
def running() -> Iterator[Edge]:
    with edge() as made:
        yield made


def _message(size: int) -> bytes:
    secrets = (SealedSecret("b", "0" * 64, bytes(size)),)
    return pack(sign(Deal("fed", "0" * 64, 1, "x", secrets), "a", SigningKey.generate()))


def _blob(size: int) -> tuple[str, bytes]:
    data = bytes(range(256)) * (size // 256) + b"end"
    return hashlib.sha256(data).hexdigest(), data


def test_records_longer_than_a_message_arrive_whole_and_in_order(running: Edge) -> None:
    running.service.records = [b"first", b"x" * (transport.MESSAGE_BYTES + 17), b"", b"y" * transport.PART_BYTES]
    assert running.silo("a").tail(0, 0) == (running.service.records, b"head of 4")
    assert running.silo("a").tail(3, 0) == (running.service.records[3:], b"head of 4")


def test_tail_waits_for_news_and_no_longer_than_asked(running: Edge) -> None:
    link = running.silo("a")
    started = time.monotonic()
    assert link.tail(0, 0.4) == ([], b"head of 0")
    assert 0.35 < time.monotonic() - started < 3
    timer = threading.Timer(0.3, running.service.grow, [b"news"])
    timer.start()
    started = time.monotonic()
    assert link.tail(0, 30) == ([b"news"], b"head of 1")
    assert time.monotonic() - started < 5


def test_message_longer_than_one_part_is_submitted_whole(running: Edge) -> None:
    message = _message(5 << 20)
    running.service.wanted = ("c" * 64,)
    assert running.silo("a").submit(message) == ("c" * 64,)
    assert running.service.messages == [("a", message)]


def test_message_beyond_the_limit_is_refused_on_both_sides(running: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.servicers.MAX_SUBMISSION", 1000)
    with pytest.raises(Refused, match="more than 1000 bytes"):
        running.silo("a").submit(_message(2000))
    monkeypatch.setattr(client, "MAX_SUBMISSION", 1000)
    with pytest.raises(Refused, match="too long"):
        running.silo("a").submit(_message(2000))
    assert running.service.messages == []


def test_records_beyond_the_limit_are_refused_by_the_silo(running: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_TAIL", 1000)
    running.service.records = [b"x" * 1001]
    with pytest.raises(Refused, match="more than 1000 bytes"):
        running.silo("a").tail(0, 0)


def test_blob_goes_up_and_comes_down_unchanged(running: Edge) -> None:
    digest, data = _blob(3 << 20)
    link = running.silo("a")
    link.upload(digest, iter([data[:10], b"", data[10 : 2 << 20], data[2 << 20 :]]))
    assert running.service.blobs == {digest: data}
    assert b"".join(link.download(digest)) == data


def test_blob_of_another_digest_or_beyond_the_limit_is_refused(running: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    digest, data = _blob(3000)
    with pytest.raises(Refused, match="others"):
        running.silo("a").upload(digest, [data + b"!"])
    monkeypatch.setattr("coordinator.servicers.MAX_BLOB", 1000)
    with pytest.raises(Refused, match="more than 1000 bytes"):
        running.silo("a").upload(digest, [data])
    assert running.service.blobs == {}
    with pytest.raises(Refused, match="no blob"):
        list(running.silo("a").download(digest))


def test_refusal_is_not_repeated_and_its_line_arrives(running: Edge) -> None:
    running.service.faults = [RejectedMessage("two\nlines")] * 3
    calls = running.service.calls
    with pytest.raises(Refused, match=r"^two lines$"):
        running.silo("a").submit(_message(1))
    assert running.service.calls == calls + 1


def test_full_disk_at_the_coordinator_is_tried_again_and_then_told(running: Edge) -> None:
    running.service.faults = [StoreError("no space left")] * 2
    message = _message(1)
    assert running.silo("a").submit(message) == ()
    assert running.service.messages == [("a", message)]
    running.service.faults = [StoreError("no space left")] * 9
    with pytest.raises(Unreachable, match="no space left"):
        running.silo("a").submit(message)
    assert len(running.service.faults) == 9 - HASTY.attempts


def test_defect_at_the_coordinator_shows_no_details(running: Edge) -> None:
    running.service.faults = [KeyError("a secret")] * 9
    with pytest.raises(Unreachable, match="KeyError") as caught:
        running.silo("a").submit(_message(1))
    assert "secret" not in str(caught.value)


def test_upload_is_repeated_from_a_list_but_not_from_an_iterator(running: Edge) -> None:
    digest, data = _blob(300)
    running.service.faults = [StoreError("busy")]
    running.silo("a").upload(digest, [data])
    assert running.service.blobs == {digest: data}
    running.service.faults = [StoreError("busy")]
    with pytest.raises(Unreachable, match="busy"):
        running.silo("a").upload(digest, iter([data]))


def test_download_that_breaks_off_goes_on_where_it_stopped(running: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    digest, data = _blob(1 << 20)
    running.service.blobs[digest] = data
    whole, calls = running.service.download, []

    def breaking(peer: str, wanted: str) -> Iterator[bytes]:
        calls.append(wanted)
        for index, chunk in enumerate(whole(peer, wanted)):
            if len(calls) < 3 and index == 5 * len(calls):
                raise StoreError("a passing fault")
            yield chunk

    monkeypatch.setattr(running.service, "download", breaking)
    assert b"".join(running.silo("a").download(digest)) == data
    assert len(calls) == 3


def test_nobody_listening_is_told_after_bounded_retries() -> None:
    from coordinator.authority import Authority, utc_now

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    authority = Authority.create("fed", utc_now())
    link = GrpcLink(f"127.0.0.1:{port}", "fed", credentials(authority, uris=[silo_uri("fed", "a")]), HASTY)
    started = time.monotonic()
    with pytest.raises(Unreachable, match=f"nobody answers at 127.0.0.1:{port}"):
        link.tail(0, 0)
    assert time.monotonic() - started < 5
    link.close()
    with pytest.raises(Unreachable):
        link.tail(0, 0)


def test_coordinator_that_never_answers_meets_the_deadline(running: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running.service, "submit", lambda peer, message: time.sleep(2))
    patience = Patience(attempts=1, submit_s=0.3)
    with pytest.raises(Unreachable, match="no answer from"):
        running.silo("a", patience).submit(_message(1))


def test_pauses_grow_stay_bounded_and_are_jittered() -> None:
    patience = Patience(pause_s=1.0, longest_s=8.0)
    for attempt in range(12):
        pauses = {patience.pause(attempt) for _ in range(50)}
        bound = min(8.0, 2.0**attempt)
        assert all(bound / 2 <= pause <= bound for pause in pauses)
        assert len(pauses) > 10
