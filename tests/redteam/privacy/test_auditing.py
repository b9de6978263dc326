"""The audit passes the honest trainer and catches every defect that it is for.

Broken builds are made here from the honest ones. All randomness is seeded, so that nothing depends on luck; the chance
that the audit accuses an honest build under fresh randomness is at most `Plan.miss`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from protos.task import ModelSpec, Training
from redteam.privacy.auditing import CLASSES, Build, Plan, Verdict, audit, noise_evidence
from silo.data import Records
from silo.entropy import Entropy, OsEntropy
from silo.linear import LinearTrainer
from silo.trainer import Trainer
from tests.silo.entropy import SeededEntropy

PLAN = Plan(canaries=700)


def built(kind: type[LinearTrainer]) -> Build:
    return lambda records, entropy: kind(records.features.shape[1], CLASSES, records, entropy)


class HalfTheNoise(LinearTrainer):
    def train(self, model: NDArray[np.float32], training: Training, count: int) -> NDArray[np.float64]:
        return super().train(model, replace(training, noise_micro=training.noise_micro // 2), count)


class NoClipping(LinearTrainer):
    def _clipped_sum(
        self, weights: NDArray[np.float64], batch: NDArray[np.int64], features: NDArray[np.float64], clip: float
    ) -> NDArray[np.float64]:
        return super()._clipped_sum(weights, batch, features, 1e9)


class Replayed:
    """Draws once and then hands out the same bytes for every call."""

    is_operating_system = False

    def __init__(self, seed: bytes) -> None:
        self._seed = int.from_bytes(seed, "big")

    def take(self, count: int) -> bytes:
        return SeededEntropy(self._seed).take(count)


class SameNoiseInEachStep(LinearTrainer):
    """Fresh in every round, repeated over the steps of a round."""

    def train(self, model: NDArray[np.float32], training: Training, count: int) -> NDArray[np.float64]:
        fresh, self._entropy = self._entropy, Replayed(self._entropy.take(8))
        try:
            return super().train(model, training, count)
        finally:
            self._entropy = fresh


def same_noise_in_each_round(records: Records, entropy: Entropy) -> Trainer:
    return LinearTrainer(records.features.shape[1], CLASSES, records, Replayed(b"start"))


def verdict(build: Build, plan: Plan = PLAN, seed: int = 0) -> Verdict:
    return audit(build, plan, SeededEntropy(seed), seed)


@pytest.mark.parametrize("steps", [1, 4])
def test_the_honest_build_passes(steps: int) -> None:
    plan = replace(PLAN, steps=steps, noise=PLAN.noise * steps**0.5)
    found = verdict(built(LinearTrainer), plan)
    assert not found.caught
    assert found.proved > 0.3 * found.accounted, "an audit that proves nothing about anybody is blind"


def test_the_honest_build_passes_with_the_noise_of_production() -> None:
    found = audit(built(LinearTrainer), replace(PLAN, runs=20), OsEntropy(), 3)
    assert not found.caught


@pytest.mark.parametrize("seed", [0, 1])
def test_half_the_noise_is_caught(seed: int) -> None:
    found = verdict(built(HalfTheNoise), seed=seed)
    assert found.caught
    assert found.proved > 1.2 * found.accounted


def test_gradients_that_are_not_clipped_are_caught() -> None:
    found = verdict(built(NoClipping), replace(PLAN, runs=20))
    assert found.proved > 3 * found.accounted


def test_the_same_noise_in_each_round_is_caught_by_the_difference() -> None:
    found = verdict(same_noise_in_each_round)
    assert found.caught
    assert found.statistic == "difference"


def test_the_same_noise_in_each_step_leaks_less_than_accounted_and_breaks_the_noise_law() -> None:
    plan = replace(PLAN, steps=4, noise=4.0, runs=20)
    assert not verdict(built(SameNoiseInEachStep), plan).caught
    assert noise_evidence(built(SameNoiseInEachStep), plan, SeededEntropy(0)) < 1e-12


def test_the_noise_law_passes_the_honest_build_and_not_half_the_noise() -> None:
    plan = replace(PLAN, steps=4)
    assert noise_evidence(built(LinearTrainer), plan, SeededEntropy(0)) > 1e-3
    assert noise_evidence(built(HalfTheNoise), plan, SeededEntropy(0)) < 1e-12


def test_a_trainer_of_several_defects_is_caught() -> None:
    class Both(HalfTheNoise, NoClipping): ...

    assert verdict(built(Both), replace(PLAN, runs=5)).caught


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_the_torch_trainer_passes_and_its_broken_builds_are_caught() -> None:
    from silo.training import trainer

    def torch_build(halved: bool) -> Build:
        def make(records: Records, entropy: Entropy) -> Trainer:
            spec = ModelSpec("mlp", (records.features.shape[1], CLASSES), "relu")
            made = trainer(spec, records, entropy)
            return Halved(made) if halved else made

        return make

    class Halved:
        def __init__(self, inner: Trainer) -> None:
            self.inner = inner

        def train(self, model: NDArray[np.float32], training: Training, count: int) -> NDArray[np.float64]:
            return self.inner.train(model, replace(training, noise_micro=training.noise_micro // 2), count)

    plan = replace(PLAN, canaries=400, runs=60)
    assert not verdict(torch_build(False), plan).caught  # type: ignore[arg-type]
    assert verdict(torch_build(True), plan).caught  # type: ignore[arg-type]
