"""All silos at once against one or two at a time: the same numbers, and memory that is linear."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses.consistency import excess, unexplained_lengths
from defenses.evidence import Exhibit, Setting
from defenses.guard import RAMPS, Guard
from defenses.laws import law_scores
from defenses.leaveout import Ranking
from defenses.prototypes import PAIRED_UP_TO, Means, agreements, deviations, means_of
from tests.defenses import slow
from tests.defenses.naive import SMALL, exhibits, folded_with
from tests.defenses.simulate import DEMO, drawn

SETTINGS = {
    "small": SMALL,
    "noisy counts": replace(SMALL, count_noise=6.0),
    "steps": replace(SMALL, steps=5, prototype_noise=1.0),
    "no output": replace(SMALL, output_size=0, steps=3),
    "fine noise": replace(SMALL, step=0.25),
    "demo": replace(DEMO, prototype_noise=3.0),
}


def a_round(name: str, seed: int, number: int, sparse: bool) -> tuple[Setting, list[Exhibit]]:
    """A round in which, where it is `sparse`, silos lack records of some classes."""
    rng = np.random.default_rng(seed)
    setting = drawn(SETTINGS[name], rng)
    shown = folded_with(setting, seed, number, 0.3)
    if sparse:
        shown = [replace(one, classes=np.where(rng.random(setting.classes) < 0.4, 3, one.classes)) for one in shown]
    return setting, [replace(one, output=one.output[: setting.output_size]) for one in shown]


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(list(SETTINGS)), st.integers(0, 10**6), st.integers(1, PAIRED_UP_TO), st.booleans())
def test_every_column_is_what_each_silo_by_itself_gets(name: str, seed: int, number: int, sparse: bool) -> None:
    setting, shown = a_round(name, seed, number, sparse)
    means = means_of(setting, shown)
    silos = range(number)
    assert deviations(setting, means) == pytest.approx([slow.deviation(means, silo) for silo in silos], abs=1e-9)
    assert agreements(setting, means) == pytest.approx(slow.agreements(means), abs=1e-9)
    for scores, exhibit in zip(law_scores(setting, shown), shown, strict=True):
        found = {one.name: one.evidence_micro for one in scores if one.evidence_micro is not None}
        assert found == pytest.approx(slow.law(setting, exhibit), abs=1.01)
    if setting.output_size:
        lengths = unexplained_lengths(setting, shown, means)
        expected = [slow.unexplained(setting, shown, means, silo) for silo in silos]
        assert lengths == pytest.approx(expected, abs=1e-6)
        assert number < 2 or excess(lengths) == pytest.approx(slow.excess(lengths), abs=1e-12)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("factor", [0.0, 0.3, 0.8, 1.5, 2.5, 40.0])
def test_evidence_against_norms_off_the_law_is_what_each_silo_by_itself_gets(name: str, factor: float) -> None:
    setting, shown = a_round(name, 5, 4, False)
    scaled = [
        replace(one, **{part: np.rint(factor * getattr(one, part)).astype(np.int64) for part in ("folds", "output")})
        for one in shown
    ]
    for scores, exhibit in zip(law_scores(setting, scaled), scaled, strict=True):
        found = {one.name: one.evidence_micro for one in scores if one.evidence_micro is not None}
        assert found == pytest.approx(slow.law(setting, exhibit), abs=1.01)


@pytest.mark.parametrize("apart", [0.0, 1e-9, 1e-4, 1.0])
def test_prototypes_that_say_nearly_the_same_explain_no_more_than_their_span(
    apart: float, rng: np.random.Generator
) -> None:
    """Equal prototypes make equations singular, and those that differ by float noise make none of it a direction."""
    setting, shown = exhibits(3, 9, replace(DEMO, prototype_noise=3.0))
    shown = [replace(one, output=one.output + rng.integers(-300, 300, one.output.size)) for one in shown]
    means = means_of(setting, shown)
    same = means.values[:1] + apart * rng.normal(size=means.values.shape) * (np.arange(9) % 2)[:, None, None]
    means = replace(means, values=same)
    expected = [slow.unexplained(setting, shown, means, silo) for silo in range(9)]
    assert unexplained_lengths(setting, shown, means) == pytest.approx(expected, abs=1e-6)
    assert min(expected) > 0


@settings(max_examples=40, deadline=None)
@given(
    st.integers(3, 12), st.integers(0, 2), st.integers(0, 10**6), st.sampled_from(["any", "equal", "ties", "skewed"])
)
def test_medians_left_out_of_are_those_of_the_rest(number: int, left_out: int, seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    values, weights = rng.normal(size=(number, 2, 3)), rng.random((number, 2)) + 0.1
    if kind == "equal":
        weights[:] = 1 / 3
    if kind == "ties":
        values = rng.integers(0, 3, values.shape).astype(float)
    if kind == "skewed":
        weights = np.exp(8 * weights)
    weights[rng.random(weights.shape) < 0.2] = 0
    sets = np.array([rng.permutation(number)[:left_out] for _ in range(6)], dtype=np.int64).reshape(6, left_out)
    for removed, found in zip(sets, Ranking(values, weights).medians(sets), strict=True):
        rest = np.setdiff1d(np.arange(number), removed)
        expected = np.where(weights[rest].any(axis=0)[:, None], slow.weighted_median(values[rest], weights[rest]), 0.0)
        assert np.array_equal(found, expected)


def test_agreement_with_one_left_out_is_close_to_that_with_both() -> None:
    setting, shown = exhibits(3, 22, replace(DEMO, prototype_noise=3.0))
    means = means_of(setting, shown)
    assert agreements(setting, means) == pytest.approx(slow.agreements(means), abs=0.5)


def drawn_means(number: int, rng: np.random.Generator) -> Means:
    """Honest class means of silos of unequal size, about one truth."""
    deviations = np.repeat(np.exp(rng.normal(0, 0.7, (number, 1))), 10, axis=1)
    values = rng.normal(size=(number, 10, 32)) * deviations[..., None]
    return Means(values, deviations**2, np.ones((number, 10), dtype=bool))


@pytest.mark.parametrize("number", [17, 40, 100])
def test_many_honest_silos_are_rarely_said_to_agree(number: int, rng: np.random.Generator) -> None:
    found = np.concatenate([agreements(DEMO, drawn_means(number, rng)) for _ in range(2000 // number)])
    assert (found * 1e6 > RAMPS["agreement"].begin).mean() < 0.005


def test_two_reflected_silos_of_forty_are_said_to_agree(rng: np.random.Generator) -> None:
    means = drawn_means(40, rng)
    means.values[[3, 30]] += 1.5 * rng.normal(size=(10, 32)) * np.sqrt(means.variances[[3, 30]])[..., None]
    found = agreements(DEMO, means) * 1e6
    assert min(found[3], found[30]) > RAMPS["agreement"].full
    assert np.delete(found, [3, 30]).max() < RAMPS["agreement"].begin


def test_memory_grows_with_the_number_of_silos_and_not_with_its_square() -> None:
    setting, shown = exhibits(4, 400, replace(DEMO, prototype_noise=3.0))
    Guard().score(setting, shown[:20])
    peaks = []
    for number in (100, 400):
        tracemalloc.start()
        Guard().score(setting, shown[:number])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Four times the silos; a matrix of silos times silos times coordinates would be sixteen times as much.
    assert peaks[1] < 6 * peaks[0]
