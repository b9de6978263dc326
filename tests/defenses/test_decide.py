"""Contract of every registered defence, and of a decision that an auditor repeats from the log."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from defenses import registry
from defenses.decide import (
    conclude,
    decide,
    limits,
    reweigh,
    score,
    scores_differ,
    verify_judgements,
)
from defenses.errors import DefenseError, InfeasibleWeights, MalformedExhibit, UnknownDefense, WrongWeights
from defenses.evidence import Exhibit, Scored, Setting, fact, rules_of
from defenses.rule import Plain
from defenses.weights import verify_weights
from protos.codec import decode, encode
from protos.records import Judgement, Score
from tests.defenses.simulate import direction, exhibit_of

each_defense = pytest.mark.parametrize("name", registry.names())


def hostile(setting: Setting, exhibits: list[Exhibit], rng: np.random.Generator) -> list[Exhibit]:
    """The honest six, one without noise, one boosted, one with the most absurd numbers that fit."""
    size = setting.body_size + setting.output_size
    wild = replace(
        exhibits[0],
        silo="z9",
        count=1,
        folds=np.full_like(exhibits[0].folds, 2**31 - 1),
        output=np.full_like(exhibits[0].output, -(2**31)),
        prototypes=np.full((setting.classes, setting.embedding), 2**62),
    )
    quiet = exhibit_of(setting, "x1", 100, np.zeros(size), rng)
    loud = exhibit_of(setting, "y1", 300, 30 * direction(size, rng), rng)
    return [*exhibits, quiet, loud, wild]


@each_defense
def test_any_exhibits_give_one_valid_judgement_each(
    name: str, setting: Setting, exhibits: list[Exhibit], rng: np.random.Generator
) -> None:
    shown = hostile(setting, exhibits, rng)
    judged = decide(setting, shown, name, {})
    assert [one.silo for one in judged] == sorted(one.silo for one in shown)
    assert sum(one.weight for one in judged) == setting.total_weight
    for one in judged:
        assert decode(Judgement, encode(one)) == one
    weights = {one.silo: one.weight for one in judged if one.verdict in ("retained", "suspected")}
    verify_weights(weights, *limits(name, rules_of(setting), len(weights)), setting.total_weight)


@each_defense
def test_order_of_exhibits_and_repetition_change_nothing(
    name: str, setting: Setting, exhibits: list[Exhibit], rng: np.random.Generator
) -> None:
    shown = hostile(setting, exhibits, rng)
    first = decide(setting, shown, name, {})
    assert decide(setting, shown, name, {}) == first
    assert decide(setting, shown[::-1], name, {}) == first


@each_defense
def test_opinions_come_one_per_silo_with_suspicion_in_range(
    name: str, setting: Setting, exhibits: list[Exhibit], rng: np.random.Generator
) -> None:
    shown = hostile(setting, exhibits, rng)
    opinions = registry.get(name).judge(setting, shown, None)
    assert [one.silo for one in opinions] == [one.silo for one in shown]
    assert all(0 <= one.suspicion <= 1 and one.reason for one in opinions)


@each_defense
@pytest.mark.parametrize("number", [1, 2, 3])
def test_few_silos_are_judged_too(name: str, number: int, setting: Setting, exhibits: list[Exhibit]) -> None:
    judged = decide(replace(setting, cap=3.0), exhibits[:number], name, {})
    assert sum(one.weight for one in judged) == setting.total_weight


@each_defense
def test_recorded_decision_is_repeated_exactly(
    name: str, setting: Setting, exhibits: list[Exhibit], rng: np.random.Generator
) -> None:
    judged = decide(setting, hostile(setting, exhibits, rng), name, {"a450": "its sketch is of another update"})
    rules = rules_of(setting)
    convicted = {"a450": "its sketch is of another update"}
    assert reweigh(judged, name, rules, convicted) == judged
    verify_judgements(judged, name, rules, convicted)


def test_convicted_silo_has_no_weight_and_no_say(
    round_with_prototypes: tuple[Setting, list[Exhibit]],
) -> None:
    setting, exhibits = round_with_prototypes
    judged = decide(setting, exhibits, "guard", {"silo3": "its tag is false", "absent": "gone"})
    assert (judged[3].verdict, judged[3].weight, judged[3].reason) == ("convicted", 0, "its tag is false")
    rest = decide(setting, [one for one in exhibits if one.silo != "silo3"], "guard", {})
    assert tuple(one for one in judged if one.silo != "silo3") == rest


def test_weights_moved_on_record_are_found(setting: Setting, exhibits: list[Exhibit]) -> None:
    judged = list(decide(setting, exhibits, "guard", {}))
    judged[0] = replace(judged[0], weight=judged[0].weight - 1)
    judged[1] = replace(judged[1], weight=judged[1].weight + 1)
    with pytest.raises(WrongWeights, match="a450 is retained with weight"):
        verify_judgements(judged, "guard", rules_of(setting), {})


def test_exclusion_without_evidence_on_record_is_found(setting: Setting, exhibits: list[Exhibit]) -> None:
    judged = list(decide(setting, exhibits, "guard", {}))
    judged[5] = replace(judged[5], verdict="excluded", weight=0)
    with pytest.raises(WrongWeights, match="f56 is excluded"):
        verify_judgements(judged, "guard", rules_of(setting), {})


def test_nobody_retained_gives_zero_weights(setting: Setting, rng: np.random.Generator) -> None:
    still = np.zeros(setting.body_size + setting.output_size)
    shown = [exhibit_of(setting, silo, 100, still, rng) for silo in ("a", "b", "c")]
    assert [(one.verdict, one.weight) for one in decide(setting, shown, "guard", {})] == [("excluded", 0)] * 3


def test_suspicion_alone_never_excludes(setting: Setting) -> None:
    worst = tuple(fact(name, 1e9) for name in ("signal", "unexplained", "prototype", "agreement"))
    scored = [Scored("a", 300, worst), Scored("b", 300, ()), Scored("c", 300, ()), Scored("d", 300, ())]
    judged = conclude(scored, "guard", rules_of(setting), {})
    assert (judged[0].verdict, judged[0].weight) == ("suspected", 128)


def test_long_update_weighs_less_under_norm_bounded_weights(
    setting: Setting, exhibits: list[Exhibit], rng: np.random.Generator
) -> None:
    long = exhibit_of(setting, "a450", 450, 60 * direction(2410, rng), rng)
    weights = {one.silo: one.weight for one in decide(setting, [long, *exhibits[1:]], "norm-bounded", {})}
    plain = {one.silo: one.weight for one in decide(setting, exhibits, "plain", {})}
    assert weights["a450"] < plain["a450"] / 3
    assert plain["a450"] == round(1024 * 450 / 1276)


def test_norm_bounded_scale_is_median_over_own_norm() -> None:
    norms = {"a": 1.0, "b": 2.0, "c": 4.0, "d": 8.0}
    scored = [Scored(silo, 100, (fact("norm", norm),)) for silo, norm in norms.items()]
    weights = registry.get("norm-bounded").base_weights(scored)
    assert weights == {"a": 100, "b": 100, "c": 75, "d": Fraction(75, 2)}


def test_scores_of_another_machine_pass_within_the_tolerance_only() -> None:
    one = (Score("norm", 5_000_000, None), Score("norm-above", 7, 3_000_000))
    assert scores_differ(one, (Score("norm", 5_000_001, None), Score("norm-above", 7, 2_999_999))) is None
    assert scores_differ(one, (Score("norm", 5_000_000, None), Score("norm-above", 7, 2_000_000))) == "norm-above"
    assert scores_differ(one, (Score("norm", 5_000_000, 0), Score("norm-above", 7, 3_000_000))) == "norm"
    assert scores_differ(one, one[:1]) == "the list of scores"


def test_unknown_defense_names_the_known_ones() -> None:
    with pytest.raises(UnknownDefense, match="guard, krum, multi-krum, norm-bounded, plain"):
        registry.get("trust-me")


def test_name_cannot_be_taken_twice() -> None:
    with pytest.raises(DefenseError, match="'plain' is registered already"):
        registry.register(Plain())


def test_ill_shaped_exhibit_is_refused(setting: Setting, exhibits: list[Exhibit]) -> None:
    for wrong in (
        replace(exhibits[0], folds=exhibits[0].folds[:, 1:]),
        replace(exhibits[0], output=exhibits[0].output[:-1]),
        replace(exhibits[0], classes=exhibits[0].classes[:-1]),
        replace(exhibits[0], count=0),
    ):
        with pytest.raises(MalformedExhibit, match="a450"):
            score(setting, [wrong, *exhibits[1:]], "guard")


def test_silo_that_stands_twice_is_refused(setting: Setting, exhibits: list[Exhibit]) -> None:
    with pytest.raises(DefenseError, match="a450 stands twice"):
        decide(setting, [*exhibits, exhibits[0]], "guard", {})


def test_policy_without_room_is_refused(setting: Setting, exhibits: list[Exhibit]) -> None:
    with pytest.raises(InfeasibleWeights, match="6 silos"):
        decide(replace(setting, floor=1.0, cap=1.0), exhibits, "guard", {})
