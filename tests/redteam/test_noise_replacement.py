"""What attacks on the noise send: how far from the signal or the honest update, which output layers and directions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from protos.task import MICRO, Training
from redteam.attacks import local, noise
from redteam.attacks.attack import Attack
from redteam.attacks.parts import Context
from silo.trainer import trainer_for
from tests.redteam.averaging import NOISY, attacking, task_for, warm, world
from tests.silo.entropy import SeededEntropy

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:Full backward hook")]


def replaced(**knobs: object) -> tuple[np.ndarray, Context, np.ndarray]:
    """Signal, context and what noise replacement made of it, for one attacker."""
    sent = []

    class Spy(noise.NoiseReplacement):
        def send(self, update: np.ndarray, context: Context) -> np.ndarray:
            sent.extend([update, context, super().send(update, context)])
            return sent[-1]

    silo, attack = next(iter(attacking("noise-replacement", 2).items()))
    spying = replace(attack, updates=(Spy(**knobs),))  # type: ignore[arg-type]
    spying(task_for(training=NOISY), world().silos[silo], SeededEntropy(0)).train(warm(), NOISY, 233)
    return sent[0], sent[1], sent[2]


NOISE = 2 * math.sqrt(5) / (0.5 * 233) * math.sqrt(2410)
"""Norm of the noise in 2,410 coordinates by hand: rate 2, multiplier and clip 1, five steps, half of 233 records."""


@pytest.mark.parametrize(("name", "strength"), [("drip-0.1", 0.1), ("drip-0.3", 0.3)])
def test_a_drip_is_as_far_from_the_honest_update_as_stated(name: str, strength: float) -> None:
    silo, attack = next(iter(attacking(name, 2).items()))
    task, own = task_for(training=NOISY), world().silos[silo]
    sent, honest = (make(task, own, SeededEntropy(3)).train(warm(), NOISY, 233) for make in (attack, trainer_for))
    assert np.linalg.norm(sent - honest) == pytest.approx(strength * NOISE, rel=1e-9)


def test_a_signal_is_without_noise_where_an_honest_update_is_not() -> None:
    """With every record in each batch nothing else is drawn: signals under different entropy agree."""
    full = Training(MICRO, 5, 2 * MICRO, MICRO, MICRO)
    task, own = task_for(training=full), world().silos["s0"]

    def apart(part: local.Signal | local.PrivateSgd) -> float:
        one, other = (Attack(None, part)(task, own, SeededEntropy(seed)).train(warm(), full, 233) for seed in (0, 1))
        return float(np.linalg.norm(one - other))

    assert apart(local.Signal()) < 0.01 * NOISE / 2
    # Twice as many records in a batch halve the noise; two draws differ by the root of two.
    assert apart(local.PrivateSgd(poisoned=False)) == pytest.approx(math.sqrt(2) * NOISE / 2, rel=0.2)


def test_replaced_noise_has_exactly_the_noises_norm() -> None:
    signal, context, sent = replaced()
    assert np.linalg.norm(sent - signal) == pytest.approx(context.noise_std * np.sqrt(signal.size), rel=1e-9)


def test_an_honest_output_layer_carries_honest_noise_and_the_body_the_exact_norm() -> None:
    signal, context, sent = replaced(honest_output=True)
    noise_part, output = sent - signal, np.zeros(signal.size, dtype=bool)
    output[context.output] = True
    body = np.linalg.norm(noise_part[~output])
    assert body == pytest.approx(context.noise_std * np.sqrt((~output).sum()), rel=1e-9)
    assert noise_part[output].std() == pytest.approx(context.noise_std, rel=0.15)


def test_a_drawn_norm_follows_the_noises_own_law() -> None:
    signal, context, sent = replaced(drawn=True)
    ratio = np.linalg.norm(sent - signal) / (context.noise_std * np.sqrt(signal.size))
    assert ratio != pytest.approx(1, rel=1e-9)
    assert ratio == pytest.approx(1, rel=5 / np.sqrt(2 * signal.size))


def test_orthogonal_colluders_share_no_direction_with_each_other_or_their_last_rounds() -> None:
    crew = attacking("noise-replacement-orthogonal", 2)
    task = task_for(training=NOISY)
    trainers = {silo: attack(task, world().silos[silo], SeededEntropy(0)) for silo, attack in crew.items()}
    for number in range(3):
        for trainer in trainers.values():
            trainer.train((warm() * np.float32(1 + 0.01 * number)).astype(np.float32), NOISY, 233)
    sent = next(iter(crew.values())).ring.malice
    assert len(sent) == 6
    for i, (number, member, one) in enumerate(sent):
        for other_number, other, direction in sent[:i]:
            if number == other_number or member == other:
                assert abs(one @ direction) < 1e-10
