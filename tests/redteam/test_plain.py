"""Encryption off in the simulator: everything that is decided, and every model, is as with encryption on."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import history as audit_history
from audit.history import History
from crypto import ring
from crypto.ckks import MAX_SLOT
from crypto.errors import CheckFailed, KeyMismatch, OutOfRange
from crypto.packing import FIELDS_PER_CHUNK, SLOTS, Packing
from crypto.secure_sum import PackedCkks
from crypto.tags import Contribution
from protos.task import MICRO, Policy, Task
from redteam.attacks import data, local, updates
from redteam.attacks.attack import Attack
from redteam.entropy import SeededEntropy
from redteam.plain import PlainKey, PlainSum
from redteam.run import MEMORY
from redteam.simulator import Seat, Simulation
from silo import rootset
from tests.integration import finds
from tests.integration.bench import OneKey
from tests.integration.federation import SILOS, policy, records, task

PLAN = "ab" * 32


def keys() -> Any:
    scheme = PlainSum()
    return scheme.join(scheme.deal("simulated", 1))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=5), st.integers(0, 2**32))
def test_sums_through_the_coordinators_ring_are_those_of_plain_integers(weights: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    slots = random.integers(-(2**25), 2**25, (len(weights), 3, SLOTS))
    key = PlainKey()
    sent = [[ring.parse_fresh(chunk) for chunk in key.encrypt_all(own)] for own in slots]
    total = [ring.to_bytes(words) for words in ring.weighted_sum(sent, weights)]
    assert np.array_equal(key.decrypt_all(total), np.einsum("i,ikl->kl", weights, slots))


def test_folds_through_the_coordinators_ring_are_those_of_plain_integers() -> None:
    random = np.random.default_rng(0)
    slots, signs = random.integers(-(2**25), 2**25, (9, SLOTS)), random.choice([-1, 0, 1], (4, 9)).astype(np.int8)
    key = PlainKey()
    folded = ring.fold((ring.parse_fresh(chunk) for chunk in key.encrypt_all(slots)), signs)
    assert np.array_equal(key.decrypt_all([ring.to_bytes(row) for row in folded]), signs @ slots)


def test_slots_beyond_the_real_modulus_are_refused_as_there() -> None:
    with pytest.raises(OutOfRange, match="quantised"):
        PlainKey().encrypt_all(np.full((1, SLOTS), MAX_SLOT))


def test_production_takes_no_secrets_of_the_open_sum_nor_the_other_way_round() -> None:
    with pytest.raises(KeyMismatch, match="not of the scheme"):
        PackedCkks().join(PlainSum().deal("simulated", 1))
    with pytest.raises(KeyMismatch, match="not of the scheme"):
        PlainSum().join(PackedCkks().deal("simulated", 1))


def test_a_changed_word_of_the_sum_fails_the_tags_in_the_open_too() -> None:
    packing, mine = Packing.of(task()[0].layout, 2), keys()
    fields = np.zeros((packing.chunks, FIELDS_PER_CHUNK), dtype=np.int64)
    sent = mine.protect(fields, packing, plan=PLAN, silo="ada")
    first, *rest = sent.chunks
    words = ring.parse_fresh(first)
    words[0] = 1
    chunks = [ring.to_bytes(words), *(ring.to_bytes(ring.parse_fresh(chunk)) for chunk in rest)]
    with pytest.raises(CheckFailed, match="tags"):
        mine.open_sum(chunks, packing, plan=PLAN, contributions=[Contribution("ada", 1, sent.tags)], total_weight=1)


def seats(scheme: type[Any]) -> dict[str, Seat]:
    """Four honest silos, and one whose update has less noise than DP makes, so that the guard excludes it."""
    attack = Attack(data.FlipPair(0, 1), local.PrivateSgd(), (updates.Scale(0.01),))
    honest = {name: Seat(records(index), scheme=scheme) for index, name in enumerate(SILOS[:-1])}
    return honest | {SILOS[-1]: dataclasses.replace(attack.seat(records(4)), scheme=scheme)}


def told(directory: Path, scheme: type[Any], toy: tuple[Task, bytes], rules: Policy) -> list[Any]:
    """What every round decided and led to."""
    simulation = Simulation(directory, *toy, rules, seats(scheme), SeededEntropy(3))
    history = simulation.run()
    simulation.close()
    return told_of_rounds(history)


def told_of_rounds(history: History) -> list[Any]:
    """Weights, verdicts with their evidence, and model of each round."""
    return [
        (view.weights, view.decision and view.decision.judgements, view.outcome and view.outcome.model)
        for view in history.rounds
    ]


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: fsync costs nothing there."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else tmp_path) as directory:
        yield Path(directory)


@pytest.fixture
def equal_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round's seed hashes the commitments, which name ciphertexts: here it is fixed, so that folds are equal."""
    monkeypatch.setattr(audit_history.sketch, "seed_of", lambda nonce, commitments: hashlib.sha256(b"fixed").digest())


@pytest.mark.integration
@pytest.mark.usefixtures("equal_folds")
def test_decisions_weights_and_models_are_identical_with_encryption_on_and_off(stores: Path) -> None:
    open_run, encrypted = (
        told(stores / scheme.__name__, scheme, task(3), policy(fdr_micro=MICRO // 100)) for scheme in (PlainSum, OneKey)
    )
    assert open_run == encrypted
    verdicts = {one.silo: one.verdict for one in open_run[0][1]}
    assert verdicts[SILOS[-1]] == "excluded", "the decision must be worth comparing"
    assert len({model for _, _, model in open_run}) == 3


def searched(directory: Path, scheme: type[Any]) -> History:
    """Five rounds and three searches; `bob` goes on teaching a trigger that the others unlearn."""
    rules = policy(defense="plain", fdr_micro=1)
    seats = {
        name: finds.seat(index, scheme=scheme, **finds.seat_changes(finds.BOOST if name == "bob" else 0.0))
        for index, name in enumerate(SILOS)
    }
    root = rootset.to_bytes(finds.root())
    simulation = Simulation(directory, *finds.task(5), rules, seats, SeededEntropy(3), root=root)
    history = simulation.run()
    simulation.close()
    return history


def told_of_searches(history: History) -> list[tuple[Any, ...]]:
    """What every search found, measured, confirmed and attributed, with all evidence; digests of records left out."""
    return [
        (
            view.search,
            view.clean,
            view.blocking,
            {silo: (report.finds, report.blind) for silo, report in view.reports.items()},
            {silo: answers.answers for silo, answers in view.answers.items()},
            (view.confirmed, view.stood),
            {silo: attribution.tables for silo, attribution in view.attributions.items()},
            view.attributed and (view.attributed.cases, view.attributed.convicted),
        )
        for view in history.searches
    ]


@pytest.mark.integration
@pytest.mark.usefixtures("equal_folds")
def test_finds_attributions_and_convictions_are_identical_with_encryption_on_and_off(stores: Path) -> None:
    open_run, encrypted = (searched(stores / scheme.__name__, scheme) for scheme in (PlainSum, OneKey))
    assert told_of_searches(open_run) == told_of_searches(encrypted)
    assert open_run.convicted == encrypted.convicted
    assert open_run.triggers == encrypted.triggers
    assert told_of_rounds(open_run) == told_of_rounds(encrypted)
    assert set(open_run.convicted) == {"bob"}, "the evidence must be worth comparing"
    assert open_run.triggers == (finds.trigger(),)
    attributed = open_run.search.attributed
    assert attributed is not None
    (case,) = attributed.cases
    (guilty,) = [part for part in case.parts if part.convicted]
    assert {score.name for score in guilty.scores} >= {"before-x", "before-z", "after-x", "after-z"}


@pytest.mark.integration
def test_first_model_of_plain_averaging_is_identical_whatever_the_folds(stores: Path) -> None:
    """The step of a later round follows from what folds showed."""
    rules = policy(defense="plain")
    open_run, encrypted = (told(stores / one.__name__, one, task(1), rules) for one in (PlainSum, OneKey))
    assert [model for _, _, model in open_run] == [model for _, _, model in encrypted]
