"""Calibration of the law of independent noise on honest draws, and power against colluders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from defenses.decide import decide
from defenses.evidence import Exhibit, Setting
from defenses.independence import own_block, own_p, own_scores
from defenses.laws import coordinates
from tests.defenses.naive import exhibits
from tests.defenses.simulate import COUNTS, DEMO, direction, drawn, exhibit_of, honest, noise_std

SIZE = DEMO.body_size + DEMO.output_size
SILOS = list(COUNTS)


def test_statistic_is_the_energy_off_the_others_span() -> None:
    setting, shown = exhibits(1, 7, common=0.5)
    rows = coordinates(setting, shown)
    block = own_block(setting, shown)
    for silo in range(7):
        others = np.delete(rows, silo, axis=0).T
        factors, *_ = np.linalg.lstsq(others, rows[silo], rcond=None)
        # The ridge raises it by a millionth of the squares.
        assert block.energy[silo] == pytest.approx(float(np.square(rows[silo] - others @ factors).sum()), rel=1e-4)
    assert block.degrees == rows.shape[1] - 6


@pytest.mark.parametrize("signal", [0.0, 0.3, 3.0], ids=["no signal", "equal weak signal", "equal strong signal"])
def test_three_thousand_honest_updates_break_it_no_more_often_than_chance(
    signal: float, rng: np.random.Generator
) -> None:
    found = []
    for _ in range(500):
        setting = drawn(DEMO, rng)
        shared = signal * direction(SIZE, rng)
        found.append(own_p(setting, [honest(setting, silo, count, rng, shared) for silo, count in COUNTS.items()]))
    values = np.concatenate(found)
    for level in (0.05, 0.01, 0.001):
        assert (values < level).sum() <= stats.binom.ppf(0.9999, len(values), level)
    if signal == 0:
        # It is not merely safe: without a signal it has its level.
        assert (values < 0.05).sum() >= stats.binom.ppf(0.0001, len(values), 0.05)


def test_honest_silos_that_share_a_skewed_distribution_are_not_found(rng: np.random.Generator) -> None:
    worst = np.ones(6)
    for _ in range(100):
        setting = drawn(DEMO, rng)
        skewed = 4.0 * direction(SIZE, rng)
        shown = [honest(setting, silo, COUNTS[silo], rng, skewed if silo in SILOS[:3] else 0.0) for silo in SILOS]
        worst = np.minimum(worst, own_p(setting, shown))
    assert worst.min() > 1e-4


def test_steps_that_answer_earlier_noise_are_not_blamed(rng: np.random.Generator) -> None:
    setting = replace(drawn(DEMO, rng), steps=4, learning_rate=1.0)
    shown = []
    for silo, count in COUNTS.items():
        one, update = noise_std(setting, count) / 2, np.zeros(SIZE)
        for _ in range(4):
            pull = -update / max(1.0, float(np.linalg.norm(update)) / setting.learning_rate)
            update = update + pull + rng.normal(0, one, SIZE)
        shown.append(exhibit_of(setting, silo, count, update, rng))
    assert own_p(setting, shown).min() > 1e-3


Collusion = Callable[[Setting, np.random.Generator], dict[str, np.ndarray]]


def same_noise(setting: Setting, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Two silos release one and the same noise over signals of their own."""
    noise = rng.normal(0, noise_std(setting, COUNTS["d150"]), SIZE)
    return {silo: noise + direction(SIZE, rng) for silo in ("b300", "d150")}


def same_malice(setting: Setting, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Three silos replace their noise by one malicious vector, each at exactly its own noise's norm."""
    malice = direction(SIZE, rng)
    return {
        silo: noise_std(setting, COUNTS[silo]) * np.sqrt(SIZE) * malice + 0.5 * direction(SIZE, rng)
        for silo in ("a450", "d150", "f56")
    }


def summed(setting: Setting, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The third's noise is made of the first two's, so that no two of them agree much."""
    one, other = (rng.normal(0, noise_std(setting, 200), SIZE) for _ in range(2))
    return {"b300": one, "c220": other, "d150": (one - other) / np.sqrt(2)}


@pytest.mark.parametrize("collude", [same_noise, same_malice, summed])
def test_colluders_without_noise_of_their_own_are_excluded_and_nobody_else(
    collude: Collusion, rng: np.random.Generator
) -> None:
    for _ in range(10):
        setting = drawn(DEMO, rng)
        lies = collude(setting, rng)
        shown: list[Exhibit] = []
        for silo, count in COUNTS.items():
            if silo in lies:
                shown.append(exhibit_of(setting, silo, count, lies[silo], rng))
            else:
                shown.append(honest(setting, silo, count, rng, direction(SIZE, rng)))
        judged = {one.silo: one for one in decide(setting, shown, "guard", {})}
        assert {silo for silo, one in judged.items() if one.verdict == "excluded"} == set(lies)


def test_replayed_update_is_found_with_a_reason_in_words(setting: Setting, exhibits: list[Exhibit]) -> None:
    exhibits[1] = replace(exhibits[1], folds=exhibits[4].folds, output=exhibits[4].output)
    reasons = {one.silo: one.reason for one in decide(setting, exhibits, "guard", {}) if one.verdict == "excluded"}
    assert set(reasons) == {"b300", "e100"}
    assert reasons["e100"].startswith("norm off all that the others' updates make up 0.0 is below the ")


def test_orthogonal_colluders_and_a_little_common_malice_are_its_stated_limit(rng: np.random.Generator) -> None:
    setting = drawn(DEMO, rng)
    little = 0.3 * direction(SIZE, rng)
    shown = []
    for silo, count in COUNTS.items():
        length = noise_std(setting, count) * np.sqrt(SIZE)
        if silo in ("b300", "d150"):
            shown.append(exhibit_of(setting, silo, count, length * direction(SIZE, rng), rng))
        else:
            shown.append(honest(setting, silo, count, rng, length * little))
    assert own_p(setting, shown).min() > 1e-4


def test_more_silos_than_coordinates_leave_nothing_to_judge() -> None:
    setting, shown = exhibits(2, 80)
    tiny = replace(setting, output_size=0)
    shown = [replace(one, output=one.output[:0], folds=one.folds) for one in shown]
    assert coordinates(tiny, shown).shape[1] < 79
    assert np.all(own_p(tiny, shown) == 1)
    assert all(scores[1].evidence_micro == 0 for scores in own_scores(tiny, shown))


def test_a_single_silo_is_judged_by_its_own_norm(setting: Setting, exhibits: list[Exhibit]) -> None:
    assert own_block(setting, exhibits[:1]).degrees == coordinates(setting, exhibits[:1]).shape[1]
    assert own_scores(setting, []) == ()
