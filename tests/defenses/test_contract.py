"""Contract of every weighting rule, with those that need an argument: any round gives judgements that replay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from coordinator.errors import BadPolicy
from coordinator.policy import policy_from
from defenses import registry
from defenses.decide import decide, limits, reweigh, score, scores_differ, verify_judgements
from defenses.errors import DefenseError, NeedsArgument
from defenses.evidence import Exhibit, Setting, rules_of
from defenses.fairness import Afl, QFedAvg
from defenses.geometric import Monna
from defenses.rule import Plain
from defenses.similarity import FlTrust
from defenses.weights import verify_weights
from protos.codec import decode, encode
from protos.records import Judgement
from tests.defenses.naive import SMALL, exhibits, folded_with, silo

LOSSES = [{silo(place): 0.1 + place % 3 for place in range(20)}, {silo(place): place / 20 for place in range(15)}]


def root(setting: Setting) -> Exhibit:
    """An update on public data, folded with the signs of the round."""
    return folded_with(setting, 99, 1, common=2.0)[0]


WITH_ARGUMENTS = (
    FlTrust(root), Monna(silo(0)), QFedAvg(lambda _: LOSSES), Afl(lambda _: LOSSES, rate=0.3),
)  # fmt: skip
NAMES = sorted([*registry.names(), *(rule.name for rule in WITH_ARGUMENTS)])
KINDS = ("honest", "alike", "zero", "huge", "bare", "absurd")
each_name = pytest.mark.parametrize("name", NAMES)
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def with_arguments() -> Iterator[None]:
    with registry.registered(*WITH_ARGUMENTS):
        yield


def a_round(kind: str, number: int) -> tuple[Setting, list[Exhibit]]:
    """Exhibits of `number` silos: honest, or degenerate in one way."""
    setting, shown = exhibits(number, number, SMALL, common=0.3)
    if kind == "alike":
        shown = [replace(shown[0], silo=one.silo) for one in shown]
    if kind == "zero":
        shown = [replace(one, folds=0 * one.folds, output=0 * one.output) for one in shown]
    if kind == "huge":
        shown[1] = replace(shown[1], folds=shown[1].folds * 10**6, output=shown[1].output * 10**6)
    if kind == "bare":
        shown = [replace(one, prototypes=None) for one in shown]
    if kind == "absurd":
        wild = np.full((setting.classes, setting.embedding), -(2**62))
        extreme = np.full_like(shown[2].folds, 2**31 - 1), np.full_like(shown[2].output, -(2**31))
        shown[2] = replace(shown[2], count=1, folds=extreme[0], output=extreme[1], prototypes=wild)
    return setting, shown


@each_name
@pytest.mark.parametrize(("kind", "number"), [*product(KINDS, (3, 6)), ("honest", 20), ("absurd", 20)])
def test_any_round_gives_weights_that_verify_and_replay(name: str, kind: str, number: int) -> None:
    setting, shown = a_round(kind, number)
    rules = rules_of(setting)
    judged = decide(setting, shown, name, {})
    assert [one.silo for one in judged] == [one.silo for one in shown]
    assert all(decode(Judgement, encode(one)) == one for one in judged)
    assert all(one.reason for one in judged)
    weights = {one.silo: one.weight for one in judged if one.verdict in ("retained", "suspected")}
    if weights:
        verify_weights(weights, *limits(name, rules, len(weights)), setting.total_weight)
    assert all(one.weight == 0 for one in judged if one.silo not in weights)
    verify_judgements(judged, name, rules, {})
    assert reweigh(judged, name, rules, {}) == judged


@each_name
def test_honest_round_keeps_somebody(name: str) -> None:
    for number in (1, 2, 3, 8, 20):
        setting, shown = exhibits(number, number, common=1.0)
        judged = decide(replace(setting, cap=3.0), shown, name, {})
        assert sum(one.weight for one in judged) == setting.total_weight


@each_name
@each_kind
def test_order_of_exhibits_and_repetition_change_nothing(name: str, kind: str) -> None:
    setting, shown = a_round(kind, 6)
    first = decide(setting, shown, name, {})
    order = np.random.default_rng(1).permutation(6)
    assert decide(setting, [shown[place] for place in order], name, {}) == first
    assert decide(setting, shown, name, {}) == first


@each_name
def test_one_opinion_each_in_the_order_given(name: str) -> None:
    setting, shown = a_round("honest", 7)
    shown = shown[::-1]
    opinions = registry.get(name).judge(setting, shown, None)
    assert [one.silo for one in opinions] == [one.silo for one in shown]
    assert all(0 <= one.suspicion <= 1 for one in opinions)


@each_name
def test_base_weights_are_positive_for_whoever_stays(name: str) -> None:
    setting, shown = a_round("honest", 9)
    rule = registry.get(name)
    scored = rule.score(setting, shown)
    stay = [
        one for one, opinion in zip(scored, rule.opine(scored, rules_of(setting)), strict=True) if not opinion.excluded
    ]
    weights = rule.base_weights(stay)
    assert set(weights) == {one.silo for one in stay}
    assert min(weights.values()) > 0


@each_name
def test_convicted_silo_has_no_say(name: str) -> None:
    setting, shown = a_round("huge", 9)
    judged = decide(setting, shown, name, {silo(1): "its tag is false"})
    rest = decide(setting, [one for one in shown if one.silo != silo(1)], name, {})
    assert judged[1].verdict == "convicted"
    assert tuple(one for one in judged if one.silo != silo(1)) == rest


@each_name
def test_scores_of_the_same_openings_agree_within_the_auditors_tolerance(name: str) -> None:
    setting, shown = a_round("honest", 9)
    first = score(setting, shown, name)
    # Another memory layout makes another order of summation.
    copied = [replace(one, folds=np.asfortranarray(one.folds)) for one in shown]
    for one, other in zip(first, score(setting, copied, name), strict=True):
        assert scores_differ(one.scores, other.scores) is None


@each_name
def test_nobody_at_all_is_judged_without_a_fault(name: str) -> None:
    setting, _ = a_round("honest", 3)
    assert decide(setting, [], name, {}) == ()


@pytest.mark.parametrize("name", ["krum", "flsec", "flab", "multi-krum"])
def test_rule_that_always_removes_somebody_does_so_without_an_attack(name: str) -> None:
    setting, shown = a_round("honest", 9)
    assert any(one.verdict == "excluded" for one in decide(setting, shown, name, {}))


@pytest.mark.parametrize("name", ["fltrust", "monna", "q-fedavg", "afl"])
def test_policy_cannot_name_a_rule_that_reads_what_is_in_no_log(name: str) -> None:
    registry.get(name)
    registry._DEFENSES.pop(name)
    with pytest.raises(NeedsArgument, match=f"{name} reads .*, which stands in no log"):
        registry.get(name)
    with pytest.raises(BadPolicy, match="nobody could repeat its decisions"):
        policy_from({"defense": name})


def test_registered_rules_are_known_within_the_block_only() -> None:
    class Other(Plain):
        name = "other"

    with registry.registered(Other()):
        assert "other" in registry.names()
        with pytest.raises(DefenseError, match="'other' is registered already"):
            registry.register(Other())
    assert "other" not in registry.names()
