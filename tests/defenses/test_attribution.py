from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from crypto.packing import FIELDS_PER_CHUNK
from crypto.sketch import sketch
from defenses.attribution import (
    AFTER,
    BEFORE,
    DIRECTION_SCALE,
    Attribution,
    Directions,
    attribute,
    guilty,
    sketched,
)
from defenses.errors import MalformedExhibit
from defenses.laws import noise_of
from protos.records import Score
from protos.search import Trigger
from tests.defenses.simulate import COUNTS, noise_std
from tests.defenses.taught import (
    CLASSES,
    FDR,
    FIND,
    FLIP,
    OUTPUT,
    PACKING,
    SIZE,
    TARGET,
    leaning,
    opened,
    rounds,
    setting,
    told,
    unit_rows,
    z_of,
)

EQUAL = {f"silo{number}": 200 for number in range(6)}


def test_sketched_directions_are_the_rounds_own_linear_map() -> None:
    rng = np.random.default_rng(1)
    one, rows = setting(rng), unit_rows(rng)
    found = sketched(rows, PACKING, one.signs)
    table = np.zeros((PACKING.chunks, FIELDS_PER_CHUNK))
    table.reshape(-1)[PACKING.places] = rows[4]
    folds = one.signs.astype(float) @ table[: PACKING.body_chunks, : PACKING.width]
    assert found.folds[4] == pytest.approx(folds * DIRECTION_SCALE, abs=PACKING.body_chunks)
    assert found.output[4] == pytest.approx(rows[4, -OUTPUT:] * DIRECTION_SCALE, abs=1)


def test_a_contribution_is_the_updates_projection_on_a_unit_vector() -> None:
    """The naive way: build the vector (S^T f, K o) coordinate by coordinate, and multiply."""
    past = rounds(2, 1)[0]
    one = past.setting
    folds = past.directions.folds[TARGET].astype(float)
    body = np.zeros(SIZE)
    for chunk in range(one.chunks):
        for column in range(one.width):
            place = np.flatnonzero(PACKING.places == chunk * FIELDS_PER_CHUNK + column)
            body[place] = one.signs[:, chunk] @ folds[:, column]
    body[-OUTPUT:] = one.chunks * past.directions.output[TARGET]
    vector = body / np.linalg.norm(body)
    rng = np.random.default_rng(3)
    whole = rng.integers(-20, 20, SIZE)
    shown, output = sketch(PACKING.to_fields(whole), PACKING, one.signs)
    exhibit = replace(past.exhibits[0], folds=shown.astype(np.int64), output=output.astype(np.int64))
    found = attribute([replace(past, exhibits=[exhibit])], FIND)[0]
    x = next(score.value_micro for score in found.scores if score.name == "before-x") / 1e6
    assert x == pytest.approx(one.step * (whole @ vector), abs=2e-6)


def test_honest_noise_makes_standard_normal_contributions() -> None:
    drawn = np.array([value / 1e6 for one in attribute(rounds(4, 300), FIND) for value in one.contributions.values()])
    assert len(drawn) == 300 * len(COUNTS)
    assert drawn.std() == pytest.approx(1, abs=0.06)
    assert drawn.std() < 1.03, "never more than standard normal"
    assert stats.kstest(drawn, "norm").pvalue > 1e-3


def test_honest_z_is_at_most_standard_normal_over_a_thousand_draws() -> None:
    z = np.array(
        [
            z_of(one, name)
            for seed in range(90)
            for name, inoculated in ((BEFORE, False), (AFTER, True))
            for one in attribute(rounds(100 + seed, 4, inoculated=inoculated), FIND)
        ]
    )
    assert len(z) == 1080
    for tail in (1.0, 2.0, 3.0):
        # Three binomial deviations above what the normal law allows.
        share = stats.norm.sf(tail)
        assert (z > tail).mean() <= share + 3 * np.sqrt(share / len(z))


def test_nobody_is_found_where_all_are_honest() -> None:
    assert not any(guilty(attribute(rounds(1000 + seed, 5), FIND), FIND, FDR) for seed in range(40))


def test_a_silo_that_pushes_the_direction_is_found_and_nobody_else() -> None:
    past = rounds(5, 20, push={"d150": 5.0}, inoculated=True, others=-2.0)
    assert guilty(attribute(past, FIND), FIND, FDR) == {"d150"}


@pytest.mark.parametrize(("unlearning", "found"), [(0, False), (1, False), (2, True), (6, True)])
def test_nobody_is_found_unless_two_silos_unlearn_what_they_were_told(unlearning: int, found: bool) -> None:
    """Without noise, models that learn fast may move towards a trigger by every silo's hand."""
    names = list(COUNTS)
    push = {name: -3.0 if place < unlearning else 9.0 for place, name in enumerate(names)}
    late = rounds(42, 6, push=push, inoculated=True)
    convicted = guilty(attribute(late, FIND), FIND, FDR)
    assert convicted == (set(names[unlearning:]) if found else set())
    early = [replace(one, number=one.number + 6) for one in rounds(43, 20, push={names[-1]: 9.0})]
    assert guilty(attribute([*late, *early], FIND), FIND, FDR) == convicted


def test_several_weak_rounds_add_up_to_what_one_does_not_show() -> None:
    past = rounds(6, 40, push={"b300": 3.0}, inoculated=True, others=-2.0)
    assert not guilty(attribute(past[:1], FIND), FIND, FDR)
    assert guilty(attribute(past, FIND), FIND, FDR) == {"b300"}


def test_a_push_that_all_silos_share_convicts_nobody_before_inoculation() -> None:
    assert not guilty(attribute(rounds(7, 20, EQUAL, others=8.0), FIND), FIND, FDR)


def test_a_majority_is_found_after_inoculation_though_it_is_the_median_before() -> None:
    liars = dict.fromkeys(list(EQUAL)[:4], 6.0)
    assert not guilty(attribute(rounds(8, 15, EQUAL, push=liars), FIND), FIND, FDR)
    later = rounds(8, 15, EQUAL, push=liars, inoculated=True, others=-2.0)
    assert guilty(attribute(later, FIND), FIND, FDR) == set(liars)


@pytest.mark.parametrize(("inoculated", "weak", "strong"), [(True, 2.0, 4.0), (False, 2.5, 5.0)])
def test_evidence_before_inoculation_has_to_be_stronger(inoculated: bool, weak: float, strong: float) -> None:
    late, name = ([], "after") if inoculated else (told(1.0), "before")
    others = -2.0 if inoculated else 0.0
    found = attribute([*rounds(5, 20, push={"d150": weak}, inoculated=inoculated, others=others), *late], FIND)
    assert not guilty(found, FIND, FDR)
    assert z_of(next(one for one in found if one.silo == "d150"), name) > 5
    found = attribute([*rounds(5, 20, push={"d150": strong}, inoculated=inoculated, others=others), *late], FIND)
    assert guilty(found, FIND, FDR) == {"d150"}


@pytest.mark.parametrize(
    ("name", "find", "below", "above"),
    [("after", FIND, 6.6, 6.8), ("after", FLIP, 7.8, 8.0), ("before", FIND, 8.9, 9.1)],
)
def test_levels_among_ten_silos_are_those_of_the_docs(name: str, find: Trigger, below: float, above: float) -> None:
    def score(which: str, z: float) -> Score:
        return Score(f"{which}-z", round(z * 1e6), int(-1e6 * stats.norm.logsf(z) / np.log(10)))

    def convicted(z: float) -> bool:
        unlearnt = (score("after", -3.0),)
        others = [Attribution(f"s{one}", unlearnt, {}) for one in range(9)]
        later = (score("after", 2.4),) if name == "before" else ()
        return bool(guilty([*others, Attribution("liar", (score(name, z), *later), {})], find, FDR))

    assert (convicted(below), convicted(above)) == (False, True)


def test_evidence_before_inoculation_convicts_nobody_of_a_flip() -> None:
    """Who owns most of one class teaches natural confusions; it says nothing, whatever comes after."""
    early = rounds(5, 20, push={"d150": 15.0})
    for late in ([], told(0.3), told(-3.0)):
        found = attribute([*early, *late], FLIP)
        assert z_of(next(one for one in found if one.silo == "d150"), "before") > 12
        assert not guilty(found, FLIP, FDR)
    found = attribute([*early, *told(1.0)], FIND)
    assert guilty(found, FIND, FDR) == {"d150"}, "of a trigger it does"


def test_who_goes_on_teaching_a_flip_that_the_others_unlearn_is_found() -> None:
    found = attribute([*rounds(5, 20), *told(4.0)], FLIP)
    assert guilty(found, FLIP, FDR) == {"d150"}


def test_who_differs_from_the_others_in_every_class_is_not_found() -> None:
    """Honest data of another kind: as large in the controls as in the target, so tau covers it."""
    rng = np.random.default_rng(9)
    made = []
    for past in rounds(9, 20):
        rows = unit_rows(rng)
        exhibits = []
        for one in past.exhibits:
            std = noise_std(past.setting, one.count)
            lean = rng.normal(size=CLASSES) @ rows * 8 * std
            exhibits.append(opened(past.setting, one.silo, one.count, std * rng.normal(size=SIZE) + lean, rng))
        made.append(replace(past, exhibits=exhibits, directions=sketched(rows, PACKING, past.setting.signs)))
    assert not guilty(attribute(made, FIND), FIND, FDR)


def pushing(target: float, others: float, *raised: int) -> np.ndarray:
    push = np.full(CLASSES, others)
    push[[TARGET, *raised]] = target
    return push


def test_an_honest_silo_that_pushes_every_class_is_not_found_beside_a_majority_that_pulls_the_others_down() -> None:
    """Nine of twelve teach the trigger; their controls are below zero, so that tau is nothing."""
    honest, liars = "h", [f"l{number}" for number in range(9)]
    pushes = {honest: pushing(8.0, 8.0), **{one: pushing(8.0, -5.0) for one in liars}}
    pushes |= dict.fromkeys(("i", "j"), pushing(-3.0, 0.0))
    assert guilty(attribute(leaning(31, 12, pushes), FIND), FIND, FDR) == set(liars)


@pytest.mark.parametrize(("raised", "found"), [((0, 1), True), ((0, 1, 2, 4), False)])
def test_a_habit_takes_more_classes_than_two_of_ten(raised: tuple[int, ...], found: bool) -> None:
    pushes = {**{f"h{number}": pushing(-3.0, 0.0) for number in range(9)}, "liar": pushing(12.0, 0.0, *raised)}
    assert guilty(attribute(leaning(32, 12, pushes), FIND), FIND, FDR) == ({"liar"} if found else set())


def test_who_pushes_every_other_class_a_little_does_not_hide_what_it_teaches() -> None:
    """A habit is taken off and divides nothing."""
    pushes = {**{f"h{number}": pushing(-3.0, 0.0) for number in range(9)}, "liar": pushing(16.0, 3.0)}
    assert guilty(attribute(leaning(33, 12, pushes), FIND), FIND, FDR) == {"liar"}


def test_a_loud_silo_cannot_be_more_guilty_than_its_own_noise_allows() -> None:
    """The measured power counts where it is above the law's, so noise alone never convicts, however loud."""
    rng = np.random.default_rng(13)
    made = []
    for past in rounds(13, 10):
        loud = opened(past.setting, "a450", 450, 20 * noise_std(past.setting, 450) * rng.normal(size=SIZE), rng)
        made.append(replace(past, exhibits=[loud, *past.exhibits[1:]]))
    assert abs(z_of(attribute(made, FIND)[0], BEFORE)) < 4
    assert noise_of(made[0].setting, 450).most * 300 < np.square(made[0].exhibits[0].output).mean()


def test_guilt_follows_from_recorded_integers_at_the_plans_rate() -> None:
    found = attribute(rounds(14, 6, push={"d150": 2.6}), FIND)
    assert guilty(found, FIND, 1) <= guilty(found, FIND, FDR) <= guilty(found, FIND, 1_000_000)
    assert guilty((), FIND, FDR) == frozenset()
    silent = [replace(one, scores=()) for one in found]
    assert guilty(silent, FIND, FDR) == frozenset()


def test_directions_that_do_not_fit_the_round_are_refused() -> None:
    past = rounds(15, 1)[0]
    short = Directions(past.directions.folds[:, :, :-1], past.directions.output)
    with pytest.raises(MalformedExhibit, match="round 1"):
        attribute([replace(past, directions=short)], FIND)


def test_a_direction_of_which_nothing_is_left_accuses_nobody() -> None:
    past = rounds(16, 3)
    beside = np.arange(CLASSES) != TARGET
    empty = [
        Directions(one.directions.folds * beside[:, None, None], one.directions.output * beside[:, None])
        for one in past
    ]
    found = attribute([replace(one, directions=left) for one, left in zip(past, empty, strict=True)], FIND)
    assert all(0 < one.evidence_micro(BEFORE) <= 301_030 for one in found), "p = 1/2 or more"


def test_a_thousand_silos_are_judged_at_once() -> None:
    counts = {f"silo{number:04d}": 100 + number for number in range(1000)}
    found = attribute(rounds(17, 4, counts=counts, push={"silo0500": 16.0}, inoculated=True, others=-2.0), FIND)
    assert guilty(found, FIND, FDR) == {"silo0500"}
