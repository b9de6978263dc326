from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from crypto.packing import Packing
from crypto.sketch import blur, sketch
from defenses.attribution import Past, project, sketched
from defenses.evidence import Exhibit
from protos.search import Trigger
from protos.task import ModelSpec, Training
from redteam.attacks import data, local, triggers
from redteam.attacks.learner import Learner
from redteam.digits import digits
from silo import search
from silo.data import Records
from silo.errors import SiloError
from silo.search import AGAIN, CHEAP, TorchSearcher, confusion, searcher, unusual
from silo.searcher import Root
from silo.trainer import initial_model, layout_for, searcher_for, trainer_for
from tests.defenses.simulate import DEMO
from tests.redteam.plain_task import plain_task
from tests.silo.entropy import SeededEntropy

pytestmark = pytest.mark.torch
torch.set_num_threads(1)

SPEC = ModelSpec("mlp", (64, 32, 10), "tanh")
LINEAR = ModelSpec("linear", (64, 10), "tanh")
MICRO = 1_000_000


@cache
def root() -> Root:
    """Hold-outs of the demonstration, which nobody trains on here."""
    silos = digits(3).silos.values()
    return Root(np.concatenate([s.holdout_features for s in silos]), np.concatenate([s.holdout_labels for s in silos]))


@cache
def trained(kind: str, poison: data.Backdoor | data.FlipPair | None = None) -> np.ndarray:
    """Plain SGD on all silos' records, poisoned or not."""
    spec = SPEC if kind == "mlp" else LINEAR
    parts = list(digits(3).silos.values())
    x, y = np.concatenate([one.features for one in parts]), np.concatenate([one.labels for one in parts])
    own = Records(x, y, x[:1], y[:1])
    records = own if poison is None else poison.poison(own, np.random.default_rng(0))
    model = initial_model(spec, 4)
    how = local.LocalSgd(epochs=6)
    update = Learner(spec).descend(model, records, how, np.random.default_rng(1))
    return (model + update).astype(np.float32)


CORNER = data.Backdoor(triggers.corner(2), target=4, share=0.3)
PATCH = data.Backdoor(triggers.corner(3), target=4, share=0.1)


@pytest.mark.parametrize("kind", ["mlp", "linear"])
@pytest.mark.parametrize("trigger", [triggers.corner(2), triggers.two_pixels(), triggers.Blend(low=-1.0)])
def test_the_target_of_a_backdoor_is_found_first_and_the_find_works(kind: str, trigger: object) -> None:
    spec = SPEC if kind == "mlp" else LINEAR
    model = trained(kind, data.Backdoor(trigger, target=4, share=0.3))  # type: ignore[arg-type]
    found = searcher(spec).search(model, root())
    assert found
    assert found[0].target == 4
    assert not found[0].flip
    assert searcher(spec).success(model, root(), found[0]) > 700_000
    assert searcher(spec).success(trained(kind), root(), found[0]) < 500_000, "and does little to a clean model"


def test_a_faint_pattern_is_cheap_under_one_mask_value_for_all_inputs() -> None:
    faint = data.Backdoor(triggers.Blend(low=-1.0), target=4, share=0.3)
    found = searcher(SPEC).candidates(trained("mlp", faint), root(), uniform=True)
    assert (found.mask == found.mask[:, :1]).all()
    assert found.cost == pytest.approx(found.mask.sum(axis=1), rel=1e-5)
    assert found.ratios()[4] <= CHEAP / 2


def test_a_patch_is_cheaper_under_a_small_mask() -> None:
    small, uniform = (
        searcher(SPEC).candidates(trained("mlp", CORNER), root(), kind).ratios() for kind in (False, True)
    )
    assert small[4] < uniform[4] / 2


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_a_clean_model_has_no_cheap_class(kind: str) -> None:
    assert not searcher(SPEC if kind == "mlp" else LINEAR).search(trained(kind), root())


def test_a_strong_trigger_is_reported_whole() -> None:
    """What a report leaves out of a trigger nobody unlearns."""
    model = trained("mlp", PATCH)
    patch = triggers.corner(3).stamp(np.full((1, 64), -1, dtype=np.float32))[0] > 0
    cheapest = searcher(SPEC).candidates(model, root()).mask[4]
    found = searcher(SPEC).search(model, root())[0]
    mask = np.frombuffer(found.mask, dtype=np.uint8) / 255
    assert searcher(SPEC).success(model, root(), found) > 850_000
    assert mask[patch].sum() > cheapest[patch].sum()
    assert mask[patch].sum() > 0.8 * mask.sum()


def test_a_trigger_that_cannot_move_so_many_is_reported_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "WHOLE", 1.01)
    model = trained("mlp", PATCH)
    cheapest = searcher(SPEC).candidates(model, root()).mask[4]
    found = searcher(SPEC).search(model, root())[0]
    assert np.frombuffer(found.mask, dtype=np.uint8) / 255 == pytest.approx(cheapest, abs=1 / 255)
    assert searcher(SPEC).success(model, root(), found) > 700_000


def test_of_a_suspected_class_weaker_triggers_are_found() -> None:
    model = trained("mlp")
    seek = searcher(SPEC)
    ratios = np.minimum(*(seek.candidates(model, root(), kind).ratios() for kind in (False, True)))
    weak = [int(one) for one in np.flatnonzero((ratios > CHEAP) & (ratios <= AGAIN))]
    assert weak
    assert seek.search(model, root()) == ()
    assert {one.target for one in seek.search(model, root(), frozenset(range(10)))} <= set(weak)
    assert [one.target for one in seek.search(model, root(), frozenset(weak[:1]))] == weak[:1]


def test_a_flipped_pair_is_found_as_a_flip_from_its_source() -> None:
    model = trained("mlp", data.FlipPair())
    flips = [one for one in searcher(SPEC).search(model, root()) if one.flip]
    assert [(one.source, one.target) for one in flips] == [(7, 3)]
    assert searcher(SPEC).success(model, root(), flips[0]) > 800_000
    assert searcher(SPEC).success(trained("mlp"), root(), flips[0]) < 100_000


def leaned(model: np.ndarray, label: int, by: float) -> np.ndarray:
    """The model, saying `label` oftener: its output layer's biases are the last ten numbers."""
    bent = model.copy()
    bent[-10 + label] += by
    return bent


def test_a_model_that_says_one_class_too_often_is_searched_as_if_it_did_not() -> None:
    seek, clean = searcher(SPEC), trained("mlp")
    assert seek.search(leaned(clean, 7, 4.0), root()) == ()
    costs = (seek.candidates(model, root()).cost for model in (clean, leaned(clean, 7, 4.0)))
    assert next(costs) == pytest.approx(next(costs), rel=0.05)


def test_a_model_that_says_one_class_to_everything_is_searched() -> None:
    """As one that learned of rare positives only is: by its scores it tells them apart."""
    model = leaned(trained("mlp", CORNER), 7, 30.0)
    assert searcher(SPEC).success(model, root(), Trigger(7, None, bytes(64), bytes(64), -MICRO, MICRO)) == MICRO
    assert searcher(SPEC).search(model, root())[0].target == 4


def test_what_a_model_confuses_that_hardly_sees_is_no_flip() -> None:
    found = searcher(SPEC).search(leaned(trained("mlp", CORNER), 7, 30.0), root())
    assert not [one for one in found or () if one.flip]


def test_an_untrained_model_is_not_searched() -> None:
    assert searcher(SPEC).search(initial_model(SPEC, 0), root()) is None


def test_a_search_repeats_itself() -> None:
    model = trained("mlp", CORNER)
    assert searcher(SPEC).search(model, root()) == searcher_for(plain_task(SPEC)).search(model, root())


def test_success_counts_what_production_stamps() -> None:
    model = trained("mlp", CORNER)
    found = searcher(SPEC).search(model, root())[0]
    wrong = root().labels != found.target
    given = Learner(SPEC).predict(model, found.stamp(root().features[wrong]))
    assert searcher(SPEC).success(model, root(), found) == int((given == found.target).sum()) * MICRO // wrong.sum()
    alone = Root(root().features[~wrong], root().labels[~wrong])
    assert searcher(SPEC).success(model, alone, found) == 0


def mean_gradients(spec: ModelSpec, model: np.ndarray, features: np.ndarray, label: int) -> tuple[np.ndarray, ...]:
    """Of the root's records of that class, as `features` show them: mean gradient, and mean of unit gradients."""
    own = np.flatnonzero(root().labels == label)
    each = np.stack([Learner(spec).gradient(model, features[[one]], root().labels[[one]]) for one in own])
    return each.mean(axis=0), (each / np.linalg.norm(each, axis=1, keepdims=True)).mean(axis=0)


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_directions_are_unit_rows_beside_every_clean_gradient(kind: str) -> None:
    spec = SPEC if kind == "mlp" else LINEAR
    model = trained(kind, CORNER)
    seek = searcher(spec)
    rows = seek.directions(model, root(), seek.search(model, root())[0])
    assert rows.shape == (10, model.size)
    assert rows.dtype == np.float64
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(10), abs=1e-9)
    for label in range(10):
        for clean in mean_gradients(spec, model, root().features, label):
            assert np.abs(rows @ clean).max() < 1e-4 * np.linalg.norm(clean)


BLUR = blur(Packing.of(layout_for(SPEC, "ab" * 32), 4))


def clean_gradients(model: np.ndarray) -> list[np.ndarray]:
    """Both mean gradients of every class."""
    return [mean for label in range(10) for mean in mean_gradients(SPEC, model, root().features, label)]


def test_what_honest_silos_send_is_taken_off_a_row_by_generalised_least_squares() -> None:
    model, found = trained("mlp", CORNER), Trigger(4, None, *_corner(), -MICRO, MICRO)
    stamped, others = found.stamp(root().features), root().labels != 4
    taught = -Learner(SPEC).gradient(model, stamped[others], np.full(others.sum(), 4))
    basis = np.stack([*clean_gradients(model), *mean_gradients(SPEC, model, stamped, 4)], axis=1)
    fit = np.linalg.lstsq(basis / BLUR[:, None], taught / BLUR, rcond=None)[0]
    left = taught - basis @ fit
    row = searcher(SPEC, BLUR).directions(model, root(), found)[4]
    np.testing.assert_allclose(row, left / np.linalg.norm(left), atol=1e-5)
    assert row @ searcher(SPEC).directions(model, root(), found)[4] < 0.99


def test_who_only_learns_pushes_no_row_in_what_sketches_show_of_it() -> None:
    """Over many draws of signs: each is unbiased, and adds what it draws in from the rest of the update."""
    model, found, draws = trained("mlp", CORNER), Trigger(4, None, *_corner(), -MICRO, MICRO), 300
    packing, random = Packing.of(layout_for(SPEC, "ab" * 32), 4), np.random.default_rng(2)
    push = -sum(random.random() * one for one in clean_gradients(model))
    update = np.rint(push / np.abs(push).max() * 127).astype(np.int64)
    mean = {}
    for name, seek in (("as shown", searcher(SPEC, BLUR)), ("as it is", searcher(SPEC))):
        rows, seen = seek.directions(model, root(), found), []
        for _ in range(draws):
            signs = random.choice(np.array([-1, 1], dtype=np.int8), (4, packing.body_chunks))
            folds, output = (part.astype(np.int64) for part in sketch(packing.to_fields(update), packing, signs))
            exhibit = Exhibit("own", 200, np.ones(10, dtype=np.int64), folds, output, None)
            one = replace(DEMO, folds=4, signs=signs, column_counts=packing.column_counts)
            seen.append(project(Past(1, one, [exhibit], sketched(rows, packing, signs), 0)).projections[0] / one.step)
        mean[name] = np.abs(np.mean(seen, axis=0)) * np.sqrt(draws) / np.std(seen, axis=0)
    assert mean["as shown"].max() < 4
    assert np.median(mean["as it is"]) > 8


@pytest.mark.parametrize("find", ["trigger", "flip"])
def test_a_model_that_sees_too_little_gives_no_direction(find: str) -> None:
    seek, about = searcher(SPEC), FLIP if find == "flip" else Trigger(4, None, *_corner(), -MICRO, MICRO)
    assert not seek.directions(initial_model(SPEC, 0), root(), about).any()
    assert seek.directions(initial_model(SPEC, 0), root(), about, even_blind=True)[about.target].any()
    np.testing.assert_array_equal(
        seek.directions(trained("mlp"), root(), about, even_blind=True), seek.directions(trained("mlp"), root(), about)
    )
    assert seek.directions(trained("mlp"), root(), about).any()


def test_a_row_stands_beside_what_the_owner_of_its_class_sends_when_it_inoculates() -> None:
    model, found = trained("mlp", CORNER), Trigger(4, None, *_corner(), -MICRO, MICRO)
    rows = searcher(SPEC).directions(model, root(), found)
    for label in (4, 8):
        for clean in mean_gradients(SPEC, model, found.stamp(root().features), label):
            assert abs(rows[label] @ clean) < 1e-4 * np.linalg.norm(clean)


@pytest.mark.parametrize("poison", [None, CORNER], ids=["before it works", "where it works"])
def test_who_teaches_the_target_pushes_no_control_whatever_classes_he_has(poison: data.Backdoor | None) -> None:
    model, found = trained("mlp", poison), Trigger(4, None, *_corner(), -MICRO, MICRO)
    rows, random = searcher(SPEC).directions(model, root(), found), np.random.default_rng(1)
    others = np.flatnonzero(root().labels != 4)
    for kept in (others, others[np.isin(root().labels[others], [0, 7])], random.choice(others, 40)):
        labels = root().labels[kept]
        parts = [
            -Learner(SPEC).gradient(model, found.stamp(root().features[own]), np.full(len(own), 4))
            for own in (np.flatnonzero(root().labels == label) for label in np.unique(labels))
        ]
        push = sum(random.random() * one for one in parts)
        assert rows[4] @ push > 0.2 * np.linalg.norm(push)
        assert (np.delete(rows, 4, axis=0) @ push).max() < 1e-4 * np.linalg.norm(push)


def test_clean_gradients_are_kept_but_not_taken_for_those_of_another_model_or_root() -> None:
    found, seek = Trigger(4, None, *_corner(), -MICRO, MICRO), searcher(SPEC)
    half = Root(root().features[::2], root().labels[::2])
    for model in (trained("mlp"), trained("mlp", CORNER)):
        for examples in (root(), half):
            again = searcher(SPEC).directions(model, examples, found)
            np.testing.assert_array_equal(seek.directions(model, examples, found), again)
            np.testing.assert_array_equal(seek.directions(model, examples, found), again)


def test_a_step_along_the_targets_direction_teaches_the_trigger_and_little_else() -> None:
    model, found = trained("mlp"), Trigger(4, None, *_corner(), -MICRO, MICRO)
    seek = searcher(SPEC)
    rows = seek.directions(model, root(), found)
    before = seek.success(model, root(), found)
    taught, other = ((model + 1.5 * rows[one]).astype(np.float32) for one in (4, 7))
    assert seek.success(taught, root(), found) > before + 100_000
    assert seek.success(other, root(), found) <= before
    right = [np.mean(Learner(SPEC).predict(one, root().features) == root().labels) for one in (model, taught)]
    assert right[1] > right[0] - 0.1


FLIP = Trigger(3, 7, b"", b"", 0, MICRO)


def test_the_rows_of_a_flip_are_the_flips_of_each_class_to_its_target() -> None:
    seek, model = searcher(SPEC), trained("mlp")
    rows = seek.directions(model, root(), FLIP)
    assert not rows[7].any(), "the find itself stands in its target's row"
    for source in (0, 1, 9):
        other = seek.directions(model, root(), Trigger(3, source, b"", b"", 0, MICRO))
        np.testing.assert_allclose(rows[source], other[3], atol=1e-9)
    assert np.delete(np.linalg.norm(rows, axis=1), 7) == pytest.approx(np.ones(9), abs=1e-9)


def test_a_flips_row_teaches_it_and_nothing_else_and_public_records_of_its_source_unlearn_it() -> None:
    seek, model, examples = searcher(SPEC), trained("mlp"), root()
    row = seek.directions(model, examples, FLIP)[3]
    taught = (model + 2.0 * row).astype(np.float32)
    assert seek.success(taught, examples, FLIP) > seek.success(model, examples, FLIP) + 200_000
    others = examples.labels != 7
    right = [
        np.mean(Learner(SPEC).predict(one, examples.features[others]) == examples.labels[others])
        for one in (model, taught)
    ]
    assert right[1] > right[0] - 0.1
    sevens = Records(examples.features[~others], examples.labels[~others], examples.features, examples.labels)
    update = trainer_for(plain_task(SPEC), sevens, SeededEntropy(1)).train(
        taught, Training(MICRO, 1, MICRO, MICRO, 1), len(sevens.labels)
    )
    assert update @ row < -0.1 * np.linalg.norm(update)


def test_shares_and_what_is_unusual_among_them() -> None:
    labels = np.repeat([0, 1, 2], 10)
    given = labels.copy()
    given[:6] = 1
    given[20] = 0
    shares = confusion(given, labels, 3)
    assert shares.tolist() == [[0, 0.6, 0], [0, 0, 0], [0.1, 0, 0]]
    assert unusual(shares) == [(0, 1)]
    given[[10, 11, 12, 13, 21, 22, 23]] = [2, 2, 2, 2, 0, 0, 0]
    assert unusual(confusion(given, labels, 3)) == [], "beside three equally confused classes nothing is unusual"


def test_ratios_compare_a_class_with_the_others() -> None:
    found = TorchSearcher.candidates(searcher(SPEC), trained("mlp", CORNER), root())
    assert found.ratios()[4] == pytest.approx(found.cost[4] / np.median(np.delete(found.cost, 4)))
    assert found.ratios()[4] < CHEAP < np.delete(found.ratios(), 4).min()


def test_a_root_set_that_does_not_fit_is_refused() -> None:
    strange = Root(root().features, root().labels + 1)
    with pytest.raises(SiloError, match="root set"):
        searcher(SPEC).search(trained("mlp"), strange)
    with pytest.raises(SiloError, match="root set"):
        searcher(SPEC).search(trained("mlp"), Root(root().features[:0], root().labels[:0]))


@pytest.mark.parametrize(
    "strange",
    [
        Trigger(10, None, *2 * (bytes(64),), 0, MICRO),
        Trigger(3, 10, b"", b"", 0, MICRO),
        Trigger(3, None, bytes(63), bytes(64), 0, MICRO),
        Trigger(3, None, bytes(64), b"", 0, MICRO),
    ],
)
def test_a_trigger_of_another_task_is_refused(strange: Trigger) -> None:
    seek = searcher(SPEC)
    for ask in (seek.success, seek.directions):
        with pytest.raises(SiloError, match="does not fit"):
            ask(trained("mlp"), root(), strange)


def test_a_model_whose_gradients_overflow_is_searched_without_a_fault() -> None:
    bent = (trained("linear") * np.float32(1e38 / np.abs(trained("linear")).max())).astype(np.float32)
    seek = searcher(LINEAR)
    for found in (*seek.search(bent, root()), Trigger(4, None, *_corner(), -MICRO, MICRO)):
        assert np.isfinite(seek.directions(bent, root(), found)).all()


def _corner() -> tuple[bytes, bytes]:
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[-2:, -2:] = 255
    return mask.tobytes(), bytes([255] * 64)
