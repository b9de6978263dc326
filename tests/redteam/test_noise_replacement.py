"""What noise replacement sends: the noise's exact norm, honest output layers, directions of colluders' own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from redteam.attacks import noise
from redteam.attacks.parts import Context
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
