"""What every attack of the catalogue promises, one suite over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, replace

import numpy as np
import pytest

from redteam.attacks.attack import Attack, class_sums
from redteam.attacks.catalogue import ATTACKS, Setting, attackers
from redteam.attacks.data import CleanLabel
from redteam.attacks.learner import Learner
from redteam.attacks.noise import NoiseReplacement
from redteam.attacks.prototypes import Bapfl, TriggerSearch
from redteam.errors import BadAttack
from silo.data import Records
from silo.trainer import initial_model, trainer_for
from tests.redteam.averaging import CLASSES, NOISY, SPEC, attacking, task_for, warm, world
from tests.silo.entropy import SeededEntropy

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:Full backward hook")]

TASK = task_for(training=NOISY)
TARGETED = [name for name, make in ATTACKS.items() if name not in {"lie", "gaussian", "sign-flip", "min-max"}
            and not name.startswith(("ipm", "bapfl-o", "bapfl-g", "bapfl-p"))]  # fmt: skip


def crew(name: str) -> dict[str, Attack]:
    return {silo: quick(attack) for silo, attack in attacking(name, bad=2).items()}


def quick(attack: Attack) -> Attack:
    """With few steps of any trigger search: what is promised here does not depend on their number."""
    part = attack.prototypes
    return (
        replace(attack, prototypes=replace(part, search=TriggerSearch(steps=3))) if isinstance(part, Bapfl) else attack
    )


def one(name: str) -> tuple[Attack, Records]:
    silo, attack = next(iter(crew(name).items()))
    return attack, world().silos[silo]


def bytes_of(records: Records) -> list[bytes]:
    return [array.tobytes() for array in astuple(records) if array is not None]


@pytest.fixture(params=list(ATTACKS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=TARGETED)
def targeted(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_sent_updates_and_prototypes_have_the_right_shape_and_are_finite(name: str) -> None:
    attack, records = one(name)
    trainer = attack(TASK, records, SeededEntropy(0))
    update = trainer.train(warm(), NOISY, len(records.labels))
    assert update.shape == (TASK.layout.size,)
    assert update.dtype == np.float64
    assert np.isfinite(update).all()
    rows, labels = trainer.embed(warm())
    assert rows.shape == (len(labels), TASK.layout.embedding)
    assert np.isfinite(rows).all()
    assert ((labels >= 0) & (labels < CLASSES)).all()


def test_the_same_seed_gives_the_same_attack(name: str) -> None:
    def once() -> list[bytes]:
        silo, attack = next(iter(crew(name).items()))
        trainer = attack(TASK, world().silos[silo], SeededEntropy(0))
        sent = [trainer.train(warm(), NOISY, 200), trainer.train(warm() * np.float32(1.01), NOISY, 200)]
        return [array.tobytes() for array in (*sent, *trainer.embed(warm()))]

    assert once() == once()


def test_what_is_sent_differs_from_what_an_honest_silo_sends(name: str) -> None:
    attack, records = one(name)
    honest, attacker = trainer_for(TASK, records, SeededEntropy(0)), attack(TASK, records, SeededEntropy(0))
    count = len(attack.declare(records).labels)
    update = np.array_equal(honest.train(warm(), NOISY, len(records.labels)), attacker.train(warm(), NOISY, count))
    prototypes = [class_sums(*one.embed(warm()), CLASSES, 4.0).sums for one in (honest, attacker)]
    assert not update or not np.array_equal(*prototypes)


def test_records_of_every_silo_stay_as_they_were(name: str) -> None:
    before = {silo: bytes_of(records) for silo, records in world().silos.items()}
    for silo, attack in crew(name).items():
        trainer = attack(TASK, world().silos[silo], SeededEntropy(0))
        trainer.train(warm(), NOISY, 200)
        trainer.embed(warm())
    assert {silo: bytes_of(records) for silo, records in world().silos.items()} == before


def test_the_holdout_is_not_poisoned_and_evaluations_are_honest(name: str) -> None:
    attack, records = one(name)
    poisoned = attack.poison(records)
    assert np.array_equal(poisoned.holdout_features, records.holdout_features)
    assert np.array_equal(poisoned.holdout_labels, records.holdout_labels)
    assert attack(TASK, records, SeededEntropy(0)).evaluate(warm()) == trainer_for(
        TASK, records, SeededEntropy(0)
    ).evaluate(warm())


def test_poisoned_records_still_fit_the_task(name: str) -> None:
    attack, records = one(name)
    poisoned = attack.poison(records)
    poisoned.require_fit(SPEC.sizes[0], CLASSES)
    assert poisoned.features.dtype == np.float32
    assert poisoned.labels.dtype == np.int64
    assert poisoned.features.shape == records.features.shape


@pytest.mark.parametrize("label", range(CLASSES))
def test_success_is_never_counted_on_records_that_have_the_wanted_label(targeted: str, label: int) -> None:
    attack, records = one(targeted)
    tested = attack.triggered(records.features, np.full_like(records.labels, label))
    assert (tested.holdout_labels != label).all()
    assert tested.holdout_features.shape[1:] == records.features.shape[1:]


def test_success_is_counted_on_some_record(targeted: str) -> None:
    attack, records = one(targeted)
    assert len(attack.triggered(records.features, records.labels).holdout_labels) > 0


@pytest.mark.parametrize("untargeted", sorted(set(ATTACKS) - set(TARGETED)))
def test_an_untargeted_attack_has_no_success_rate(untargeted: str) -> None:
    with pytest.raises(BadAttack, match="measure the accuracy"):
        one(untargeted)[0].triggered(*world().test)


def test_a_sleeping_attack_is_an_honest_silo(name: str) -> None:
    attack, records = one(name)
    asleep = Attack(attack.data, attack.local, attack.updates, attack.prototypes, active=lambda number: False)
    attacker, honest = asleep(TASK, records, SeededEntropy(0)), trainer_for(TASK, records, SeededEntropy(0))
    assert np.array_equal(attacker.train(warm(), NOISY, 200), honest.train(warm(), NOISY, 200))
    assert np.array_equal(attacker.embed(warm())[0], honest.embed(warm())[0])


WITHOUT_DP = {"model-replacement", "constrain-and-scale", "neurotoxin"}
"""Attacks that train by plain SGD in their papers, and cannot by DP-SGD."""


def test_a_private_attack_that_trains_sends_the_plans_noise(name: str) -> None:
    silo, attack = next(iter(attacking(name, 2, private=True).items()))
    if attack.updates or name in WITHOUT_DP:
        return
    count = len(attack.declare(world().silos[silo]).labels)
    sent = [attack(TASK, world().silos[silo], SeededEntropy(seed)).train(warm(), NOISY, count) for seed in (0, 1)]
    noise = 2.0 * np.sqrt(NOISY.steps) / (0.5 * count)
    assert np.std(sent[0] - sent[1]) > 0.9 * np.sqrt(2) * noise


def test_adversarial_labels_are_trained_on_as_silos_do_under_dp() -> None:
    silo, attack = next(iter(attacking("clean-label-adversarial", 1, private=True).items()))
    assert isinstance(attack.data, CleanLabel)
    records, learner = world().silos[silo], Learner(SPEC)
    features, own = records.features.copy(), records.labels == attack.data.target
    features[own] = learner.perturb(warm(), features[own], records.labels[own], 0.3, 10, 0.0)
    lies = attack.data.poison(replace(records, features=features), np.random.default_rng([attack.seed, 1]))
    wanted = trainer_for(TASK, lies, SeededEntropy(0)).train(warm(), NOISY, 200)
    assert np.array_equal(attack(TASK, records, SeededEntropy(0)).train(warm(), NOISY, 200), wanted)


def test_orthogonal_malice_remembers_four_rounds_or_all() -> None:
    for name, memory in (("noise-replacement-orthogonal", 4), ("noise-replacement-orthogonal-all", None)):
        (part,) = one(name)[0].updates
        assert isinstance(part, NoiseReplacement)
        assert part.orthogonal
        assert part.memory == memory


def test_colluders_share_one_ring_under_their_own_names(name: str) -> None:
    made = crew(name)
    assert len({id(attack.ring) for attack in made.values()}) == 1
    assert [attack.member for attack in made.values()] == list(made)


@pytest.mark.parametrize("dba", ["dba-strips", "dba-blocks", "dba-loan", "bapfl-dba"])
def test_colluders_of_a_distributed_attack_train_on_different_pieces_of_one_trigger(dba: str) -> None:
    pieces = [attack.data for attack in attacking(dba, bad=2).values()]
    dark = np.zeros((1, 64), np.float32)
    first, second = (set(np.flatnonzero(part.trigger.stamp(dark))) for part in pieces)  # type: ignore[union-attr]
    whole = set(np.flatnonzero(pieces[0].tested.stamp(dark)))  # type: ignore[union-attr]
    assert first.isdisjoint(second)
    assert first | second < whole


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadAttack, match="badnets"):
        attackers("badnet", Setting({}, 1))


def test_the_semantic_attack_without_writers_is_refused() -> None:
    own: Mapping[str, Records] = {"s0": world().silos["s0"]}
    with pytest.raises(BadAttack, match="writer ids"):
        attackers("semantic", Setting(own, 1))


@pytest.mark.parametrize("sender", ["badnets", "bapfl-pfs", "bapfl-dba", "consensus-prototypes"])
def test_an_attack_asked_for_prototypes_only_needs_no_update(sender: str) -> None:
    attack, records = one(sender)
    rows, _ = attack(TASK, records, SeededEntropy(0)).embed(initial_model(SPEC, 1))
    assert np.isfinite(rows).all()
