from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from defenses.evidence import Exhibit, Setting
from defenses.guard import RAMPS
from defenses.prototypes import Means, agreements, consensus, deviations, means_of, strain
from protos.task import PROTOTYPE_GRID
from tests.defenses.simulate import COUNTS, DEMO, direction, drawn, honest, noised_sums

Round = tuple[Setting, list[Exhibit]]


def moved(exhibit: Exhibit, shift: np.ndarray) -> Exhibit:
    """The exhibit with its class means moved by `shift` [classes, embedding], in clip norms."""
    sums = shift * exhibit.classes[:, None] * PROTOTYPE_GRID
    return replace(exhibit, prototypes=exhibit.prototypes + np.rint(sums).astype(np.int64))


def naive_weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    """A minimiser of the weighted absolute distance, midway where there are two."""
    costs = np.array([(weights * np.abs(values - value)).sum() for value in values])
    best = values[costs <= costs.min() * (1 + 1e-12)]
    return float((best.min() + best.max()) / 2)


def test_consensus_is_the_weighted_median_without_the_judged(round_with_prototypes: Round) -> None:
    setting, exhibits = round_with_prototypes
    exhibits = [replace(one, classes=one.classes + 7 * place) for place, one in enumerate(exhibits)]
    means = means_of(setting, exhibits)
    centre = consensus(means, np.array([[2]])).centre[0]
    others = [0, 1, 3, 4, 5, 6, 7]
    for label, dimension in [(0, 0), (3, 17), (9, 31)]:
        weights = 1 / np.sqrt(means.variances[others, label])
        assert centre[label, dimension] == pytest.approx(
            naive_weighted_median(means.values[others, label, dimension], weights)
        )


def test_honest_silos_of_any_size_are_rarely_suspected(rng: np.random.Generator) -> None:
    suspected = dict.fromkeys(COUNTS, 0)
    rounds = 150
    for _ in range(rounds):
        setting = replace(drawn(DEMO, rng), prototype_noise=6.8)
        centres = rng.normal(0, 0.8 / np.sqrt(setting.embedding), (setting.classes, setting.embedding))
        exhibits = []
        for silo, count in COUNTS.items():
            shares = np.full(10, 0.1)
            if silo == "c220":
                shares[:], shares[3] = 0.1 / 9, 0.9
            classes = rng.multinomial(count, shares)
            # Honest silos differ: each has its own centres, a tenth of a clip norm away.
            own = centres + rng.normal(0, 0.1 / np.sqrt(setting.embedding), centres.shape)
            sums = noised_sums(setting, own, classes, rng)
            exhibits.append(Exhibit(silo, count, classes, np.zeros((8, 33), int), np.zeros(330, int), sums))
        means = means_of(setting, exhibits)
        far = deviations(setting, means) * 1e6 > RAMPS["prototype"].begin
        alike = agreements(setting, means) * 1e6 > RAMPS["agreement"].begin
        for silo, found in zip(COUNTS, far | alike, strict=True):
            suspected[silo] += bool(found)
    assert max(suspected.values()) <= 0.05 * rounds, suspected


def test_outlier_prototype_is_suspected_and_nobody_else(round_with_prototypes: Round, rng: np.random.Generator) -> None:
    setting, exhibits = round_with_prototypes
    shift = np.zeros((setting.classes, setting.embedding))
    shift[0] = 1.5 * direction(setting.embedding, rng)
    exhibits[3] = moved(exhibits[3], shift)
    found = deviations(setting, means_of(setting, exhibits)) * 1e6
    assert found[3] > RAMPS["prototype"].full
    assert np.delete(found, 3).max() < RAMPS["prototype"].begin


def test_reflected_prototypes_keep_their_distance_and_agree_with_each_other(
    round_with_prototypes: Round, rng: np.random.Generator
) -> None:
    setting, exhibits = round_with_prototypes
    means = means_of(setting, exhibits)
    planned = np.stack([0.45 * direction(setting.embedding, rng) for _ in range(setting.classes)])
    for silo in (1, 5):
        centre = consensus(means, np.array([[1, 5]])).centre[0]
        # The natural residual of poisoned training, mirrored at the consensus as BAPFL does.
        poisoned = centre + planned
        reflected = 2 * centre - poisoned
        assert np.linalg.norm(reflected - centre) == pytest.approx(np.linalg.norm(poisoned - centre))
        exhibits[silo] = moved(exhibits[silo], reflected - centre)
    means = means_of(setting, exhibits)
    together = agreements(setting, means) * 1e6
    assert min(together[1], together[5]) > RAMPS["agreement"].begin
    assert np.delete(together, [1, 5]).max() < RAMPS["agreement"].begin


def test_mirroring_a_single_silo_changes_no_distance(round_with_prototypes: Round) -> None:
    setting, exhibits = round_with_prototypes
    means = means_of(setting, exhibits)
    centre = consensus(means, np.array([[4]])).centre[0]
    mirrored = means.values.copy()
    mirrored[4] = 2 * centre - mirrored[4]
    before = deviations(setting, means)[4]
    assert deviations(setting, replace(means, values=mirrored))[4] == pytest.approx(before)


def test_class_with_few_records_says_nothing(round_with_prototypes: Round, rng: np.random.Generator) -> None:
    setting, exhibits = round_with_prototypes
    classes = exhibits[0].classes.copy()
    classes[2] = 3
    wild = exhibits[0].prototypes.copy()
    wild[2] += 10**7
    exhibits[0] = replace(exhibits[0], classes=classes, prototypes=wild)
    assert deviations(setting, means_of(setting, exhibits))[0] * 1e6 < RAMPS["prototype"].begin


def test_three_silos_are_too_few_for_a_consensus(round_with_prototypes: Round) -> None:
    setting, exhibits = round_with_prototypes
    means = means_of(setting, exhibits[:3])
    assert not deviations(setting, means).any()
    assert not agreements(setting, means).any()


def test_sums_are_read_in_grid_units(setting: Setting, rng: np.random.Generator) -> None:
    setting = replace(setting, prototype_noise=1.0)
    exhibit = replace(honest(setting, "a", 400, rng), prototypes=np.full((10, 32), 40 * PROTOTYPE_GRID // 2))
    assert means_of(setting, [exhibit]).values == pytest.approx(0.5)


@pytest.mark.parametrize("silos", [6, 10, 16, 20])
def test_honest_silos_that_differ_by_more_than_their_noise_are_rarely_suspected(
    silos: int, setting: Setting, rng: np.random.Generator
) -> None:
    """Their consensus errs by what they differ by, too, and they share its error."""
    suspected = []
    for _ in range(600 // silos):
        own = np.repeat(np.exp(rng.normal(0, 0.7, (silos, 1))), setting.classes, axis=1)
        values = rng.normal(size=(silos, setting.classes, setting.embedding)) * np.hypot(own, 2.0)[..., None]
        means = Means(values, own**2, np.ones(own.shape, dtype=bool))
        scores = {"prototype": deviations(setting, means), "agreement": agreements(setting, means)}
        suspected += [score * 1e6 > RAMPS[name].begin for name, score in scores.items()]
    assert np.concatenate(suspected).mean() < 0.03


@pytest.mark.parametrize("silos", [12, 20])
def test_strain_is_one_for_noise_and_by_the_share_of_directions_where_silos_differ_along_few(
    silos: int, setting: Setting, rng: np.random.Generator
) -> None:
    """Of all pairs, on either side of where each has a consensus of its own."""
    classes, width = setting.classes, setting.embedding
    counts = np.full(classes, 40)

    def measured(residuals: np.ndarray) -> float:
        sums = np.rint(residuals * counts[:, None] * PROTOTYPE_GRID).astype(np.int64)
        none = np.zeros((8, 33), int), np.zeros(330, int)
        exhibits = [Exhibit(f"s{place:02d}", 400, counts, *none, own) for place, own in enumerate(sums)]
        return strain(setting, means_of(setting, exhibits))

    sampling = rng.normal(size=(silos, classes, width)) / np.sqrt(40 * width)
    assert measured(sampling) == pytest.approx(1.0, abs=0.25)
    frame = np.linalg.qr(rng.normal(size=(width, width)))[0][: width // 8]
    along = rng.normal(size=(silos, classes, len(frame))) @ frame * np.sqrt(8)
    assert measured(along / 5) == pytest.approx(np.sqrt(8), rel=0.15)
    along[:2] += 20
    assert measured(along / 5) < 2 * np.sqrt(8)
