"""Federations of 4 to 24 silos, nightly 64, with 1 to 3 liars of mixed kinds, and every decryption that anybody makes.

Honest silos are never convicted; liars are, before the decision or after one void round; nothing is decrypted but
folds of at least eight chunks, exact output layers and the one sum of a round.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from audit.history import History
from audit.votes import duties
from crypto import ring
from crypto.ckks import CkksKey
from crypto.packing import Packing
from crypto.secure_sum import Protected
from protos.codec import decode
from protos.messages import Answers
from protos.rounds import Phase
from protos.task import MICRO
from tests.integration import test_lying_silos
from tests.integration.bench import Bench, bench, outcomes
from tests.integration.liars import (
    LyingKeys,
    RefusingScheme,
    another_key,
    another_update,
    answering,
    false_tag,
    half_integer,
    halves_hidden,
    opposite_chunks,
    protecting,
    tags_of_another_plan,
    tags_of_another_silo,
    two_halves,
)
from tests.integration.test_lying_coordinator import FalseSum, asks_for_one_update

NAMES = ("bob", *(f"silo-{index:02d}" for index in range(63)))
FOLD_MEMBERS = 8


def transparent(keys: LyingKeys, fields: Any, packing: Packing, plan: str, silo: str) -> Protected:
    """Zero bytes for a ciphertext, under true tags."""
    made = keys.real.protect(fields, packing, plan=plan, silo=silo)
    return Protected([bytes(ring.FRESH_BYTES)] * packing.chunks, made.tags)


CIPHERTEXT: dict[str, Any] = {
    function.__name__: protecting(function)
    for function in (
        another_update, false_tag, tags_of_another_plan, tags_of_another_silo, half_integer, another_key, transparent,
    )
}  # fmt: skip
OTHERS: dict[str, Any] = {
    "accuses everybody": answering(lambda silo: False),
    "vouches for everybody": answering(lambda silo: True),
    "refuses every sum": {"scheme": RefusingScheme},
    "opposite chunks": protecting(opposite_chunks),
}
KINDS = CIPHERTEXT | OTHERS


class Decryptions:
    """Every ciphertext that is decrypted, compared with what the log and the committed words make of this phase."""

    def __init__(self, federation: Bench) -> None:
        self._federation = federation
        self._allowed: dict[tuple[int, Phase], set[str]] = {}
        self.seen: dict[Phase, int] = {}
        self.foreign: list[tuple[int, Phase]] = []

    def note(self, words: ring.Words) -> None:
        history = self._federation.history
        where = (len(history.rounds), history.phase)
        if where not in self._allowed:
            self._allowed[where] = {_digest(chunk) for chunk in self._of_phase(history)}
        self.seen[history.phase] = self.seen.get(history.phase, 0) + 1
        if _digest(words) not in self._allowed[where]:
            self.foreign.append(where)

    def _of_phase(self, history: History) -> Iterable[NDArray[np.uint64]]:
        view = history.round
        if history.phase is Phase.VERIFYING:
            sources = [self._committed(silo) for silo in view.weights]
            return ring.weighted_sum(sources, list(view.weights.values()))
        if history.phase in (Phase.CHECKING, Phase.RECHECKING):
            return self._folds(view.openings, history.opening_rows, history.packing)
        if history.phase is Phase.TRACE_CHECKING:
            return self._folds(view.weights, history.trace_rows, history.packing)
        return []

    def _folds(self, silos: Iterable[str], rows: NDArray[np.int8], packing: Packing) -> Iterable[NDArray[np.uint64]]:
        for row in rows:
            members = np.flatnonzero(row)
            alone = len(members) == 1 and packing.exact_output and members[0] >= packing.body_chunks
            assert alone or len(members) >= FOLD_MEMBERS
        return [folded for silo in silos for folded in ring.fold(self._committed(silo), rows)]

    def _committed(self, silo: str) -> list[ring.Words]:
        service = self._federation.service
        return list(service._words(service.history.round.commits[silo].ciphertext))


def _digest(words: ring.Words) -> str:
    return hashlib.sha256(ring.to_bytes(words)).hexdigest()


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Any:
    def start(federation: Bench) -> Decryptions:
        watcher, real = Decryptions(federation), CkksKey.decrypt_all

        def noted(key: CkksKey, chunks: Sequence[bytes]) -> Any:
            for chunk in chunks:
                watcher.note(ring.parse_chunk(chunk))
            return real(key, chunks)

        monkeypatch.setattr(CkksKey, "decrypt_all", noted)
        return watcher

    return start


def _false_answers(history: History, liars: dict[str, str]) -> set[str]:
    """Silos that signed, on record, that an honest silo lied or that a ciphertext liar did not."""
    found = set()
    for view in history.rounds:
        records = [view.recheck, view.decision]
        for signed in (one for record in records if record is not None for one in record.checks):
            for answer in decode(Answers, signed.body).answers:
                truth = liars.get(answer.silo) not in CIPHERTEXT
                if liars.get(answer.silo) != "opposite chunks" and answer.ok != truth:
                    found.add(signed.signer)
    return found


def _opposites_seen(history: History) -> bool:
    """Whether the first round's folds told the two chunks apart (they agree in all folds with 2^-F)."""
    from crypto import sketch

    packing = history.packing
    signs = sketch.signs(history.rounds[0].seed, packing.folds, packing.body_chunks)
    return not bool((signs[:, 0] == signs[:, 1]).all())


def _checks_somebody(history: History, silo: str) -> bool:
    """Whether the first round drew the silo as a checker: with eight silos it does in all but about one of fifty."""
    view = history.rounds[0]
    return any(silo in drawn for drawn in duties(view.seed, tuple(sorted(view.openings))).values())


def _draw(seed: int, silos: int) -> dict[str, str]:
    rng = np.random.default_rng([seed, silos])
    count = 1 if silos < 7 else int(rng.integers(1, 3)) if silos < 9 else int(rng.integers(1, 4))
    # With four silos three votes are all that there are: a lone accuser is outvoted and not convicted.
    kinds = sorted(CIPHERTEXT if silos < 5 else KINDS)
    return {str(name): str(rng.choice(kinds)) for name in rng.choice(NAMES[:silos], count, replace=False)}


LARGEST = pytest.param(64, 12, marks=[pytest.mark.nightly, pytest.mark.timeout(3600)])


@pytest.mark.parametrize(
    ("silos", "seed"), [(4, 1), (5, 2), (6, 3), (7, 4), (8, 5), (9, 6), (10, 7), (12, 8), (24, 9), LARGEST]
)
def test_honest_silos_are_never_convicted_and_liars_are_and_nothing_else_is_decrypted(
    tmp_path: Path, watch: Any, silos: int, seed: int
) -> None:
    liars = _draw(seed, silos)
    toy = {"toy": test_lying_silos.task_with_exact_output()} if seed % 2 else {"folds": 2 + seed % 3}
    seats = {name: dict(KINDS[kind]) for name, kind in liars.items()}
    if seed % 2:
        padded = {"trainer": test_lying_silos.Padded}
        seats = {name: padded | seats.get(name, {}) for name in NAMES[:silos]}
    federation = bench(tmp_path, seats, rounds=1, silos=NAMES[:silos], **toy)
    decryptions = watch(federation)
    history = federation.run()
    assert decryptions.foreign == []
    assert decryptions.seen[Phase.CHECKING] > 0 < decryptions.seen[Phase.VERIFYING]
    assert set(history.convicted) <= set(liars), liars
    (outcome,) = outcomes(history)
    assert outcome.result == "adopted"
    assert not outcome.convicted
    must = {name for name, kind in liars.items() if kind in CIPHERTEXT} | _false_answers(history, liars)
    must |= {name for name, kind in liars.items() if kind == "opposite chunks" and _opposites_seen(history)}
    assert set(history.convicted) == must, liars
    assert not must & set(history.round.weights)
    for name, kind in liars.items():
        if kind == "refuses every sum":
            assert "Halted" in federation.said(name)


def test_watcher_sees_a_ciphertext_that_is_not_the_one_sum(tmp_path: Path, watch: Any) -> None:
    service = type("False_", (FalseSum,), {"lie": staticmethod(asks_for_one_update)})
    federation = bench(tmp_path, rounds=1, service=service)
    decryptions = watch(federation)
    federation.until(lambda history: bool(outcomes(history)))
    assert set(decryptions.foreign) == {(1, Phase.VERIFYING)}


@pytest.mark.parametrize("other", ["false_tag", "accuses everybody", "transparent"])
def test_liar_that_passes_the_folds_is_convicted_after_one_void_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: Any, other: str
) -> None:
    """Two halves hide in the folds; a second liar of another kind is convicted before. Equal weights show them.

    A small model is traced by four folds, so that one trace in sixteen finds nobody and the blame falls on the sum.
    """
    rules = {"total_weight": 1015, "floor_micro": MICRO, "cap_micro": MICRO}
    liars = {"bob": protecting(two_halves), "silo-03": dict(KINDS[other])}
    federation = bench(tmp_path, liars, rounds=2, silos=NAMES[:8], **rules)
    test_lying_silos._adapt_sketches(federation, monkeypatch)
    decryptions = watch(federation)
    history = federation.until(lambda state: len(outcomes(state)) >= 1)
    (void,) = outcomes(history)
    assert decryptions.foreign == []
    if other == "accuses everybody" and not _checks_somebody(history, "silo-03"):
        # It accused nobody, and eight equal weights do not sum to 1015.
        assert (void.result, void.fault, history.convicted) == ("void", "none", {})
        return
    fault, convicted = ("sum", []) if halves_hidden(history) else ("silo", ["bob"])
    assert (void.result, void.fault, [one.silo for one in void.convicted]) == ("void", fault, convicted)
    assert decryptions.seen[Phase.TRACE_CHECKING] > 0
    assert set(history.convicted) == {"silo-03", *convicted}
