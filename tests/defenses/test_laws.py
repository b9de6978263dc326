"""Calibration against simulated honest DP-SGD noise, and power against silos that lie about it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from defenses.evidence import Setting, fact, scaled
from defenses.laws import (
    BLOCKS,
    above_p,
    below_p,
    blocks_of,
    chernoff,
    covers,
    law_scores,
    noise_of,
)
from tests.defenses.simulate import COUNTS, DEMO, direction, drawn, exhibit_of, honest, noise_std

SIZE = DEMO.body_size + DEMO.output_size


@pytest.mark.parametrize("count", [56, 150, 450])
def test_noise_alone_gives_uniform_lower_p_values(count: int, rng: np.random.Generator) -> None:
    found = {block: [] for block in BLOCKS}
    for _ in range(600):
        setting = drawn(DEMO, rng)
        for block, p in below_p(setting, [honest(setting, "a", count, rng)]).items():
            found[block].append(p[0])
    for block in BLOCKS:
        assert stats.kstest(found[block], "uniform").pvalue > 1e-4, block


def test_the_longest_honest_signal_keeps_both_sides_conservative(rng: np.random.Generator) -> None:
    worst = np.zeros(4)
    rounds = 600
    for number in range(rounds):
        setting = drawn(DEMO, rng)
        count = (56, 150, 450)[number % 3]
        # Every record's gradient is clipped and points the same way; the batch is a true Poisson sample.
        batch = rng.binomial(count, setting.sample_rate)
        length = setting.learning_rate * setting.clip * batch / (setting.sample_rate * count)
        places = (np.arange(SIZE), np.arange(DEMO.body_size), np.arange(DEMO.body_size, SIZE), np.arange(0, 2079, 33))
        signal = np.zeros(SIZE)
        signal[places[number % 4]] = length * direction(len(places[number % 4]), rng)
        exhibit = honest(setting, "a", count, rng, signal)
        below, above = (min(side(setting, [exhibit]).values())[0] for side in (below_p, above_p))
        worst += [below < 0.05 / 3, below < 0.01 / 3, above < 0.05 / 3, above < 0.01 / 3]
    assert np.all(worst <= stats.binom.ppf(0.9999, rounds, [0.05, 0.01, 0.05, 0.01]))


def test_chernoff_bounds_the_noncentral_chi_square_tail() -> None:
    for degrees in (1, 30, 594):
        for noncentral in (0.0, 5.0, 900.0):
            law = stats.ncx2(degrees, noncentral) if noncentral else stats.chi2(degrees)
            for tail in (0.4, 1e-2, 1e-4, 1e-8):
                bound = float(chernoff(float(law.isf(tail)), degrees, np.array([noncentral]))[0])
                assert tail <= bound <= min(1.0, 80 * tail)


def test_statistic_is_the_energy_of_the_projection_on_the_signs(setting: Setting, rng: np.random.Generator) -> None:
    body = rng.normal(0, 1, SIZE)
    exhibit = exhibit_of(setting, "a", 150, body, rng)
    energy = 0.0
    for column, length in enumerate(setting.column_counts):
        rows = setting.signs[:, :length].astype(float)
        weights, *_ = np.linalg.lstsq(rows @ rows.T, exhibit.folds[:, column].astype(float), rcond=None)
        energy += float(exhibit.folds[:, column] @ weights)
    found = blocks_of(setting, [exhibit])[2]
    assert found.energy == pytest.approx(energy, rel=1e-9)
    assert found.degrees == 8 * 33


def test_repeated_and_opposite_sign_rows_cost_degrees_not_correctness(rng: np.random.Generator) -> None:
    setting = drawn(DEMO, rng)
    signs = setting.signs.copy()
    signs[1], signs[2] = signs[0], -signs[0]
    setting = replace(setting, signs=signs)
    block = blocks_of(setting, [honest(setting, "a", 150, rng)])[2]
    assert block.degrees == 6 * 33
    assert 0.7 < block.energy / block.degrees / noise_of(setting, 150).least < 1.3


@pytest.mark.parametrize("deviation", [0.02, 0.3, 0.5, 2.7])
def test_rounding_variance_lies_within_its_bounds_for_any_mean(deviation: float, rng: np.random.Generator) -> None:
    setting = replace(DEMO, step=1.0, learning_rate=1.0, noise_multiplier=deviation, sample_rate=1.0)
    noise = noise_of(setting, 1)
    for mean in (0.0, 0.25, 0.5):
        values = mean + rng.normal(0, deviation, 400_000)
        rounded = np.floor(values + rng.random(values.shape))
        assert noise.least * 0.985 - 1e-3 <= rounded.var() <= noise.most * 1.015 + 1e-3


def test_silo_clipped_by_the_quantiser_is_not_blamed_for_it(rng: np.random.Generator) -> None:
    setting = replace(drawn(DEMO, rng), noise_multiplier=10.0)
    assert noise_std(setting, 56) > 127 * setting.step / 1.5
    assert min(below_p(setting, [honest(setting, "f56", 56, rng)]).values()) > 1e-3


@pytest.mark.parametrize("steps", [2, 10])
def test_several_steps_that_undo_earlier_noise_are_not_blamed(steps: int, rng: np.random.Generator) -> None:
    setting = replace(drawn(DEMO, rng), steps=steps, learning_rate=1.0)
    for count in (100, 450):
        one = noise_std(setting, count) / np.sqrt(steps)
        update = np.zeros(SIZE)
        for _ in range(steps):
            # The gradient of a sharp bowl at the start, clipped: it pulls back all that clipping lets it.
            pull = -update / max(1.0, float(np.linalg.norm(update)) / (setting.learning_rate * setting.clip))
            update = update + pull + rng.normal(0, one, SIZE)
        assert min(below_p(setting, [exhibit_of(setting, "a", count, update, rng)]).values()) > 1e-3


@pytest.mark.parametrize("silo", list(COUNTS))
def test_silo_without_noise_is_below_the_law(silo: str, setting: Setting, rng: np.random.Generator) -> None:
    update = 0.4 * noise_std(setting, COUNTS[silo]) * np.sqrt(SIZE) * direction(SIZE, rng)
    scores = law_scores(setting, [exhibit_of(setting, silo, COUNTS[silo], update, rng)])[0]
    assert next(one for one in scores if one.name == "norm-below").evidence_micro >= 9_000_000


@pytest.mark.parametrize(("silo", "norm"), [("a450", 12.0), ("d150", 16.0), ("e100", 24.0)])
def test_boosted_silo_is_above_the_bound(silo: str, norm: float, setting: Setting, rng: np.random.Generator) -> None:
    scores = law_scores(setting, [exhibit_of(setting, silo, COUNTS[silo], norm * direction(SIZE, rng), rng)])[0]
    assert max(one.evidence_micro or 0 for one in scores if one.name.endswith("-above")) >= 9_000_000


def test_norm_is_estimated_within_the_sketch_error(setting: Setting, rng: np.random.Generator) -> None:
    update = 8.0 * direction(SIZE, rng)
    assert blocks_of(setting, [exhibit_of(setting, "a", 150, update, rng)])[0].norm == pytest.approx(8.0, rel=0.15)


def test_without_an_output_layer_the_body_alone_is_judged(rng: np.random.Generator) -> None:
    setting = replace(drawn(DEMO, rng), output_size=0)
    exhibit = exhibit_of(setting, "a", 150, rng.normal(0, noise_std(setting, 150), DEMO.body_size), rng)
    assert [score.name for score in law_scores(setting, [exhibit])[0]] == ["body", "body-below", "body-above"]


def test_laws_abstain_where_the_noise_is_finer_than_the_step(rng: np.random.Generator) -> None:
    setting = replace(drawn(DEMO, rng), step=0.25)
    assert not covers(setting, 450)
    scores = law_scores(setting, [honest(setting, "a450", 450, rng)])[0]
    assert all(not score.evidence_micro for score in scores)


def test_absurd_numbers_still_fit_a_record() -> None:
    assert scaled(1e30) == 2**53 - 1
    assert fact("norm", -1e30).value_micro == -(2**53 - 1)
