"""A record that says anything else than what the log leads to does not verify, whichever field was altered."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit import replay
from audit.errors import BrokenLog, InvalidRecord
from audit.files import LogFile
from audit.history import History
from protos.codec import decode, encode, pack, unpack
from protos.records import (
    Challenge,
    Conviction,
    CountsRecord,
    DealRecord,
    Decision,
    Epoch,
    Openings,
    Outcome,
    Plan,
    Recheck,
    Record,
    Roster,
    Score,
    Sum,
    Trace,
    TraceOpenings,
    body_class,
)
from protos.rounds import Phase
from tests.integration.bench import bench, outcomes
from tests.integration.federation import SILOS
from tests.integration.liars import false_tag, protecting
from tests.integration.test_lying_coordinator import FalseSum, doubles_one
from tests.integration.test_lying_silos import Padded, task_with_exact_output

pytestmark = pytest.mark.integration

LIAR = "bob"
Step = tuple[History, Any]


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Step]:
    """By kind of record: the history before the last one of a run with recheck, trace and an adopted round."""
    lie = type("False_", (FalseSum,), {"lie": staticmethod(doubles_one)})
    directory: Path = tmp_path_factory.mktemp("replay")
    federation = bench(directory, {LIAR: protecting(false_tag)}, rounds=1, service=lie)
    federation.until(lambda history: bool(outcomes(history)))
    federation.close()
    found: dict[Any, Step] = {}
    history = History()
    for data in LogFile(directory / "log.jsonl").records():
        body = unpack(Record, data).body
        cls = body_class(body)
        found[cls] = (copy.deepcopy(history), decode(cls, body))
        history.apply(data)
    return found


@pytest.fixture(scope="module")
def adopted(tmp_path_factory: pytest.TempPathFactory) -> Step:
    """The history before an outcome that adopts, and the outcome."""
    directory: Path = tmp_path_factory.mktemp("adopted")
    federation = bench(directory, rounds=1)
    federation.run()
    federation.close()
    history = History()
    for data in LogFile(directory / "log.jsonl").records():
        body = unpack(Record, data).body
        if body["kind"] == Outcome.KIND:
            return history, decode(Outcome, body)
        history.apply(data)
    raise AssertionError("no outcome")


def assert_refused(step: Step, change: Callable[[Any], Any], reason: str | None = None) -> None:
    """The altered record is refused, nothing has changed, and the true one is taken."""
    history, body = copy.deepcopy(step)
    altered = change(body)
    assert altered != body
    before = (history.chain.digest, history.phase, len(history.rounds), dict(history.convicted))
    with pytest.raises(InvalidRecord, match=reason) as caught:
        history.apply(history.chain.next_record(altered, 1))
    assert "\n" not in str(caught.value)
    assert (history.chain.digest, history.phase, len(history.rounds), dict(history.convicted)) == before
    history.apply(history.chain.next_record(body, 1))


def changed(**fields: Any) -> Callable[[Any], Any]:
    return lambda body: dataclasses.replace(body, **fields)


def judged(place: int, **fields: Any) -> Callable[[Decision], Decision]:
    def change(body: Decision) -> Decision:
        judgements = list(body.judgements)
        judgements[place] = dataclasses.replace(judgements[place], **fields)
        return dataclasses.replace(body, judgements=tuple(judgements))

    return change


def scored(**fields: Any) -> Callable[[Decision], Decision]:
    def change(body: Decision) -> Decision:
        first, *rest = body.judgements[0].scores
        return judged(0, scores=(dataclasses.replace(first, **fields), *rest))(body)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (changed(round=2), "wrong round"),
        (changed(defense="plain"), "another defence"),
        (changed(convicted=()), "convictions do not follow"),
        (changed(convicted=(Conviction("ada", "she lies"),)), "convictions do not follow"),
        (changed(judgements=()), "not the opened ones"),
        (judged(0, weight=0), "do not adopt"),
        (judged(0, weight=1024), "do not adopt"),
        (judged(0, verdict="excluded"), "do not adopt"),
        (judged(0, verdict="suspected"), "do not adopt"),
        (judged(0, reason="because"), "do not adopt"),
        (judged(0, count=7), "count is not the released one"),
        (judged(0, silo="zoe"), "not the opened ones"),
        (judged(0, scores=()), "list of scores"),
        (judged(1, verdict="retained"), "do not adopt"),
        (judged(1, weight=200), "do not adopt"),
        (scored(name="other"), "list of scores"),
        (scored(value_micro=7_000_000_000), "cannot be repeated"),
        (scored(evidence_micro=999_000_000), "cannot be repeated"),
    ],
)
def test_decision_with_an_altered_field_is_refused(steps: dict[Any, Step], change: Any, reason: str) -> None:
    assert_refused(steps[Decision], change, reason)


def test_decision_with_swapped_silos_is_refused(steps: dict[Any, Step]) -> None:
    assert_refused(steps[Decision], lambda body: dataclasses.replace(body, judgements=body.judgements[::-1]))


def test_score_within_float_noise_verifies(steps: dict[Any, Step]) -> None:
    history, body = steps[Decision]
    value = body.judgements[0].scores[0].value_micro
    nudged = scored(value_micro=value + 1)(body)
    copy.deepcopy(history).apply(history.chain.next_record(nudged, 1))


def test_recorded_decision_is_what_the_log_leads_to(steps: dict[Any, Step]) -> None:
    history, body = steps[Decision]
    assert replay.derive_decision(history, body.checks) == body
    assert {one.silo: one.verdict for one in body.judgements}[LIAR] == "convicted"
    assert isinstance(body.judgements[0].scores[0], Score)


def test_decision_without_the_recheck_that_a_no_asks_for_is_refused(steps: dict[Any, Step]) -> None:
    history, recheck = steps[Recheck]
    early = replay.derive_decision(history, recheck.checks)
    with pytest.raises(InvalidRecord, match="every silo has to check first"):
        history.apply(history.chain.next_record(early, 1))


@pytest.mark.parametrize("field", ["adoptions", "refusals", "checks", "late", "convicted", "fault", "reason", "model"])
def test_outcome_of_a_trace_with_an_altered_field_is_refused(steps: dict[Any, Step], field: str) -> None:
    _, body = steps[Outcome]
    assert (body.result, body.fault) == ("void", "sum")
    _, trace = steps[Trace]
    value = {
        "adoptions": trace.refusals, "refusals": trace.refusals, "checks": (), "late": ("ada",),
        "convicted": (Conviction("ada", "she lies"),), "fault": "none", "reason": "it rained", "model": "5" * 64,
    }[field]  # fmt: skip
    assert_refused(steps[Outcome], changed(**{field: value}))


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "5" * 64}, {"late": ("ada",)}, {"fault": "sum"}, {"round": 2}, {"adoptions": ()},
        {"convicted": (Conviction("ada", "she lies"),)}, {"result": "void"}, {"fault": "silo", "result": "void"},
    ],
    ids=str,
)  # fmt: skip
def test_outcome_that_adopts_with_an_altered_field_is_refused(adopted: Step, fields: dict[str, Any]) -> None:
    assert_refused(adopted, changed(**fields))


def test_minority_cannot_adopt(adopted: Step) -> None:
    history, body = adopted
    assert len(body.adoptions) == 5
    late = tuple(signed.signer for signed in body.adoptions[2:])
    assert_refused(adopted, changed(adoptions=body.adoptions[:2], late=late), "fewer than half")
    majority = changed(adoptions=body.adoptions[:3], late=tuple(signed.signer for signed in body.adoptions[3:]))
    copy.deepcopy(history).apply(history.chain.next_record(majority(body), 1))


ALTERED: list[tuple[Any, dict[str, Any], str]] = [
    (Roster, {"epoch": 2}, "next key epoch"),
    (Roster, {"attempt": 2}, "attempt"),
    (Roster, {"steward": "zoe"}, "steward must be a member"),
    (Roster, {"members": SILOS[:2]}, "fewer than the quorum"),
    (Roster, {"members": SILOS[::-1]}, "sorted"),
    (Roster, {"members": ("ada", "ada", "bob", "cyd")}, "sorted"),
    (Roster, {"members": (*SILOS, "zoe")}, "only enrolled"),
    (Epoch, {"epoch": 2}, "not the roster's"),
    (Epoch, {"checks": ()}, "every member"),
    (CountsRecord, {"counts": ()}, "missing"),
    (Plan, {"round": 2}, "not the one"),
    (Plan, {"quorum": 3}, "not the one"),
    (Challenge, {"nonce": "0" * 64}, "nonce"),
    (Challenge, {"late": ("bob",)}, "late silos"),
    (Challenge, {"commitments": ()}, "late silos"),
    (Openings, {"withdrawn": ("bob",)}, "withdrawn"),
    (Openings, {"openings": ()}, "withdrawn"),
    (Recheck, {"subjects": ()}, "subjects"),
    (Recheck, {"subjects": ("ada",)}, "subjects"),
    (Recheck, {"checks": ()}, "subjects"),
    (Sum, {"round": 2}, "wrong round"),
    (Trace, {"refusals": ()}, "nothing to trace"),
    (TraceOpenings, {"withdrawn": ("ada",)}, "withdrawn"),
    (TraceOpenings, {"openings": ()}, "withdrawn"),
]


@pytest.mark.parametrize(("cls", "fields", "reason"), ALTERED)
def test_any_other_record_with_an_altered_field_is_refused(
    steps: dict[Any, Step], cls: Any, fields: dict[str, Any], reason: str
) -> None:
    assert_refused(steps[cls], changed(**fields), reason)


SIGNED = {
    Epoch: "checks", CountsRecord: "counts", Challenge: "commitments", Openings: "openings", Recheck: "checks",
    Decision: "checks", Trace: "refusals", TraceOpenings: "openings", Outcome: "checks",
}  # fmt: skip


@pytest.mark.parametrize("cls", SIGNED, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("tamper", ["signature", "signer", "body", "twice", "order"])
def test_message_in_a_record_must_be_the_signed_one(steps: dict[Any, Step], cls: Any, tamper: str) -> None:
    def change(body: Any) -> Any:
        first, second, *rest = getattr(body, SIGNED[cls])
        altered = {
            "signature": [dataclasses.replace(first, signature="0" * 128), second, *rest],
            "signer": [dataclasses.replace(first, signer="zoe"), second, *rest],
            "body": [dataclasses.replace(first, body=first.body | {"federation": "elsewhere"}), second, *rest],
            "twice": [first, first, second, *rest],
            "order": [second, first, *rest],
        }[tamper]
        return dataclasses.replace(body, **{SIGNED[cls]: tuple(altered)})

    assert_refused(steps[cls], change)


def test_deal_by_another_than_the_steward_is_refused(steps: dict[Any, Step]) -> None:
    assert_refused(
        steps[DealRecord], lambda body: DealRecord(dataclasses.replace(body.deal, signer="bob")), "not by the steward"
    )


@pytest.mark.parametrize("cls", [Challenge, Openings, Recheck, Decision, Sum, Trace, TraceOpenings, Outcome])
def test_record_that_the_table_omits_is_refused_in_every_phase(steps: dict[Any, Step], cls: Any) -> None:
    _, body = steps[cls]
    refused = 0
    for history, _ in steps.values():
        if history.phase not in {steps[other][0].phase for other in steps if other is cls}:
            try:
                history.apply(history.chain.next_record(body, 1))
            except InvalidRecord:
                refused += 1
                continue
            raise AssertionError(f"{cls.__name__} was taken in phase {history.phase.value}")
    assert refused >= 9


@pytest.mark.parametrize("phase", [Phase.COMMITTING, Phase.OPENING, Phase.SUMMING, Phase.VERIFYING])
def test_void_outcome_that_accuses_without_a_trace_is_refused(steps: dict[Any, Step], phase: Phase) -> None:
    history = next(before for before, _ in steps.values() if before.phase is phase)
    _, traced = steps[Outcome]
    plain = Outcome(1, "void", history.model, (), (), (), (), (), "none", "it rained")
    for fields in (
        {"convicted": (Conviction("ada", "she lies"),)},
        {"fault": "sum"},
        {"fault": "silo"},
        {"checks": traced.checks},
        {"model": "5" * 64},
        {"late": ("zoe",)},
    ):
        with pytest.raises(InvalidRecord):
            history.apply(history.chain.next_record(dataclasses.replace(plain, **fields), 1))


def test_round_void_for_want_of_a_quorum_must_name_enough_late_silos(steps: dict[Any, Step]) -> None:
    history, _ = steps[Challenge]
    plain = Outcome(1, "void", history.model, (), (), (), (), (), "none", "too few")
    for late in ((), ("ada",), ("bob", "ada"), ("ada", "zoe")):
        with pytest.raises(InvalidRecord, match="late"):
            history.apply(history.chain.next_record(dataclasses.replace(plain, late=late), 1))
    fresh = copy.deepcopy(history)
    fresh.apply(fresh.chain.next_record(dataclasses.replace(plain, late=("ada", "bob")), 1))
    assert fresh.phase is Phase.IDLE
    assert fresh.model == history.model


def test_bytes_that_are_no_record_change_nothing(steps: dict[Any, Step]) -> None:
    history, body = steps[Plan]
    good = history.chain.next_record(body, 1)
    record = unpack(Record, good)
    bad = [
        b"", b"{}", good[:-1], good + b" ", pack(dataclasses.replace(record, sequence=record.sequence + 1)),
        pack(dataclasses.replace(record, previous="0" * 64)),
    ]  # fmt: skip
    for data in bad:
        with pytest.raises(BrokenLog):
            history.apply(data)
    for kind in (None, "concordat/plan/v2", 5):
        with pytest.raises(InvalidRecord):
            history.apply(pack(dataclasses.replace(record, body=encode(body) | {"kind": kind})))
    copy.deepcopy(history).apply(good)


def test_defence_is_given_what_the_last_decided_rounds_showed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, given = replay.score, {}

    def watched(setting: Any, exhibits: Any, name: str, convicted: Any, history: Any) -> Any:
        given[len(federation.history.rounds)] = history
        return real(setting, exhibits, name, convicted, history)

    monkeypatch.setattr(replay, "score", watched)
    monkeypatch.setattr(replay, "WINDOW", 1)
    seats = {name: {"trainer": Padded} for name in SILOS}
    federation = bench(tmp_path, seats, rounds=3, toy=task_with_exact_output(3))
    history = federation.until(lambda state: len(state.rounds) == 3 and state.round.decision is not None)
    assert given[1] == ()
    for number in (2, 3):
        (earlier,), view = given[number], history.rounds[number - 2]
        assert view.decision is not None
        assert earlier.judgements == view.decision.judgements
        assert earlier.setting.steps == view.plan.training.steps
        assert list(earlier.outputs) == sorted(view.weights)
        for silo, output in earlier.outputs.items():
            assert output.tolist() == replay.exhibit_of(history, silo, view.openings[silo]).output.tolist()
            assert output.size == history.packing.output_size > 0
