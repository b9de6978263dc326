"""Every silo that lies is found by the others, and the honest are not harmed."""

from __future__ import annotations

import dataclasses
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit import votes
from audit.history import History
from coordinator.errors import RejectedMessage
from crypto import merkle, ring, sketch
from crypto.identity import sign
from protos.codec import decode, pack, unpack
from protos.messages import Answers, Commit, Opening, Refusal, Signed
from protos.rounds import Phase
from protos.task import MICRO, Layout, Task
from silo.gaussian import gaussian
from silo.trainer import trainer_for
from tests.integration.bench import Bench, WatchedLink, bench, closed, outcomes
from tests.integration.federation import SILOS, task
from tests.integration.liars import (
    ReplayingScheme,
    another_key,
    another_update,
    answering,
    exaggerating,
    false_tag,
    half_integer,
    opposite_chunks,
    protecting,
    tags_of_another_plan,
    tags_of_another_silo,
    trainer_that_gives,
    two_halves,
)

LIAR = "bob"
HONEST = tuple(name for name in SILOS if name != LIAR)


def in_phase(phase: Phase) -> Any:
    return lambda history: history.phase is phase


def assert_only_the_liar_is_convicted(history: History) -> None:
    assert set(history.convicted) == {LIAR}
    assert LIAR not in history.round.weights


@pytest.mark.parametrize(
    "lie",
    [another_update, false_tag, tags_of_another_plan, tags_of_another_silo, half_integer, another_key],
    ids=lambda lie: lie.__name__,
)
def test_ciphertext_that_does_not_bear_out_its_opening_convicts_before_the_decision(tmp_path: Path, lie: Any) -> None:
    history = bench(tmp_path, {LIAR: protecting(lie)}, rounds=1).run()
    assert_only_the_liar_is_convicted(history)
    assert outcomes(history)[0].result == "adopted"
    assert history.round.decision is not None
    (judgement,) = [one for one in history.round.decision.judgements if one.silo == LIAR]
    assert (judgement.verdict, judgement.weight) == ("convicted", 0)
    assert "does not bear out" in judgement.reason


def test_ciphertext_of_an_earlier_round_convicts(tmp_path: Path) -> None:
    federation = bench(tmp_path, {LIAR: {"scheme": ReplayingScheme}}, rounds=2)
    federation.until(closed(1))
    assert federation.history.convicted == {}
    assert_only_the_liar_is_convicted(federation.run())


def test_large_field_in_the_body_convicts_even_with_its_true_sketch(tmp_path: Path) -> None:
    federation = bench(tmp_path, {LIAR: exaggerating(0, 5000)}, rounds=1)
    federation.until(in_phase(Phase.OPENING))
    _sketch_truly(federation, 0, 5000)
    history = federation.run()
    assert_only_the_liar_is_convicted(history)
    assert outcomes(history)[0].result == "adopted"


@lru_cache
def _task_with_exact_output() -> tuple[Task, bytes]:
    """The toy task with 160 coordinates of body before its 39 of output, so that the output is opened exactly."""
    toy, _ = task(1, 2)
    layout = toy.layout
    padded = Layout((), 160 + layout.size, 160, layout.size, layout.embedding, layout.classes, layout.permutation)
    model = bytes(4 * padded.size)
    return dataclasses.replace(toy, layout=padded, initial_model=hashlib.sha256(model).hexdigest()), model


class Padded:
    """The linear trainer behind 160 coordinates that are only noise."""

    def __init__(self, made_for: Task, records: Any, entropy: Any) -> None:
        self._real, self._entropy = trainer_for(task(1, 2)[0], records, entropy), entropy

    def train(self, model: Any, training: Any, count: int) -> Any:
        rate = training.learning_rate_micro / MICRO / (training.sample_rate_micro / MICRO * count)
        noise = gaussian(160, self._entropy) * rate * training.noise_micro / MICRO * training.clip_micro / MICRO
        return np.concatenate([noise, self._real.train(model[160:], training, count)])

    def embed(self, model: Any) -> Any:
        return self._real.embed(model[160:])

    def evaluate(self, model: Any) -> Any:
        return self._real.evaluate(model[160:])


@pytest.mark.parametrize("amount", [0, 200])
def test_field_of_200_in_the_exact_output_layer_convicts(tmp_path: Path, amount: int) -> None:
    seats: dict[str, Any] = {name: {"trainer": Padded} for name in SILOS}
    if amount:
        seats[LIAR] |= exaggerating(170, amount)
    federation = bench(tmp_path, seats, rounds=1, toy=_task_with_exact_output())
    federation.until(in_phase(Phase.OPENING))
    assert federation.history.packing.exact_output
    if amount:
        _sketch_truly(federation, 170, amount)
    history = federation.run()
    assert set(history.convicted) == ({LIAR} if amount else set())
    assert outcomes(history)[0].result == "adopted"


def _sketch_truly(federation: Bench, place: int, amount: int) -> None:
    workspace = federation.sessions[LIAR].workspace
    update = workspace.load_update(1)
    assert update is not None
    values = update.values.copy()
    values[place] = amount
    workspace._write("round-1.update", [values.astype("<i2").tobytes()])


def test_halves_that_the_folds_cancel_void_one_round_and_the_trace_convicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two halves make whole numbers in every fold; equal weights of 203 make them show in the sum."""
    rules = {"total_weight": 1015, "floor_micro": MICRO, "cap_micro": MICRO}
    federation = bench(tmp_path, {LIAR: protecting(two_halves)}, rounds=1, **rules)
    federation.until(in_phase(Phase.OPENING))
    honest = sketch.sketch

    def adapted(fields: Any, packing: Any, signs: Any) -> Any:
        folds, output = honest(fields, packing, signs)
        folds[:, 0] += (signs[:, 0].astype(np.int32) - signs[:, 1]) // 2
        return folds, output

    with monkeypatch.context() as patch:
        patch.setattr(sketch, "sketch", adapted)
        federation._step(LIAR)
    history = federation.until(closed(1))
    void, first = outcomes(history)[0], history.rounds[0]
    assert first.recheck is None
    assert LIAR in first.weights
    assert (void.result, void.fault, [one.silo for one in void.convicted]) == ("void", "silo", [LIAR])
    assert first.trace is not None
    assert {decode(Refusal, signed.body).check for signed in first.trace.refusals} == {"whole"}
    assert history.model == federation.task.initial_model
    assert set(history.convicted) == {LIAR}


def test_opposite_chunks_pass_the_folds_at_most_as_often_as_their_signs_agree(tmp_path: Path) -> None:
    federation = bench(tmp_path, {LIAR: protecting(opposite_chunks)}, rounds=1, folds=2)
    history = federation.until(closed(1))
    signs = history.opening_rows
    hidden = bool((signs[:, 0] == signs[:, 1]).all())
    assert (LIAR in history.convicted) != hidden
    assert set(history.convicted) <= {LIAR}
    assert outcomes(history)[0].result == "adopted"


# Checkers


def test_checker_that_accuses_an_honest_silo_is_outvoted_and_convicted(tmp_path: Path) -> None:
    federation = bench(tmp_path, {LIAR: answering(lambda silo: False)}, rounds=1)
    history = federation.run()
    assert history.round.recheck is not None
    assert set(history.convicted) == {LIAR}
    assert set(history.round.weights) == set(HONEST)


def test_checker_that_turns_to_the_truth_in_the_recheck_is_convicted_for_its_first_answer(tmp_path: Path) -> None:
    federation = bench(tmp_path, {LIAR: answering(lambda silo: False if first() else None)}, rounds=1)

    def first() -> bool:
        return federation.sessions[LIAR].history.phase is Phase.CHECKING

    history = federation.run()
    assert history.round.recheck is not None
    assert set(history.convicted) == {LIAR}
    assert set(history.round.weights) == set(HONEST)


def test_checker_that_covers_for_a_liar_is_convicted_with_it(tmp_path: Path) -> None:
    friends = {LIAR: protecting(false_tag), "dan": answering(lambda silo: True)}
    history = bench(tmp_path, friends, rounds=1).run()
    assert set(history.convicted) == {LIAR, "dan"}
    assert set(history.round.weights) == set(SILOS) - {LIAR, "dan"}
    assert outcomes(history)[0].result == "adopted"


def test_lone_accuser_whom_nobody_else_answers_convicts_nobody(tmp_path: Path) -> None:
    federation = bench(tmp_path, {LIAR: answering(lambda silo: False)}, rounds=1)
    federation.until(in_phase(Phase.CHECKING))
    accused = set(votes.duties(federation.history.round.seed, SILOS))
    assert accused == set(SILOS)
    for name in HONEST:
        federation.link(name).down = True
    history = federation.until(lambda state: state.round.decision is not None or bool(outcomes(state)))
    assert history.convicted == {}


def test_silo_that_falsely_refuses_an_honest_sum_stops_only_itself(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=1)
    federation.until(in_phase(Phase.VERIFYING))
    history = federation.history
    refusal = Refusal(history.genesis.federation, history.round.sum_digest, "tags")
    _say(federation, LIAR, refusal)
    federation.link(LIAR).down = True
    federation.run()
    (outcome,) = outcomes(history)
    assert (outcome.result, outcome.convicted) == ("adopted", ())
    assert {signed.signer for signed in outcome.refusals} == {LIAR}
    assert {signed.signer for signed in outcome.adoptions} == set(HONEST)


# Messages


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
    from silo import duties

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
        (lambda chunks: [*chunks[:-1], chunks[-1][:-8]], "has 65536 bytes"),
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
    chunks = spoil([ring.to_bytes(np.arange(8192, dtype=np.uint64))] * 16)
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
    from silo import duties

    receipt = duties._charge_round(session.desk, federation.history.round.plan)
    folds = bytes(2 * 3 * 4)
    body = Opening("simulated", federation.history.round.challenge_digest, folds, b"", root, tags_of, sums, receipt)
    assert_refused(federation, LIAR, body, reason)
    history = federation.until(closed(1))
    assert history.round.withdrawn == (LIAR,)
    assert outcomes(history)[0].result == "adopted"


def test_uploaded_bytes_that_were_not_committed_to_are_refused(tmp_path: Path) -> None:
    from coordinator.errors import BadBlob

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
    federation = bench(tmp_path, rounds=1)
    federation.until(in_phase(Phase.CHECKING))
    history = federation.history
    assert_refused(federation, LIAR, Answers("simulated", history.round.openings_digest, ()), "exactly the silos")
    assert_refused(federation, LIAR, Answers("simulated", history.round.plan_digest, ()), "another record")


# Training


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        (lambda made: made * np.nan, "NaN or infinity"),
        (lambda made: np.where(np.arange(made.size) == 3, np.inf, made), "NaN or infinity"),
        (lambda made: made[:-1], "39 integers are needed"),
        (lambda made: made.reshape(3, 13), "one float64 vector"),
        (lambda made: made.astype(np.float32), "one float64 vector"),
    ],
    ids=["nan", "inf", "short", "matrix", "float32"],
)
def test_update_that_is_none_is_one_clear_error_at_the_silo(tmp_path: Path, update: Any, reason: str) -> None:
    federation = bench(tmp_path, {LIAR: trainer_that_gives(update)}, rounds=1)
    federation.until(in_phase(Phase.OPENING))
    history = federation.history
    assert history.round.challenge is not None
    assert history.round.challenge.late == (LIAR,)
    first = federation.errors[LIAR][0]
    assert first.startswith("SiloError: ")
    assert reason in first
    assert "\n" not in first
    session = federation.sessions[LIAR]
    assert session.journal.message(history.round.plan_digest) in (None, b"")
    assert session.workspace.load_update(1) is None
    assert session.desk.ledger.release("round-1") is None


def test_boosted_update_is_excluded_by_its_norm_and_nobody_is_convicted(tmp_path: Path) -> None:
    federation = bench(tmp_path, {LIAR: trainer_that_gives(lambda made: made * 30)}, rounds=1)
    history = federation.run()
    assert history.convicted == {}
    assert set(history.round.weights) == set(HONEST)
    assert isinstance(federation.link(LIAR), WatchedLink)
