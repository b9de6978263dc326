import dataclasses
import io
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from audit.accounting import epsilon
from audit.certificate import Certificate, SiloFacts, certify, check_certificate, parse_certificate
from audit.errors import BrokenLog, InvalidCertificate
from audit.replay import NO_MAJORITY
from defenses.weights import bounds
from protos import canonical
from protos.codec import pack
from protos.messages import Evaluation
from protos.records import Conviction
from protos.rounds import Phase
from tests.audit.builders import OTHER_KEY, HandMade, even, judged

SILOS = ("ada", "bob", "cyd", "dan", "eve")
COUNTS = {"ada": 450, "bob": 300, "cyd": 220, "dan": 150, "eve": 56}
STRONG = 9_000_000


@pytest.fixture
def made() -> HandMade:
    return HandMade(COUNTS)


def certificate(made: HandMade) -> Certificate:
    return certify(made.history, made.head)


def silo(made: HandMade, name: str) -> SiloFacts:
    return next(facts for facts in certificate(made).silos if facts.silo == name)


def broken(made: HandMade) -> dict[str, str]:
    return {clause.name: clause.detail for clause in certificate(made).clauses if not clause.met}


def test_honest_rounds_meet_the_policy_and_are_counted(made: HandMade) -> None:
    for _ in range(3):
        made.add_round(even(SILOS))
    result = certificate(made)
    assert result.met
    assert (result.rounds_planned, result.rounds_adopted, result.rounds_void) == (3, 3, 0)
    assert all(facts.taken_part == facts.judged == facts.planned == 3 for facts in result.silos)
    assert [facts.records for facts in result.silos] == list(COUNTS.values())
    assert not result.finished
    made.history.phase = Phase.FINISHED
    assert certificate(made).finished


def test_certificate_of_a_log_without_rounds_says_nothing_wrong(made: HandMade) -> None:
    result = certificate(made)
    assert result.met
    assert result.gap is None
    assert result.rounds == ()


@settings(deadline=None)
@given(st.integers(1, 64), st.integers(8, 1024))
def test_floor_and_cap_are_the_integers_within_the_real_bounds(retained: int, total: int) -> None:
    assume(total >= retained)
    floor, cap = bounds(retained, 500_000, 2_000_000, total)
    share = Fraction(total, retained)
    fitting = [w for w in range(total + 1) if share / 2 <= w <= 2 * share]
    assert (floor, cap) == (fitting[0], fitting[-1])


def test_bounds_follow_the_number_of_retained_silos(made: HandMade) -> None:
    made.add_round(even(SILOS))
    made.add_round(even(SILOS, bob=judged("bob", 0, "excluded", "too quiet", STRONG)))
    rounds = certificate(made).rounds
    assert [(facts.retained, facts.floor, facts.cap) for facts in rounds] == [(5, 103, 409), (4, 128, 512)]


def test_weight_below_the_floor_breaks_that_clause_only(made: HandMade) -> None:
    made.add_round(even(SILOS))
    low = {"ada": 102, "bob": 231, "cyd": 231, "dan": 230, "eve": 230}
    made.add_round(tuple(judged(name, weight) for name, weight in low.items()))
    assert broken(made) == {"weight-floor": "round 2, ada: weight 102, floor 103"}
    assert not certificate(made).met


def test_weight_above_the_cap_breaks_that_clause_only(made: HandMade) -> None:
    high = {"ada": 410, "bob": 154, "cyd": 154, "dan": 153, "eve": 153}
    made.add_round(tuple(judged(name, weight) for name, weight in high.items()))
    assert broken(made) == {"weight-cap": "round 1, ada: weight 410, cap 409"}


def test_weights_that_do_not_sum_up_break_the_total(made: HandMade) -> None:
    made.add_round(tuple(judged(name, 204) for name in SILOS))
    assert broken(made) == {"weight-total": "round 1: weights sum to 1020, not 1024"}


def test_sum_without_quorum_breaks_it(made: HandMade) -> None:
    made.add_round(even(SILOS), opened=SILOS[:3])
    assert broken(made) == {"quorum": "round 1: 3 opened, the quorum is 4"}


def test_sum_of_two_silos_breaks_the_privacy_minimum(made: HandMade) -> None:
    out = {name: judged(name, 0, "excluded", "too quiet", STRONG) for name in SILOS[2:]}
    made.add_round(even(SILOS, **out))
    assert broken(made) == {"privacy-minimum": "round 1: 2 retained, the privacy minimum is 3"}


@pytest.mark.parametrize(("evidence", "fine"), [(2_000_000, True), (1_999_999, False), (None, False)])
def test_exclusion_needs_evidence_at_the_false_discovery_rate(made: HandMade, evidence: int | None, fine: bool) -> None:
    made.add_round(even(SILOS, eve=judged("eve", 0, "excluded", "odd", evidence)))
    assert broken(made) == ({} if fine else {"exclusions": "round 1, eve: odd"})


def test_silo_left_out_for_disputed_checks_is_no_breach(made: HandMade) -> None:
    made.add_round(even(SILOS, eve=judged("eve", 0, "excluded", NO_MAJORITY)))
    assert broken(made) == {}


def test_model_adopted_by_half_of_the_silos_breaks_adoption(made: HandMade) -> None:
    made.add_round(even(SILOS), evaluations={name: Evaluation(8, 10) for name in SILOS[:2]})
    assert broken(made) == {"adoption": "round 1: 2 of 5 signed"}


def test_epsilon_is_recomputed_from_all_charges_on_record(made: HandMade) -> None:
    for _ in range(4):
        made.add_round(even(SILOS))
    facts = silo(made, "ada")
    delta = made.history.genesis.task.budget.delta_nano
    assert facts.epsilon_micro == epsilon(made.charges["ada"], delta)
    series = [row.epsilon_micro for view in certificate(made).rounds for row in view.silos if row.silo == "ada"]
    assert series == sorted(series)
    assert len(set(series)) == 4


def test_silo_that_missed_a_round_has_a_lower_epsilon_and_the_same_bound(made: HandMade) -> None:
    made.add_round(even(SILOS))
    made.add_round(even(SILOS[:4]), opened=SILOS[:4])
    ada, eve = silo(made, "ada"), silo(made, "eve")
    assert eve.epsilon_micro < ada.epsilon_micro == ada.epsilon_bound_micro == eve.epsilon_bound_micro
    assert (eve.taken_part, eve.planned) == (1, 2)


def _claim(made: HandMade, name: str, micro: int) -> None:
    openings = made.history.rounds[-1].openings
    receipt = dataclasses.replace(openings[name].receipt, epsilon_micro=micro)
    openings[name] = dataclasses.replace(openings[name], receipt=receipt)


def test_claim_above_the_charges_counts(made: HandMade) -> None:
    made.add_round(even(SILOS))
    _claim(made, "ada", 7_999_999)
    assert silo(made, "ada").epsilon_micro == 7_999_999
    assert broken(made) == {}


def test_claim_above_the_budget_breaks_it(made: HandMade) -> None:
    made.add_round(even(SILOS))
    _claim(made, "ada", 8_000_001)
    assert broken(made) == {"privacy-budget": "round 1, ada: epsilon 8.001 of 8.000"}


def test_claim_below_the_charges_is_found(made: HandMade) -> None:
    made.add_round(even(SILOS))
    spent = silo(made, "ada").epsilon_micro
    _claim(made, "ada", spent - 1)
    assert list(broken(made)) == ["receipts"]
    assert silo(made, "ada").epsilon_micro == spent


def test_verdicts_weights_and_convictions_are_counted_per_silo(made: HandMade) -> None:
    made.add_round(even(SILOS))
    made.add_round(even(SILOS, dan=judged("dan", 0, "excluded", "too quiet", STRONG)))
    suspected = {"ada": 230, "bob": 230, "cyd": 231, "dan": 103}
    judgements = [judged(n, w, "suspected" if n == "dan" else "retained") for n, w in suspected.items()]
    judgements.append(judged("eve", 230))
    made.add_round(tuple(judgements))
    liar = Conviction("eve", "signed a false answer about ada")
    made.add_round(even(SILOS, eve=judged("eve", 0, "convicted", liar.reason)), convicted=(liar,))
    dan, eve = silo(made, "dan"), silo(made, "eve")
    assert (dan.judged, dan.excluded, dan.suspected, dan.convicted) == (4, 1, 1, None)
    assert (dan.weight_min, dan.weight_max) == (103, 256)
    assert eve.convicted == liar.reason
    assert certificate(made).rounds[3].convicted == (liar,)


def test_void_round_has_no_verdicts_and_keeps_the_model(made: HandMade) -> None:
    made.add_round(even(SILOS))
    made.add_round(None, opened=SILOS[:2], result="void", reason="too few silos")
    result = certificate(made)
    assert (result.rounds_adopted, result.rounds_void) == (1, 1)
    assert result.model == f"{1:064x}"
    assert {row.verdict for row in result.rounds[1].silos} == {"none"}
    assert (result.rounds[1].floor, result.rounds[1].cap, result.rounds[1].retained) == (0, 0, 0)


def test_accuracies_are_of_the_last_adopted_model(made: HandMade) -> None:
    made.add_round(even(SILOS), evaluations={name: Evaluation(10, 100) for name in SILOS})
    final = {"ada": Evaluation(95, 100), "bob": Evaluation(70, 100), "cyd": Evaluation(90, 100)}
    made.add_round(even(SILOS), evaluations=final)
    made.add_round(None, result="void", reason="too few silos")
    result = certificate(made)
    assert [facts.correct for facts in result.silos] == [95, 70, 90, None, None]
    assert result.gap is not None
    assert result.gap.estimate_micro == 250_000
    assert result.gap.low_micro <= 250_000 <= result.gap.high_micro
    ada = result.silos[0].accuracy
    assert ada is not None
    naive = 1.96 * math.sqrt(0.95 * 0.05 / 100 + 8 * (1 + 0.95**2) / 100**2)
    assert abs((ada.high_micro - ada.low_micro) / 2e6 - naive) < 0.02


def test_longest_cosigned_log_is_stated_per_silo(made: HandMade) -> None:
    made.add_round(even(SILOS))
    made.add_round(even(SILOS), evaluations={name: Evaluation(8, 10) for name in SILOS[:4]})
    assert [facts.cosigned for facts in certificate(made).silos] == [20, 20, 20, 20, 10]


def test_certificate_survives_its_bytes_and_checks_against_its_log(made: HandMade) -> None:
    made.add_round(even(SILOS))
    result = certificate(made)
    assert parse_certificate(pack(result)) == result
    check_certificate(pack(result), made.history)
    check_certificate(pack(result) + b"\n", made.history)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("silos", lambda c: {"silos": (dataclasses.replace(c.silos[0], epsilon_micro=1), *c.silos[1:])}),
        ("silos", lambda c: {"silos": c.silos[1:]}),
        ("clauses", lambda c: {"clauses": c.clauses[1:]}),
        ("met", lambda c: {"met": not c.met}),
        ("model", lambda c: {"model": "0" * 64}),
        ("rounds", lambda c: {"rounds": ()}),
        ("not_claimed", lambda c: {"not_claimed": ()}),
        ("gap", lambda c: {"gap": None}),
        ("policy", lambda c: {"policy": dataclasses.replace(c.policy, fdr_micro=50_000)}),
    ],
)
def test_certificate_changed_anywhere_does_not_check(
    made: HandMade, field: str, change: Callable[[Certificate], dict[str, Any]]
) -> None:
    made.add_round(even(SILOS))
    result = certificate(made)
    forged = dataclasses.replace(result, **change(result))
    with pytest.raises(InvalidCertificate, match=f"'{field}'"):
        check_certificate(pack(forged), made.history)


def test_certificate_with_a_head_of_another_key_is_refused(made: HandMade) -> None:
    forged = dataclasses.replace(certificate(made), head=made.history.chain.sign_head(OTHER_KEY))
    with pytest.raises(BrokenLog, match="not signed"):
        check_certificate(pack(forged), made.history)


def test_certificate_of_another_log_is_refused(made: HandMade) -> None:
    with pytest.raises(InvalidCertificate):
        check_certificate(pack(certificate(HandMade({"ada": 4, "bob": 5}))), made.history)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"kind":"concordat/certificate/v1"}'])
def test_bytes_that_are_no_certificate_are_refused(made: HandMade, data: bytes) -> None:
    with pytest.raises(InvalidCertificate, match="no certificate"):
        check_certificate(data, made.history)


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


FLAT = np.linspace(-1, 1, 15, dtype=np.float32)


@pytest.fixture
def released(made: HandMade) -> HandMade:
    made.add_round(even(SILOS))
    made.history.model = canonical.digest(FLAT.astype("<f4").tobytes())
    return made


@pytest.mark.parametrize(
    "data", [FLAT.tobytes(), _npz(flat=FLAT), _npz(flat=FLAT, other=FLAT), _npz(flat=FLAT.astype(">f4"))]
)
def test_released_model_is_recognised_raw_and_in_an_archive(released: HandMade, data: bytes) -> None:
    check_certificate(pack(certificate(released)), released.history, data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((FLAT + 1).tobytes(), "not the certified model"),
        (_npz(flat=FLAT + 1), "not the certified model"),
        (FLAT.tobytes()[:-4], "56 bytes"),
        (b"", "0 bytes"),
        (_npz(weights=FLAT), "no readable array"),
        (_npz(flat=FLAT.astype(np.float64)), "not flat float32"),
        (_npz(flat=FLAT.reshape(3, 5)), "not flat float32"),
        (_npz(flat=np.zeros(10_000, dtype=np.float32)), "larger than"),
        (_npz(flat=FLAT)[:-30], "no readable array"),
        (_npz(flat=np.array([object()])), "no readable array"),
    ],
)
def test_other_model_files_are_refused(released: HandMade, data: bytes, message: str) -> None:
    with pytest.raises(InvalidCertificate, match=message):
        check_certificate(pack(certificate(released)), released.history, data)


def test_head_of_fewer_records_makes_no_certificate(made: HandMade) -> None:
    head = made.head
    made.history.chain.extend(made.history.chain.next_record(made.history.genesis, 0))
    with pytest.raises(BrokenLog):
        certify(made.history, head)
