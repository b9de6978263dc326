"""Votes of checkers: a majority convicts, one voice alone does not, and whoever signed a false answer is named."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import votes
from audit.votes import Ballots
from crypto.identity import SigningKey, sign
from protos.messages import Answer, Answers, Signed, TraceOpening

KEY = SigningKey.generate()
VOTERS = ("ada", "bob", "cyd", "dan", "eve", "fay")
REASON = "it does not hold"


def answers(signer: str, **said: bool) -> Signed:
    body = Answers("fed", "0" * 64, tuple(Answer(silo, ok) for silo, ok in said.items()))
    return sign(body, signer, KEY)


def convicted(cast: Ballots, opened: tuple[str, ...], earlier: Ballots | None = None) -> dict[str, str]:
    return {item.silo: item.reason for item in votes.findings(cast, opened, REASON, earlier).convicted}


def test_ballots_are_by_subject_and_the_later_answer_counts() -> None:
    cast = votes.ballots([answers("ada", bob=False, cyd=True), answers("dan", bob=True), answers("ada", bob=True)])
    assert cast == {"bob": {"ada": True, "dan": True}, "cyd": {"ada": True}}


@pytest.mark.parametrize(
    ("said", "unclear"),
    [((True, True, True), False), ((True, True), False), ((True,), True), ((), True), ((True, True, False), True)],
)
def test_subject_is_rechecked_after_a_no_or_too_few_answers(said: tuple[bool, ...], unclear: bool) -> None:
    cast = {"zoe": dict(zip(VOTERS, said, strict=False))}
    assert votes.to_recheck(cast, ("zoe",)) == (("zoe",) if unclear else ())


def test_rechecks_are_sorted() -> None:
    assert votes.to_recheck({}, ("fay", "ada")) == ("ada", "fay")


# What each number of yes and no leads to, written out.
OUTCOMES = {
    (0, 0): "undecided", (1, 0): "cleared", (2, 0): "cleared", (3, 0): "cleared", (0, 1): "undecided",
    (1, 1): "undecided", (2, 1): "cleared", (3, 1): "cleared, minority", (0, 2): "convicted", (1, 2): "convicted",
    (2, 2): "undecided", (3, 2): "cleared, minority", (0, 3): "convicted", (1, 3): "convicted, minority",
    (2, 3): "convicted, minority", (3, 3): "undecided",
}  # fmt: skip


@pytest.mark.parametrize(("yes", "no"), OUTCOMES)
def test_majorities(yes: int, no: int) -> None:
    said = [True] * yes + [False] * no
    finding = votes.findings({"zoe": dict(zip(VOTERS, said, strict=False))}, ("zoe",), REASON)
    names = {item.silo: item.reason for item in finding.convicted}
    expected = OUTCOMES[yes, no]
    assert (finding.undecided == ("zoe",)) == (expected == "undecided")
    assert (names.pop("zoe", None) == REASON) == expected.startswith("convicted")
    minority = VOTERS[yes : yes + no] if yes > no else VOTERS[:yes]
    assert names == (dict.fromkeys(minority, "signed a false answer about zoe") if "minority" in expected else {})


def test_false_first_answer_convicts_whoever_turned() -> None:
    now = {"zoe": dict.fromkeys(("ada", "bob", "cyd"), True)}
    first = {"zoe": {"ada": False, "bob": True}}
    assert convicted(now, ("zoe",), first) == {"ada": "signed a false answer about zoe"}
    assert convicted({"zoe": {"ada": True, "bob": True}}, ("zoe",), first) == {}


def test_convictions_are_sorted_and_name_each_silo_once() -> None:
    cast = {subject: dict.fromkeys(set(VOTERS) - {subject}, False) for subject in ("bob", "ada")}
    cast["bob"]["ada"] = True
    assert [item.silo for item in votes.findings(cast, ("bob", "ada"), REASON).convicted] == ["ada", "bob"]
    assert convicted(cast, ("bob", "ada")) == {"ada": REASON, "bob": REASON}


@given(st.dictionaries(st.sampled_from(VOTERS), st.booleans()))
def test_minority_of_liars_never_convicts_an_honest_subject_or_voter(said: dict[str, bool]) -> None:
    """The subject is honest: `yes` is the truth. With fewer liars than truthful voters nobody honest is named."""
    liars = {silo for silo, ok in said.items() if not ok}
    if len(liars) < len(said) - len(liars):
        assert set(convicted({"zoe": said}, ("zoe",))) <= liars


@given(st.binary(min_size=32, max_size=32), st.integers(3, 12))
def test_every_silo_is_checked_by_three_others(seed: bytes, count: int) -> None:
    opened = tuple(f"silo-{index}" for index in range(count))
    duties = votes.duties(seed, opened)
    assert set(duties) == set(opened)
    for subject, checkers in duties.items():
        assert len(set(checkers)) == len(checkers) == min(3, count - 1)
        assert subject not in checkers
        assert set(checkers) <= set(opened)
    assert votes.duties(seed, tuple(reversed(opened))) == duties


def test_checkers_depend_on_the_seed() -> None:
    opened = tuple(f"silo-{index}" for index in range(12))
    drawn = {str(votes.duties(bytes([seed]) * 32, opened)) for seed in range(20)}
    assert len(drawn) == 20


def test_most_common_breaks_ties_by_the_smallest() -> None:
    assert votes.most_common([]) == ""
    for order in itertools.permutations(["b", "a", "b", "a", "c"]):
        assert votes.most_common(order) == "a"
    assert votes.most_common(["c", "b", "c"]) == "c"


def test_traced_roots_are_by_silo() -> None:
    signed = sign(TraceOpening("fed", "0" * 64, "5" * 64), "ada", KEY)
    assert votes.traced([signed]) == {"ada": "5" * 64}
