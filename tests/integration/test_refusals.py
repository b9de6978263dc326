"""Messages and ciphertexts that do not fit are refused with one clear line, and nothing has changed."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest

from coordinator.errors import BadBlob, RejectedMessage
from crypto import merkle, ring
from crypto.identity import sign
from protos.codec import decode, pack, unpack
from protos.messages import Answers, Commit, Opening, Signed
from protos.rounds import Phase
from silo import duties
from tests.integration.bench import Bench, bench, closed, in_phase, outcomes, where_drawn
from tests.integration.federation import SILOS

LIAR = "bob"
HONEST = tuple(name for name in SILOS if name != LIAR)


def _say(federation: Bench, name: str, body: Any) -> Any:
    message = pack(sign(body, name, federation.identities[name].signing))
    return federation.service.submit(name, message)


def _state(federation: Bench) -> Any:
    history = federation.history
    return (history.chain.digest, dict(federation.service._pending), federation.service._store.submissions())


def assert_refused(federation: Bench, name: str, body: Any, reason: str) -> None:
    """Refused with one clear line, and nothing has changed."""
    before = _state(federation)
    with pytest.raises(RejectedMessage, match=reason) as caught:
        _say(federation, name, body)
    assert "\n" not in str(caught.value)
    assert _state(federation) == before


def _taken(federation: Bench, name: str, cls: Any, place: int = -1) -> Any:
    bodies = [unpack(Signed, message).body for message in federation.link(name).sent]
    return decode(cls, [body for body in bodies if body["kind"] == cls.KIND][place])


@pytest.fixture(scope="module")
def committing(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A federation in whose second round three silos have committed, ada and bob among them."""
    federation = bench(tmp_path_factory.mktemp("committing"), rounds=2)
    federation.until(closed(1))
    for name in ("dan", "eve"):
        federation.link(name).down = True
    federation.turn()
    assert set(federation.service._pending) == {"ada", "bob", "cyd"}
    return federation


def test_second_different_commit_is_refused(committing: Bench) -> None:
    commit = _taken(committing, LIAR, Commit)
    assert _say(committing, LIAR, commit) == ()
    assert_refused(committing, LIAR, dataclasses.replace(commit, ciphertext="0" * 64), "taken before and stands")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"plan": "0" * 64}, "another plan"),
        ({"federation": "elsewhere"}, "another federation"),
        ({"prototypes": None}, "prototypes are owed"),
    ],
)
def test_commit_of_another_round_or_federation_is_refused(committing: Bench, change: Any, reason: str) -> None:
    commit = _taken(committing, "ada", Commit)
    assert_refused(committing, "dan", dataclasses.replace(commit, **change), reason)


def test_commit_of_the_first_round_is_refused_in_the_second(committing: Bench) -> None:
    assert_refused(committing, "dan", _taken(committing, "dan", Commit, 0), "another plan")


def test_commit_with_another_key_or_for_another_silo_is_refused(committing: Bench) -> None:
    commit = _taken(committing, "dan", Commit, 0)
    forged = pack(sign(commit, "dan", committing.identities["eve"].signing))
    before = _state(committing)
    with pytest.raises(RejectedMessage, match="not a signature"):
        committing.service.submit("dan", forged)
    with pytest.raises(RejectedMessage, match="cannot speak for"):
        committing.service.submit("eve", forged)
    for garbage in (b"", b"{}", b"[1]", forged[:-1], forged + b" ", b"\xff"):
        with pytest.raises(RejectedMessage):
            committing.service.submit("dan", garbage)
    assert _state(committing) == before


def test_message_of_another_phase_is_refused(committing: Bench) -> None:
    assert_refused(committing, "dan", _taken(committing, "dan", Opening), "does not await")


@pytest.fixture(scope="module")
def opening(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Opening]:
    """A federation that awaits openings; dan has not opened, and this is what he would say."""
    federation = bench(tmp_path_factory.mktemp("opening"), rounds=1)
    federation.until(in_phase(Phase.OPENING))
    federation.link("dan").down = True
    federation.turn()
    session = federation.sessions["dan"]
    federation.link("dan").down = False
    session._read(0.0)
    return federation, duties.answer(session.desk, session.history)


def _longer(body: Opening, part: str, cut: int) -> Opening:
    return dataclasses.replace(body, **{part: getattr(body, part)[:cut]})


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (lambda body: dataclasses.replace(body, challenge="0" * 64), "another challenge"),
        (lambda body: dataclasses.replace(body, federation="elsewhere"), "another federation"),
        (lambda body: _longer(body, "folds", -4), "folds have the wrong size"),
        (lambda body: dataclasses.replace(body, output=b"\0\0\0\0"), "output layer has the wrong size"),
        (lambda body: _longer(body, "tags", -8), "tags have the wrong size"),
        (lambda body: dataclasses.replace(body, tags=bytes(len(body.tags))), "not the committed ones"),
        (lambda body: dataclasses.replace(body, prototypes=None), "opened as committed"),
        (lambda body: _longer(body, "prototypes", -8), "3 classes of dimension 12"),
        (lambda body: dataclasses.replace(body, prototypes=body.prototypes + bytes(96)), "3 classes of dimension 12"),
        (lambda body: dataclasses.replace(body, prototypes=bytes(288)), "not the committed ones"),
        (lambda body: dataclasses.replace(body, folded="0" * 64), "not the fold"),
        (lambda body: _receipt(body, entry=1), "not newer"),
        (lambda body: _receipt(body, charges=()), "charges are not the plan's"),
        (lambda body: _receipt(body, delta_nano=1), "another delta"),
        (lambda body: _receipt(body, epsilon_micro=9_000_000), "exceeds"),
    ],
)
def test_opening_that_does_not_fit_is_refused(opening: tuple[Bench, Opening], lie: Any, reason: str) -> None:
    federation, honest = opening
    assert_refused(federation, "dan", lie(honest), reason)


def _receipt(body: Opening, **changes: Any) -> Opening:
    return dataclasses.replace(body, receipt=dataclasses.replace(body.receipt, **changes))


def test_honest_opening_is_taken_after_all_refusals(opening: tuple[Bench, Opening]) -> None:
    federation, honest = opening
    _say(federation, "dan", honest)
    assert federation.history.phase is Phase.OPENING
    assert_refused(federation, "dan", dataclasses.replace(honest, folds=bytes(len(honest.folds))), "before and stands")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda chunks: [bytes(8 * 7) + b"\xff" * 8 + chunks[0][64:], *chunks[1:]], "not below the modulus"),
        (lambda chunks: chunks[:-1], "has not the 16 chunks"),
        (lambda chunks: [*chunks[:-1], chunks[-1][:-8]], "has 32800 bytes"),
        (lambda chunks: [], "has not the 16 chunks"),
    ],
    ids=["word", "chunk", "cut", "empty"],
)
def test_ciphertext_of_another_form_is_refused_and_the_silo_withdrawn(tmp_path: Path, spoil: Any, reason: str) -> None:
    federation = bench(tmp_path, rounds=1)
    federation.until(in_phase(Phase.COMMITTING))
    session = federation.sessions[LIAR]
    for name in HONEST:
        federation._step(name)
    federation.link(LIAR).down = True
    chunks = spoil([bytes(ring.FRESH_BYTES)] * 16)
    root = merkle.root(chunks)
    tags_of, sums = bytes(32 + 16 * 8), bytes(288)
    digests = [hashlib.sha256(data).hexdigest() for data in (tags_of, sums)]
    session.link.down = False
    session._read(0.0)
    _say(federation, LIAR, Commit("simulated", federation.history.round.plan_digest, root, *digests))
    federation._tick()
    federation.service.upload(LIAR, root, iter(chunks))
    session._read(0.0)
    federation.link(LIAR).down = True
    receipt = session.desk.charge_round(federation.history.round.plan)
    folds = bytes(2 * 3 * 4)
    body = Opening("simulated", federation.history.round.challenge_digest, folds, b"", root, tags_of, sums, receipt)
    assert_refused(federation, LIAR, body, reason)
    history = federation.until(closed(1))
    assert history.round.withdrawn == (LIAR,)
    assert outcomes(history)[0].result == "adopted"


def test_uploaded_bytes_that_were_not_committed_to_are_refused(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=1)
    federation.until(in_phase(Phase.OPENING))
    committed = federation.history.round.commits[LIAR].ciphertext
    chunks = list(federation.sessions[LIAR].workspace.ciphertext(1))
    flipped = [chunks[0][:-1] + bytes([chunks[0][-1] ^ 1]), *chunks[1:]]
    for bad in (flipped, chunks[:-1], [], [*chunks, b"more"]):
        with pytest.raises(BadBlob):
            federation.service.upload(LIAR, committed, iter(bad))
    with pytest.raises(RejectedMessage, match="no blob"):
        federation.service.upload("ada", committed, iter(chunks))
    assert not federation.service._blobs.has(committed)
    assert outcomes(federation.run())[0].result == "adopted"


def test_answers_about_others_than_the_drawn_are_refused(tmp_path: Path) -> None:
    federation = where_drawn(tmp_path, lambda directory: bench(directory, rounds=1), LIAR)
    history = federation.history
    assert_refused(federation, LIAR, Answers("simulated", history.round.openings_digest, ()), "exactly the silos")
    assert_refused(federation, LIAR, Answers("simulated", history.round.plan_digest, ()), "another record")
