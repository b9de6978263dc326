"""Every silo that lies is found by the others, and the honest are not harmed."""

from __future__ import annotations

import dataclasses
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.history import History
from crypto import sketch
from protos.codec import decode, unpack
from protos.messages import Refusal, Signed, TraceOpening
from protos.rounds import Phase
from protos.task import MICRO, Layout, Task
from silo import checking
from silo.gaussian import gaussian
from silo.link import Unreachable
from silo.trainer import trainer_for
from tests.integration.bench import Bench, WatchedLink, bench, closed, in_phase, outcomes, where_drawn
from tests.integration.federation import SILOS, task
from tests.integration.liars import (
    RefusingScheme,
    ReplayingScheme,
    another_key,
    another_update,
    answering,
    exaggerating,
    false_tag,
    half_integer,
    halves_hidden,
    opposite_chunks,
    protecting,
    tags_of_another_plan,
    tags_of_another_silo,
    trainer_that_gives,
    two_halves,
)

LIAR = "bob"
HONEST = tuple(name for name in SILOS if name != LIAR)


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
def task_with_exact_output(rounds: int = 1) -> tuple[Task, bytes]:
    """The toy task with 160 coordinates of body before its 39 of output, so that the output is opened exactly."""
    toy, _ = task(rounds, 2)
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
    federation = bench(tmp_path, seats, rounds=1, toy=task_with_exact_output())
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
    values = update.values.astype(np.int64)
    values[place] = amount
    lie = dataclasses.replace(update, values=values)
    vars(workspace)["load_update"] = lambda number: lie


def test_halves_that_the_folds_cancel_void_one_round_and_the_trace_convicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two halves make whole numbers in every fold; equal weights of 203 make them show in the sum."""
    rules = {"total_weight": 1015, "floor_micro": MICRO, "cap_micro": MICRO}
    federation = bench(tmp_path, {LIAR: protecting(two_halves)}, rounds=1, **rules)
    _adapt_sketches(federation, monkeypatch)
    history = federation.until(closed(1))
    void, first = outcomes(history)[0], history.rounds[0]
    assert first.recheck is None
    assert LIAR in first.weights
    fault, convicted = ("sum", []) if halves_hidden(history) else ("silo", [LIAR])
    assert (void.result, void.fault, [one.silo for one in void.convicted]) == ("void", fault, convicted)
    assert first.trace is not None
    assert {decode(Refusal, signed.body).check for signed in first.trace.refusals} == {"whole"}
    assert history.model == federation.task.initial_model
    assert list(history.convicted) == convicted


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
    accuser = {LIAR: answering(lambda silo: False)}
    history = where_drawn(tmp_path, lambda directory: bench(directory, accuser, rounds=1), LIAR).run()
    assert history.round.recheck is not None
    assert set(history.convicted) == {LIAR}
    assert set(history.round.weights) == set(HONEST)


def test_checker_that_turns_to_the_truth_in_the_recheck_is_convicted_for_its_first_answer(tmp_path: Path) -> None:
    phase = [Phase.CHECKING]
    accuser = {LIAR: answering(lambda silo: False if phase[0] is Phase.CHECKING else None)}
    federation = where_drawn(tmp_path, lambda directory: bench(directory, accuser, rounds=1), LIAR)
    federation.turn()
    phase[0] = federation.history.phase
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
    accuser = {LIAR: answering(lambda silo: False)}
    federation = where_drawn(tmp_path, lambda directory: bench(directory, accuser, rounds=1), LIAR)
    for name in HONEST:
        federation.link(name).down = True
    history = federation.until(lambda state: state.round.decision is not None or bool(outcomes(state)))
    assert history.round.recheck is not None
    assert history.convicted == {}


def test_false_sketch_for_which_every_checker_vouched_voids_the_round_and_the_trace_convicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sum is true and its tags hold; only the prediction from the sketches fails, so the trace asks the tags."""
    federation = bench(tmp_path, rounds=1)
    federation.until(in_phase(Phase.OPENING))
    honest, real = sketch.sketch, checking.bears_out

    def false(*arguments: Any) -> Any:
        folds, output = honest(*arguments)
        folds[0, 0] += 1
        return folds, output

    with monkeypatch.context() as patch:
        patch.setattr(sketch, "sketch", false)
        federation._step(LIAR)

    def vouching(desk: Any, history: History, subject: str) -> bool:
        return history.phase is not Phase.TRACE_CHECKING or real(desk, history, subject)

    monkeypatch.setattr(checking, "bears_out", vouching)
    history = federation.until(closed(1))
    assert history.round.trace is not None
    assert {decode(Refusal, signed.body).check for signed in history.round.trace.refusals} == {"sketch"}
    assert (outcomes(history)[0].fault, set(history.convicted)) == ("silo", {LIAR})


def test_silo_that_falsely_refuses_an_honest_sum_stops_only_itself(tmp_path: Path) -> None:
    federation = bench(tmp_path, {LIAR: {"scheme": RefusingScheme}}, rounds=2)
    history = federation.run()
    first, second = outcomes(history)
    assert (first.result, first.convicted) == ("adopted", ())
    assert {signed.signer for signed in first.refusals} == {LIAR}
    assert {signed.signer for signed in first.adoptions} == set(HONEST)
    assert "Halted: a check of the sum of round 1 failed here" in federation.said(LIAR)
    assert (second.result, set(history.round.weights)) == ("adopted", set(HONEST))


def test_liar_that_withholds_its_trace_gets_no_more_than_three_sums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can be blamed for a trace that is incomplete, so an operator has to look."""
    rules = {"total_weight": 1015, "floor_micro": MICRO, "cap_micro": MICRO}
    federation = bench(tmp_path, {LIAR: protecting(two_halves)}, rounds=9, **rules)
    link = federation.link(LIAR)
    real = link.submit

    def without_trace(message: bytes) -> Any:
        if unpack(Signed, message).body["kind"] == TraceOpening.KIND:
            raise Unreachable("not today")
        return real(message)

    monkeypatch.setattr(link, "submit", without_trace)
    _adapt_sketches(federation, monkeypatch)
    history = federation.until(closed(3))
    federation.turns(5)
    assert [(one.result, one.fault, one.convicted) for one in outcomes(history)] == [("void", "none", ())] * 3
    assert all("trace is incomplete: ['bob']" in one.reason for one in outcomes(history))
    assert history.model == federation.task.initial_model
    assert history.halted
    assert all("Halted" in federation.said(name) for name in HONEST)


def _adapt_sketches(federation: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The liar says of every opening what its two halves make of the folds."""
    honest = sketch.sketch
    name = [""]

    def adapted(fields: Any, packing: Any, signs: Any) -> Any:
        folds, output = honest(fields, packing, signs)
        if name[0] == LIAR:
            folds[:, 0] += (signs[:, 0].astype(np.int32) - signs[:, 1]) // 2
        return folds, output

    step = federation._step

    def named(silo: str) -> Any:
        name[0] = silo
        return step(silo)

    monkeypatch.setattr(sketch, "sketch", adapted)
    monkeypatch.setattr(federation, "_step", named)


# Training


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        (lambda made: made * np.nan, "NaN or infinity"),
        (lambda made: np.where(np.arange(made.size) == 3, np.inf, made), "NaN or infinity"),
        (lambda made: made[:-1], "39 integers are needed"),
        (lambda made: made.reshape(3, 13), "one float64 vector"),
    ],
    ids=["nan", "inf", "short", "matrix"],
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
