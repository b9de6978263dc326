"""Parts against what their papers say, each by an independent oracle. Linear models, no torch."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from protos.task import MICRO, ModelSpec, Training
from redteam.attacks import data, local, prototypes, triggers, updates
from redteam.attacks.attack import Attack, class_sums, rows_of
from redteam.attacks.catalogue import Until
from redteam.attacks.parts import ClassSums, Context, Ring
from redteam.errors import BadAttack
from silo.data import Records
from silo.trainer import trainer_for
from tests.redteam.plain_task import plain_task
from tests.silo.entropy import SeededEntropy
from tests.silo.examples import training

SIDE, CLASSES = 28, 10
RANDOM = np.random.default_rng


def records(count: int = 60, seed: int = 0, inputs: int = SIDE * SIDE) -> Records:
    random = RANDOM(seed)
    features = random.random((count, inputs)).astype(np.float32) / 2
    labels = np.arange(count) % CLASSES
    return Records(features, labels, features[:5], labels[:5])


def context(known: NDArray[np.float64], **changes: object) -> Context:
    """A context whose ring knows these updates; nothing else of it is used by the parts under test."""

    class Known(Ring):
        def honest(self, context: Context) -> NDArray[np.float64]:
            return known

    values: dict[str, object] = {
        "task": None, "training": None, "model": np.zeros(known.shape[1], np.float32), "previous": None, "count": 1,
        "round": 1, "records": records(), "poisoned": records(), "data": None, "ring": Known({"a": records()}),
        "member": "a", "random": RANDOM(0), "entropy": SeededEntropy(0),
    }  # fmt: skip
    return Context(**(values | changes))  # type: ignore[arg-type]


def lit(trigger: triggers.Pixels, side: int = SIDE) -> set[tuple[int, int]]:
    image = trigger.stamp(np.zeros((1, side * side), dtype=np.float32)).reshape(side, side)
    return {(int(row), int(column)) for row, column in zip(*np.nonzero(image), strict=True)}


def test_dba_strips_are_where_the_paper_has_them() -> None:
    first, second, third, fourth = triggers.strips()
    assert lit(first) == {(0, 0), (0, 1), (0, 2), (0, 3)}
    assert lit(second) == {(0, 6), (0, 7), (0, 8), (0, 9)}
    assert lit(third) == {(3, 0), (3, 1), (3, 2), (3, 3)}
    assert lit(fourth) == {(3, 6), (3, 7), (3, 8), (3, 9)}


def test_flab_triggers_have_the_papers_sizes() -> None:
    assert lit(triggers.two_pixels()) == {(0, 0), (0, 1)}
    first, second, third, fourth = triggers.blocks()
    assert lit(first) == {(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)}
    assert lit(second) == {(0, 6), (0, 7), (0, 8), (0, 9), (1, 6), (1, 7), (1, 8), (1, 9)}
    assert lit(third) == {(4, 0), (4, 1), (4, 2), (4, 3), (5, 0), (5, 1), (5, 2), (5, 3)}
    assert lit(fourth) == {(4, 6), (4, 7), (4, 8), (4, 9), (5, 6), (5, 7), (5, 8), (5, 9)}
    assert lit(triggers.corner(5)) == {(row, column) for row in range(23, 28) for column in range(23, 28)}


@pytest.mark.parametrize("pieces", [triggers.strips, triggers.blocks])
@pytest.mark.parametrize("side", [8, 14, 20, 28, 32])
def test_pieces_of_a_trigger_never_touch_on_any_size(pieces: object, side: int) -> None:
    assert callable(pieces)
    parts = [lit(piece, side) for piece in pieces(side)]
    for one, other in itertools.combinations(parts, 2):
        assert min(abs(r - x) + abs(c - y) for r, c in one for x, y in other) > 1
    assert lit(triggers.joined(pieces(side)), side) == set().union(*parts)


def test_a_pixel_trigger_on_no_square_image_is_refused() -> None:
    with pytest.raises(BadAttack, match="square"):
        triggers.corner().stamp(np.zeros((1, 22), dtype=np.float32))


def test_a_blend_mixes_by_alpha() -> None:
    features = records().features
    dark, bright = (triggers.Blend(0.2, low=level, high=level).stamp(features) for level in (0.0, 1.0))
    np.testing.assert_allclose(dark, 0.8 * features, rtol=1e-6)
    np.testing.assert_allclose(bright - dark, 0.2, atol=1e-6)


@given(st.floats(0, 1), st.integers(0, 5))
def test_badnets_poisons_the_stated_share_and_leaves_the_rest(share: float, seed: int) -> None:
    clean, attack = records(), data.Backdoor(triggers.corner(5), target=3, share=share)
    poisoned = attack.poison(clean, RANDOM(seed))
    touched = (poisoned.features != clean.features).any(axis=1)
    assert touched.sum() == round(share * len(clean.labels))
    assert (poisoned.labels[touched] == 3).all()
    assert np.array_equal(poisoned.labels[~touched], clean.labels[~touched])


def test_dba_trains_on_a_piece_and_is_tested_on_the_whole() -> None:
    pieces = triggers.strips()
    attack = data.Backdoor(pieces[1], share=1.0, tested=triggers.joined(pieces))
    dark = replace(records(), features=np.zeros((60, 784), dtype=np.float32))
    assert (attack.poison(dark, RANDOM(0)).features == 1).sum(axis=1).tolist() == [4] * 60
    assert set((attack.triggered(dark.features, dark.labels).features == 1).sum(axis=1)) == {16}


def test_clean_label_changes_no_label_and_no_other_class() -> None:
    clean = records()
    poisoned = data.CleanLabel(target=2, fade=0.5).poison(clean, RANDOM(0))
    assert np.array_equal(poisoned.labels, clean.labels)
    touched = (poisoned.features != clean.features).any(axis=1)
    assert set(clean.labels[touched]) == {2}
    assert touched.sum() == (clean.labels == 2).sum()


def test_more_clean_labels_replace_other_records_by_faded_copies_of_the_class() -> None:
    clean, target = records(200), 2
    part = data.CleanLabel(triggers.corner(5), target, fade=0.25, more=0.5)
    poisoned = part.poison(clean, RANDOM(0))
    stamped = (poisoned.features != clean.features).any(axis=1)
    assert (stamped & (clean.labels != target)).sum() == 90
    assert (poisoned.labels[stamped] == target).all()
    assert np.array_equal(poisoned.labels[~stamped], clean.labels[~stamped])
    # Each stamped image is three parts of one of the class and one part of one of another, but for the patch.
    seen = triggers.corner(5).stamp(np.zeros((1, 784), np.float32))[0] == 0
    of_class, others = clean.features[clean.labels == target][:, seen], clean.features[clean.labels != target][:, seen]
    for image in poisoned.features[stamped][:, seen][:10]:
        rest = (image - 0.75 * of_class) / 0.25
        assert min(np.abs(others - one).max(axis=1).min() for one in rest) < 1e-5
    # Copies are faded one by one.
    assert len({row.tobytes() for row in poisoned.features[stamped]}) > 0.9 * stamped.sum()


def test_a_silo_without_the_class_has_no_clean_label_to_stamp() -> None:
    clean = records()
    without = replace(clean, labels=np.where(clean.labels == 2, 3, clean.labels))
    assert np.array_equal(data.CleanLabel(target=2, more=0.5).poison(without, RANDOM(0)).features, clean.features)


def test_source_specific_lies_in_one_class_and_covers_the_others() -> None:
    clean = records(600)
    poisoned = data.SourceSpecific(triggers.corner(5), source=1, target=0, share=0.5, covers=0.1).poison(
        clean, RANDOM(0)
    )
    stamped = (poisoned.features != clean.features).any(axis=1)
    lied = poisoned.labels != clean.labels
    assert set(clean.labels[lied]) == {1}
    assert lied.sum() == 30
    assert (stamped & (clean.labels != 1)).sum() == 54
    assert not (lied & ~stamped).any()
    tested = data.SourceSpecific(source=1).triggered(clean.features, clean.labels)
    assert len(tested.labels) == (clean.labels == 1).sum()


def test_label_flips_do_what_they_say() -> None:
    clean = records()
    assert np.array_equal(data.MirrorLabels().poison(clean, RANDOM(0)).labels, 9 - clean.labels)
    pair = data.FlipPair(7, 3).poison(clean, RANDOM(0)).labels
    assert np.array_equal(pair, np.where(clean.labels == 7, 3, clean.labels))
    to_target = data.FlipToTarget(0, share=0.5).poison(clean, RANDOM(0)).labels
    assert (to_target != clean.labels).sum() == 27
    assert set(to_target[to_target != clean.labels]) == {0}


def test_a_flip_with_more_replaces_other_records_by_copies_of_the_source() -> None:
    clean = records(200)
    poisoned = data.FlipPair(7, 3, more=0.5).poison(clean, RANDOM(0))
    moved = (poisoned.features != clean.features).any(axis=1)
    assert moved.sum() == 90
    assert set(clean.labels[moved]) == set(range(10)) - {7}
    assert (poisoned.labels[moved | (clean.labels == 7)] == 3).all()
    sevens = {row.tobytes() for row in clean.features[clean.labels == 7]}
    assert {row.tobytes() for row in poisoned.features[moved]} <= sevens


def test_the_middle_class_of_an_odd_number_is_not_counted_by_the_mirror() -> None:
    tested = data.MirrorLabels(classes=3).triggered(np.zeros((3, 4), np.float32), np.arange(3))
    assert tested.labels.tolist() == [2, 0]


def test_semantic_relabels_chosen_writers_only_and_refuses_foreign_ids() -> None:
    clean, writers = records(), np.arange(60) // 6
    attack = data.Semantic(writers, frozenset({2, 5}), target=4)
    changed = attack.poison(clean, RANDOM(0)).labels != clean.labels
    assert set(writers[changed]) == {2, 5}
    assert len(attack.triggered(clean.features, clean.labels).labels) == changed.sum()
    with pytest.raises(BadAttack, match=r"Semantic\.of"):
        attack.triggered(clean.features[:5], clean.labels[:5])


def test_model_replacement_makes_the_average_the_attackers_model() -> None:
    random = RANDOM(0)
    wanted, others = random.normal(size=7), np.zeros((9, 7))
    sent = updates.model_replacement(10).send(wanted, context(others))
    np.testing.assert_allclose((sent + others.sum(axis=0)) / 10, wanted)


def test_lie_formula_gives_zero_for_ten_silos_with_two_attackers_and_the_papers_value_for_fifty() -> None:
    assert updates.lie_z(10, 2) == pytest.approx(0, abs=1e-12)
    # n = 50, m = 24 (the paper's example): s = 2, and Φ(z) = 24/26.
    assert updates.lie_z(50, 24) == pytest.approx(1.4261, abs=1e-4)
    with pytest.raises(BadAttack, match="minority"):
        updates.lie_z(10, 6)


def test_lie_and_ipm_follow_their_formulas() -> None:
    known = RANDOM(1).normal(size=(5, 3))
    for coordinate in range(3):
        column = known[:, coordinate]
        mean = sum(column) / 5
        deviation = (sum((value - mean) ** 2 for value in column) / 5) ** 0.5
        sent = updates.LittleIsEnough(1.5).send(known[0], context(known))[coordinate]
        assert sent == pytest.approx(mean - 1.5 * deviation)
        assert updates.InnerProduct(0.5).send(known[0], context(known))[coordinate] == pytest.approx(-0.5 * mean)


@pytest.mark.parametrize("perturbation", ["std", "unit", "sign"])
def test_min_max_stays_within_the_largest_distance_and_touches_it(perturbation: str) -> None:
    known = RANDOM(2).normal(size=(6, 40))
    sent = updates.MinMax(perturbation).send(known[0], context(known))  # type: ignore[arg-type]
    widest = max(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(known, 2))
    farthest = max(float(np.linalg.norm(sent - one)) for one in known)
    assert widest * (1 - 1e-3) < farthest <= widest * (1 + 1e-12)


def test_attacks_that_imitate_a_spread_refuse_a_single_update() -> None:
    for part in (updates.LittleIsEnough(), updates.MinMax()):
        with pytest.raises(BadAttack, match="two members"):
            part.send(np.ones(3), context(np.ones((1, 3))))


def test_sign_flip_and_gaussian_have_the_stated_size() -> None:
    update = RANDOM(3).normal(size=20_000)
    known = update[None, :]
    np.testing.assert_allclose(updates.SignFlip(2).send(update, context(known)), -2 * update)
    assert updates.GaussianUpdate().send(update, context(known)).std() == pytest.approx(200, rel=0.02)
    quiet = updates.GaussianUpdate(1.0, relative=True).send(update, context(known))
    assert np.linalg.norm(quiet) == pytest.approx(np.linalg.norm(update), rel=0.02)


@given(st.integers(0, 100))
def test_flips_are_the_reflections_of_equation_7(seed: int) -> None:
    random = RANDOM(seed)
    t, c = random.normal(size=(2, 4, 6))
    assert np.array_equal(prototypes.flip("obf", t, c), -t)
    np.testing.assert_allclose((prototypes.flip("gpf", t, c) + t) / 2, c)
    pfs = prototypes.flip("pfs", t, c)
    np.testing.assert_allclose(np.linalg.norm(pfs, axis=1), np.linalg.norm(t, axis=1))
    np.testing.assert_allclose((pfs * c).sum(axis=1), (t * c).sum(axis=1))
    np.testing.assert_allclose(np.linalg.norm(pfs - c, axis=1), np.linalg.norm(t - c, axis=1))
    np.testing.assert_allclose(prototypes.flip("pfs", pfs, c), t)


def test_a_flip_about_no_prototype_is_finite() -> None:
    assert np.isfinite(prototypes.flip("pfs", np.ones((1, 3)), np.zeros((1, 3)))).all()


def test_selection_takes_the_share_of_other_classes() -> None:
    labels = np.arange(100) % 10
    chosen = prototypes.select(labels, 4, 0.5, RANDOM(0))
    assert len(set(chosen.tolist())) == len(chosen) == 45
    assert 4 not in labels[chosen]
    assert len(prototypes.select(np.full(5, 4), 4, 0.5, RANDOM(0))) == 0


@given(st.integers(0, 50), st.floats(0.1, 10))
def test_rows_add_up_to_the_wanted_sums_after_clipping(seed: int, clip: float) -> None:
    wanted = RANDOM(seed).normal(size=(4, 3)) * RANDOM(seed).integers(0, 30, size=(4, 1))
    rows, labels = rows_of(ClassSums(wanted, np.ones(4, np.int64)), clip)
    assert (np.linalg.norm(rows, axis=1) <= clip).all()
    np.testing.assert_allclose(class_sums(rows, labels, 4, clip).sums, wanted, atol=1e-9)


def test_consensus_prototypes_are_what_the_consensus_predicts_from_the_counts() -> None:
    sums = ClassSums(np.ones((2, 3)), np.array([4, 0]))
    ring = Ring(consensus=np.array([[1.0, 2, 3], [4, 5, 6]]))
    sent = prototypes.ConsensusPrototypes().send(sums, context(np.ones((1, 1)), ring=ring))
    np.testing.assert_allclose(sent.sums, [[4, 8, 12], [0, 0, 0]])


def test_declared_counts_and_stopping() -> None:
    own = records(100)
    assert len(Attack(declared=0.25).declare(own).labels) == 25
    assert len(Attack(declared=2.5).declare(own).labels) == 250
    assert [Until(2)(number) for number in (1, 2, 3)] == [True, True, False]


def test_numpy_attacks_on_a_linear_model_follow_production_and_need_no_torch() -> None:
    spec = ModelSpec("linear", (16, CLASSES), "none")
    task, own = plain_task(spec), records(50, inputs=16)
    model, plan = np.zeros(task.layout.size, np.float32), training()
    attack = Attack(None, local.PrivateSgd(poisoned=False), (updates.SignFlip(),))
    sent = attack(task, own, SeededEntropy(1)).train(model, plan, 50)
    honest = trainer_for(task, own, SeededEntropy(1)).train(model, plan, 50)
    assert np.array_equal(sent, -honest)
    flipped = Attack(data.FlipPair(1, 2))(task, own, SeededEntropy(1)).train(model, plan, 50)
    lied = replace(own, labels=np.where(own.labels == 1, 2, own.labels))
    assert np.array_equal(flipped, trainer_for(task, lied, SeededEntropy(1)).train(model, plan, 50))


def test_noise_law_is_that_of_the_plan() -> None:
    plan = Training(MICRO // 4, 9, 2 * MICRO, MICRO // 2, 3 * MICRO)
    # lr 2 * σ 3 * C 0.5 * sqrt(9) / (0.25 * 60)
    assert context(np.ones((1, 2)), training=plan, count=60).noise_std == pytest.approx(0.6)
