"""Fixed features in scenarios: public images are nobody's, honest and attacking silos see the same extractor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from redteam import datasets, featured
from redteam.attacks import data as parts
from redteam.attacks.attack import Attack
from redteam.attacks.triggers import corner
from redteam.datasets import Dataset, digits
from redteam.errors import BadAttack, BadScenario
from redteam.featured import through_scattering
from redteam.run import run
from redteam.scenario import parse
from redteam.world import build
from silo import rootset
from silo.entropy import OsEntropy
from silo.features import Extractor, fit
from silo.features import parse as parse_extractor
from silo.scattering import Shape

NOWHERE = Path("no directory is needed for digits")
PUBLIC = 349
"""A quarter of the 1,397 digits for training."""
LINEAR: dict[str, Any] = {
    "data": {"features": "scattering", "test": 200},
    "model": {"kind": "linear"},
    "training": {"rounds": 4, "sample_rate": 0.3, "learning_rate": 40.0, "clip": 0.5, "schedule": "cosine"},
    "federation": {"silos": 5, "folds": 2, "defense": "plain"},
}


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(featured, "CACHE", tmp_path_factory.mktemp("features"))
        yield


def with_attack(**attack: Any) -> dict[str, Any]:
    return LINEAR | {"attack": attack}


def rows(features: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in features}


def test_features_are_those_of_an_extractor_that_knows_the_public_images_only() -> None:
    images = digits(NOWHERE)
    source = through_scattering(images)
    learned = parse_extractor(fit(images.features[-PUBLIC:], Shape(8, 8), 2 * PUBLIC // 5, 27))
    assert source.seen.extractor == learned.digest
    assert np.array_equal(source.images.labels, images.labels[:-PUBLIC])
    assert source.seen.features == pytest.approx(learned.features(images.features[:-PUBLIC]), abs=1e-5)
    assert source.seen.test_features == pytest.approx(learned.features(images.test_features), abs=1e-5)


def test_fewer_components_are_an_extractor_of_their_own() -> None:
    source = through_scattering(digits(NOWHERE), 20)
    assert source.extractor is not None
    assert source.seen.features.shape[1] == source.extractor.outputs == 20
    assert source.seen.extractor == source.extractor.digest != through_scattering(digits(NOWHERE)).seen.extractor
    assert source.seen.features == pytest.approx(source.extractor.features(source.images.features), abs=1e-4)


def test_nothing_is_extracted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    first = through_scattering(digits(NOWHERE))
    monkeypatch.setattr(featured, "fit", None)
    monkeypatch.setattr(Extractor, "features", None)
    again = through_scattering(digits(NOWHERE))
    assert again.seen.extractor == first.seen.extractor
    assert np.array_equal(again.seen.features, first.seen.features)


def test_changed_images_are_not_taken_from_the_cache() -> None:
    images = digits(NOWHERE)
    other = replace(images, features=images.features.copy())
    other.features[0] = other.features[1]
    assert not np.array_equal(through_scattering(other).seen.features, through_scattering(images).seen.features)


def test_records_that_are_no_square_images_are_refused() -> None:
    table = Dataset(np.zeros((80, 11), np.float32), np.zeros(80, np.int64), np.zeros((9, 11), np.float32), *[0] * 2)  # type: ignore[arg-type]
    with pytest.raises(BadScenario, match=r"takes square images .* set data\.set"):
        through_scattering(table)
    with pytest.raises(BadScenario, match="gives up to 139 components"):
        through_scattering(digits(NOWHERE), 140)


def test_no_silo_and_no_test_record_is_among_the_images_that_taught_the_features() -> None:
    images = digits(NOWHERE)
    public = rows(images.features[-PUBLIC:]) - rows(images.features[:-PUBLIC])
    assert len(public) > PUBLIC - 5
    source, world = through_scattering(images), build(parse(with_attack(name="badnets", share=0.4)), NOWHERE)
    behind = {row.tobytes(): image for row, image in zip(source.seen.features, source.images.features, strict=True)}
    for name, records in world.records.items():
        own = [*records.features, *records.holdout_features]
        assert not {behind[row.tobytes()].tobytes() for row in own} & public
        assert not rows(world.seats[name].records.features) & public
    assert sum(len(one.labels) + len(one.holdout_labels) for one in world.records.values()) == 1397 - PUBLIC


def test_task_root_set_and_all_records_are_of_one_extractor() -> None:
    scenario = with_attack(name="badnets", share=0.4) | {"engine": {"search": True}}
    world = build(parse(scenario), NOWHERE)
    source = through_scattering(digits(NOWHERE))
    assert source.extractor is not None
    assert world.task.model.features == source.extractor.digest
    assert world.task.model.sizes == (source.extractor.outputs, 10)
    assert world.root is not None
    root = rootset.from_bytes(world.root, source.extractor.outputs)
    assert rows(root.features) <= rows(source.seen.test_features)
    everything = [*world.records.values(), world.test, world.triggered]
    assert {one.extractor for one in everything if one is not None} == {source.extractor.digest}


def test_success_is_measured_on_stamped_images_and_not_on_stamped_features() -> None:
    world = build(parse(with_attack(name="badnets", share=0.4)), NOWHERE)
    source = through_scattering(digits(NOWHERE))
    assert source.extractor is not None
    assert world.triggered is not None
    images = source.images.test_features.reshape(-1, 8, 8).copy()
    images[:, -2:, -2:] = 1.0
    stamped = source.extractor.features(images.reshape(-1, 64))
    distances = [np.abs(stamped - row).max(axis=1).min() for row in world.triggered.features]
    assert max(distances) < 1e-5


def test_an_attacker_trains_on_features_of_images_that_it_poisoned() -> None:
    world = build(parse(with_attack(name="badnets", share=0.4)), NOWHERE)
    name, attack = next(iter(world.crew.items()))
    images = world.seats[name].records
    assert images.features.shape[1] == 64
    trainer = attack(world.task, images, OsEntropy())
    assert attack.extractor is not None
    wanted = attack.extractor.features(attack.poison(images).features)
    assert np.array_equal(trainer._poisoned.features, wanted)
    assert rows(trainer._records.features) == rows(attack.extractor.features(images.features))


def test_only_the_attackers_own_records_can_be_stamped_behind_their_features() -> None:
    source = through_scattering(digits(NOWHERE))
    assert source.extractor is not None
    images = parts.holdout(source.images.features[:30], source.images.labels[:30])
    attack = Attack(parts.Backdoor(corner(2)), extractor=source.extractor)
    world = build(parse(LINEAR), NOWHERE)
    trainer = attack(world.task, images, OsEntropy())
    context = trainer._next(np.zeros(world.task.layout.size, np.float32), world.task.training, 30)
    assert context.data is not None
    lies = context.data.triggered(context.records.features, context.records.labels)
    assert lies.features == pytest.approx(source.extractor.features(attack.triggered(*_of(images)).features), abs=1e-6)
    with pytest.raises(BadAttack, match="own records"):
        context.data.triggered(context.records.features[:5], context.records.labels[:5])


def test_attacks_that_learn_a_trigger_in_pixels_are_refused() -> None:
    with pytest.raises(BadScenario, match=r"data\.features must be none"):
        build(parse(with_attack(name="bapfl-pfs", share=0.4)), NOWHERE)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize(
    ("attack", "least"),
    [({"name": "badnets", "local": {"learning_rate": 5.0}}, 0.7), ({"name": "badnets", "share": 0.0}, 0.0)],
)
def test_a_patch_in_pixels_works_through_features_against_plain_averaging(attack: dict[str, Any], least: float) -> None:
    """Without attackers the patch does nothing."""
    result = run(parse(with_attack(**{"share": 0.4, **attack})), NOWHERE)
    assert result.success is not None
    assert result.success >= least
    assert result.success < 0.1 or least > 0
    assert result.accuracy > 0.85


@pytest.mark.parametrize("name", ["min-max", "noise-replacement", "drip-0.3"])
@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_attacks_that_need_colluders_or_an_aim_while_training_run_on_features(name: str) -> None:
    table = with_attack(name=name, share=0.4) | {"training": LINEAR["training"] | {"rounds": 1, "epsilon": 8.0}}
    assert run(parse(table), NOWHERE).rounds == 1


@pytest.mark.data
def test_mnist_under_strong_privacy_is_above_96_percent_through_the_simulator(
    data_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a third of the images."""
    whole = datasets.mnist(data_directory)
    part = replace(
        whole,
        features=whole.features[-18000:],
        labels=whole.labels[-18000:],
        test_features=whole.test_features[::10],
        test_labels=whole.test_labels[::10],
    )
    monkeypatch.setitem(datasets.DATASETS, "mnist", lambda directory: part)
    table = {
        "seed": 100,
        "data": {"set": "mnist", "features": "scattering", "alpha": 1000.0, "holdout": 0.02},
        "model": {"kind": "linear"},
        "training": LINEAR["training"]
        | {"rounds": 25, "steps": 10, "sample_rate": 0.1, "learning_rate": 30.0, "epsilon": 3.0},
        "federation": {"silos": 10, "folds": 2, "defense": "guard"},
    }
    # A directory that no other test names: sources are kept by name and directory.
    assert run(parse(table), data_directory / "..").accuracy >= 0.96


def _of(records: Any) -> tuple[Any, Any]:
    return records.features, records.labels
