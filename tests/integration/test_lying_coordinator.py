"""Every coordinator that lies is stopped by the silos, and learns a refusal's name and never a number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.service import Service
from crypto import merkle, ring
from protos.codec import unpack
from protos.messages import CHECKS, Signed
from protos.rounds import Phase
from tests.integration.bench import bench, closed, in_phase, outcomes, where_drawn
from tests.integration.federation import SILOS

Words = list[Any]
VICTIM = "bob"
OTHERS = tuple(name for name in SILOS if name != VICTIM)


class FalseSum(Service):
    """Publishes what `lie` makes of the ciphertexts and weights, in the first `rounds`."""

    lie: Callable[[list[list[Any]], list[int]], list[Any]]
    rounds = 1

    def _sum(self) -> str | None:
        if len(self.history.rounds) > self.rounds:
            return super()._sum()
        view = self.history.round
        parts = [list(self._words(view.commits[silo].ciphertext)) for silo in view.weights]
        chunks = [ring.to_bytes(words) for words in type(self).lie(parts, list(view.weights.values()))]
        root = merkle.root(chunks)
        self._blobs.write(root, chunks, leaf=ring.CHUNK_BYTES, limit=len(chunks) * ring.CHUNK_BYTES)
        return root


def add_up(parts: list[list[Any]], weights: list[int]) -> list[Any]:
    return list(ring.weighted_sum(parts, weights))


def drops_one(parts: list[list[Any]], weights: list[int]) -> list[Any]:
    return add_up(parts[1:], weights[1:])


def doubles_one(parts: list[list[Any]], weights: list[int]) -> list[Any]:
    return add_up(parts, [2 * weights[0], *weights[1:]])


def swaps_two_weights(parts: list[list[Any]], weights: list[int]) -> list[Any]:
    return add_up(parts, [weights[0] + 1, weights[1] - 1, *weights[2:]])


def adds_an_offset(parts: list[list[Any]], weights: list[int]) -> list[Any]:
    """2^22 is one unit of a slot at our scale: as a constant polynomial in every place, it moves all slots."""
    offset = np.zeros(ring.WORDS, dtype=np.uint64)
    offset[: ring.WORDS // 2] = 2**22
    first, *rest = add_up(parts, weights)
    return [ring.add(first, offset), *rest]


def asks_for_the_key(parts: list[list[Any]], weights: list[int]) -> list[Any]:
    """(0, 2^38): decrypts to the secret key, scaled."""
    crafted = np.zeros(ring.WORDS, dtype=np.uint64)
    crafted[ring.WORDS // 2 :] = 2**38
    return [crafted] * len(parts[0])


def asks_for_one_update(parts: list[list[Any]], weights: list[int]) -> list[Any]:
    return parts[0]


def sums_chunks_out_of_order(parts: list[list[Any]], weights: list[int]) -> list[Any]:
    first, second, *rest = add_up(parts, weights)
    return [second, first, *rest]


def sends_a_chunk_too_few(parts: list[list[Any]], weights: list[int]) -> list[Any]:
    return add_up(parts, weights)[:-1]


def sends_a_chunk_too_many(parts: list[list[Any]], weights: list[int]) -> list[Any]:
    total = add_up(parts, weights)
    return [*total, total[0]]


def sends_nothing_but_zeros(parts: list[list[Any]], weights: list[int]) -> list[Any]:
    return [np.zeros(ring.WORDS, dtype=np.uint64)] * len(parts[0])


LIES = [
    drops_one, doubles_one, swaps_two_weights, adds_an_offset, asks_for_the_key, asks_for_one_update,
    sums_chunks_out_of_order, sends_a_chunk_too_few,
    sends_a_chunk_too_many, sends_nothing_but_zeros,
]  # fmt: skip


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_false_sum_is_refused_by_name_only_laid_to_the_coordinator_and_halts_the_silos(
    tmp_path: Path, lie: Any
) -> None:
    false = type("False_", (FalseSum,), {"lie": staticmethod(lie)})
    federation = bench(tmp_path, rounds=2, service=false)
    history = federation.until(in_phase(Phase.VERIFYING))
    before = {name: len(federation.link(name).sent) for name in SILOS}
    federation.until(closed(1))
    (void,) = outcomes(history)
    assert (void.result, void.fault, void.convicted) == ("void", "sum", ())
    assert history.model == federation.task.initial_model
    for name in SILOS:
        refusal = unpack(Signed, federation.link(name).sent[before[name]]).body
        assert set(refusal) == {"check", "federation", "kind", "sum"}
        assert refusal["check"] in CHECKS
        assert federation.link(name).kinds()[before[name] :] == ["refusal", "trace-opening", "answers"]
    federation.turns(3)
    assert history.phase is Phase.IDLE
    for name in SILOS:
        assert "Halted: the sum of round 1 was false" in federation.said(name)


def test_after_a_false_sum_nothing_is_trained_until_operators_act(tmp_path: Path) -> None:
    false = type("False_", (FalseSum,), {"lie": staticmethod(drops_one)})
    federation = bench(tmp_path, rounds=2, service=false)
    federation.until(closed(1))
    federation.turns(2)
    federation.service.start()
    federation.turns(3)
    assert federation.history.phase is Phase.DEALING
    for name in SILOS:
        federation.restart(name)
    federation.turn()
    assert federation.history.phase is Phase.DEALING
    for session in federation.sessions.values():
        session.resume()
    history = federation.run()
    assert [one.result for one in outcomes(history)] == ["void", "adopted"]
    for session in federation.sessions.values():
        assert [entry.key for entry in session.desk.ledger.entries()] == ["counts", "round-1", "round-2"]


@pytest.mark.parametrize("what", ["fold", "sum"])
def test_bytes_other_than_the_signed_ones_are_not_decrypted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    federation = where_drawn(tmp_path, lambda directory: bench(directory, rounds=1), VICTIM)
    if what == "sum":
        federation.until(in_phase(Phase.VERIFYING))
    crafted = np.zeros(ring.WORDS, dtype=np.uint64)
    crafted[ring.WORDS // 2 :] = 2**38
    desk, decrypted = federation.sessions[VICTIM].desk, list[Any]()
    with monkeypatch.context() as patch:
        patch.setattr(desk.link, "download", lambda digest: iter([ring.to_bytes(crafted)] * 16))
        patch.setattr(desk, "scheme", _Watching(decrypted))
        patch.setattr(desk, "_joined", None)
        sent = len(federation.link(VICTIM).sent)
        federation._step(VICTIM)
    assert len(federation.link(VICTIM).sent) == sent
    assert decrypted == []
    assert federation.progress[VICTIM][-1].note is not None
    assert "nothing was decrypted" in federation.progress[VICTIM][-1].note
    history = federation.run()
    assert outcomes(history)[0].result == "adopted"
    assert history.convicted == {}


class _Watching:
    """A scheme that notes every ciphertext that it is asked to open."""

    name = "watching"

    def __init__(self, decrypted: list[Any]) -> None:
        self._decrypted = decrypted

    def deal(self, federation: str, epoch: int) -> bytes:
        raise AssertionError("nothing is dealt here")

    def join(self, secret: bytes) -> Any:
        return self

    def check_folded(self, chunks: Any, *arguments: Any, **rest: Any) -> None:
        self._decrypted.append(chunks)

    def open_sum(self, chunks: Any, *arguments: Any, **rest: Any) -> Any:
        self._decrypted.append(chunks)
        raise AssertionError("it was opened")


def test_whole_update_is_never_handed_out(tmp_path: Path) -> None:
    from coordinator.errors import NoSuchBlob

    federation = bench(tmp_path, rounds=1)
    federation.until(in_phase(Phase.CHECKING))
    for commit in federation.history.round.commits.values():
        assert federation.service._blobs.has(commit.ciphertext)
        with pytest.raises(NoSuchBlob):
            federation.service.download(VICTIM, commit.ciphertext)


def test_no_answer_but_an_adoption_depends_on_what_was_decrypted(tmp_path: Path) -> None:
    """A checker's words are a yes or a no about each drawn silo."""
    federation = bench(tmp_path, rounds=1)
    federation.run()
    answers: Iterator[Any] = (
        unpack(Signed, message).body
        for name in SILOS
        for message in federation.link(name).sent
        if unpack(Signed, message).body["kind"].startswith("concordat/answers")
    )
    for body in answers:
        assert set(body) == {"answers", "federation", "kind", "record"}
        assert all(set(one) == {"ok", "silo"} and one["ok"] is True for one in body["answers"])
