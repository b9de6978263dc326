"""Drift against a silo's own past: honest silos of any habit are left alone, who turns in mid-run is suspected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses.decide import decide, verify_judgements
from defenses.drift import FEWEST_ROUNDS, PAST, RECENT, WINDOW, Deviations, drifts, others_medians, scores
from defenses.evidence import Earlier, Exhibit, Setting, earlier_of, rules_of
from defenses.guard import RAMPS
from protos.records import Judgement
from tests.defenses import slow
from tests.defenses.digits import rounds
from tests.defenses.simulate import COUNTS, DEMO, direction, drawn, exhibit_of, noise_std

Round = tuple[Setting, list[Exhibit]]
Turn = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
"""Makes an attacker's update of its honest signal and its noise's deviation."""
SIZE = DEMO.body_size + DEMO.output_size
SILO, SINCE = "c220", 12


def lives(
    seed: int, number: int, turn: Turn | None = None, restless: float = 0.0, learning: float = 0.0, noise: float = 1.0
) -> Iterator[Round]:
    """Silos with offsets of up to 0.8 of the bound, a model that moves, and one that turns in round SINCE.

    Offsets last, or shrink by exp(-`learning`) a round. `noise` is a part of the demonstration's.
    """
    rng = np.random.default_rng(seed)
    task = replace(DEMO, noise_multiplier=DEMO.noise_multiplier * noise)
    bound = DEMO.signal_bound
    habits = {silo: direction(SIZE, rng) * bound * rng.uniform(0, 0.8) for silo in COUNTS}
    for place in range(number):
        setting, shown = drawn(task, rng), []
        common = direction(SIZE, rng) * bound * 0.2
        for silo, count in COUNTS.items():
            deviation = noise_std(setting, count)
            habit = habits[silo] * np.exp(-learning * place)
            signal = common + habit + direction(SIZE, rng) * bound * restless * rng.random()
            if turn is not None and silo == SILO and place >= SINCE:
                update = turn(signal, deviation, rng)
            else:
                update = signal + rng.normal(0, deviation, SIZE)
            shown.append(exhibit_of(setting, silo, count, update, rng))
        yield setting, shown


def replaces_noise(signal: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Malice of the exact norm of the noise, the same in every round."""
    return np.asarray(signal + deviation * np.sqrt(SIZE) * direction(SIZE, np.random.default_rng(0)))


def learns_otherwise(signal: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Another habit under honest noise, twice as strong in the output layer."""
    other = direction(SIZE, np.random.default_rng(0))
    other[-DEMO.output_size :] *= 2
    noise = rng.normal(0, deviation, SIZE)
    return np.asarray(signal + 1.2 * DEMO.signal_bound * other + noise)


def judged(run: Iterator[Round]) -> tuple[list[dict[str, Judgement]], list[Earlier]]:
    """What the Guard says of a run, with the run's own past before it."""
    history: list[Earlier] = []
    for setting, exhibits in run:
        judgements = decide(setting, exhibits, "guard", {}, history)
        verify_judgements(judgements, "guard", rules_of(setting), {})
        history.append(earlier_of(setting, exhibits, judgements))
    return [{one.silo: one for one in earlier.judgements} for earlier in history], history


def drift_of(judgement: Judgement) -> float | None:
    return next((one.value_micro / 1e6 for one in judgement.scores if one.name == "drift"), None)


def drifting(judgement: Judgement) -> bool:
    """Whether drift is what it is suspected of."""
    return judgement.verdict == "suspected" and "its own past" in judgement.reason


@given(st.integers(2, 12), st.integers(0, 10**6), st.sampled_from([2, 200]))
def test_others_medians_leave_each_row_out(silos: int, seed: int, values: int) -> None:
    rows = np.random.default_rng(seed).integers(-values, values, (silos, 5))
    assert others_medians(rows).tolist() == [np.median(np.delete(rows, i, 0), axis=0).tolist() for i in range(silos)]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(RECENT + FEWEST_ROUNDS, RECENT + PAST + 3))
def test_scores_are_what_each_silo_by_itself_gets(seed: int, number: int) -> None:
    rng = np.random.default_rng(seed)
    *past, (setting, exhibits) = lives(seed, number, restless=0.5)
    history = []
    for earlier, shown in past:
        verdicts = rng.choice(["retained", "retained", "retained", "suspected", "excluded"], len(shown))
        judgements = [
            Judgement(one.silo, one.count, (), str(verdict), "", int(verdict != "excluded"))
            for one, verdict in zip(shown, verdicts, strict=True)
        ]
        history.append(earlier_of(earlier, shown, judgements))
    expected = [slow.drift(setting, exhibits, history, one.silo) for one in exhibits]
    assert drifts(setting, exhibits, history) == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_constant_habits_have_a_standard_score(rng: np.random.Generator) -> None:
    silos, size, precision = 400, 300, np.full(400, 4.0)
    habit = rng.normal(0, 3, (silos, size))
    seen = [Deviations(habit + rng.normal(0, 0.5, habit.shape), precision) for _ in range(RECENT + PAST)]
    found = scores(seen[-RECENT:], seen[:-RECENT])
    # The greater of two scores, one of which holds a quarter of the other: mean about 0.4, deviation about 0.9.
    assert -0.3 <= found.mean() <= 0.6
    assert 0.7 <= found.std() <= 1.1
    assert found.max() < RAMPS["drift"].begin / 1e6


@pytest.mark.parametrize("restless", [0.0, 0.3, 1.0])
def test_honest_silos_with_lasting_offsets_are_not_suspected_of_drift(restless: float) -> None:
    struck: Counter[str] = Counter()
    for seed in range(3):
        found, _ = judged(lives(seed, 40, restless=restless))
        struck.update(silo for one in found for silo, judgement in one.items() if drifting(judgement))
    assert all(struck[silo] <= 0.05 * 3 * 40 for silo in COUNTS)


@pytest.mark.parametrize("noise", [1.0, 0.1, 0.01])
def test_silos_that_come_closer_as_the_model_learns_are_not_suspected(noise: float) -> None:
    for seed in range(3):
        found, _ = judged(lives(seed, 24, restless=0.02, learning=0.15, noise=noise))
        assert not any(drifting(one) for judgements in found for one in judgements.values())


def test_who_turns_while_the_model_learns_is_suspected() -> None:
    found, _ = judged(lives(7, SINCE + RECENT + 4, learns_otherwise, restless=0.02, learning=0.15, noise=0.1))
    assert all(drifting(judgements[SILO]) for judgements in found[SINCE:])
    assert not any(drifting(one) for judgements in found[:SINCE] for one in judgements.values())


def test_honest_digits_do_not_drift_more_than_one_round_in_twenty() -> None:
    struck: Counter[str] = Counter()
    for seed in (51, 52, 53):
        found, _ = judged(rounds(seed, 40))
        struck.update(silo for one in found for silo, judgement in one.items() if drifting(judgement))
    # 33 rounds of each run have a past.
    assert all(struck[silo] <= 0.05 * 3 * 33 for silo in COUNTS)


@pytest.mark.parametrize("turn", [replaces_noise, learns_otherwise])
def test_silo_that_turns_in_mid_run_is_suspected_then_and_hardly_anybody_else(turn: Turn) -> None:
    found, _ = judged(lives(7, SINCE + RECENT + 4, turn))
    assert not any(drifting(one) for judgements in found[:SINCE] for one in judgements.values())
    assert all(drifting(judgements[SILO]) for judgements in found[SINCE + RECENT - 1 :])
    # The median of five others moves with one of them, and the next round's past does not know it yet.
    struck = Counter(silo for judgements in found for silo, one in judgements.items() if drifting(one))
    assert all(struck[silo] <= 0.05 * len(found) for silo in COUNTS if silo != SILO)


def test_drift_lowers_the_weight_and_excludes_nobody() -> None:
    found, _ = judged(lives(7, SINCE + RECENT + 1, replaces_noise))
    before, after = found[SINCE - 1][SILO], found[-1][SILO]
    assert after.verdict == "suspected"
    assert 0 < after.weight < before.weight
    assert next(one for one in after.scores if one.name == "drift").evidence_micro is None


def test_suspicion_ends_when_the_window_holds_no_other_past() -> None:
    found, _ = judged(lives(7, SINCE + PAST + 3 * RECENT, replaces_noise))
    suspected = [place for place, judgements in enumerate(found) if drifting(judgements[SILO])]
    assert suspected[0] in range(SINCE, SINCE + RECENT)
    assert suspected == list(range(suspected[0], suspected[-1] + 1))
    # Rounds that led up to the first suspicion are no habit; of those before, the last round still reads the fewest.
    assert suspected[-1] == (suspected[0] - RECENT) - (FEWEST_ROUNDS - 1) + WINDOW


def test_no_score_without_a_past() -> None:
    run = list(lives(5, RECENT + FEWEST_ROUNDS))
    found, history = judged(iter(run))
    assert [drift_of(one) is None for one in (judgements[SILO] for judgements in found)] == [True] * 7 + [False]
    setting, exhibits = run[-1]
    assert np.isnan(drifts(setting, exhibits, None)).all()
    assert np.isnan(drifts(setting, exhibits, history[:-2])).all()
    few = [replace(one, outputs=dict(list(one.outputs.items())[:3])) for one in history[:-1]]
    assert np.isnan(drifts(setting, exhibits, few)).all()
    assert np.isnan(drifts(setting, exhibits[:3], history[:-1])).all()


def test_newcomer_has_no_score_and_changes_none_but_through_the_median() -> None:
    *past, (setting, exhibits) = lives(5, 12)
    _, history = judged(iter(past))
    found = drifts(setting, [*exhibits, replace(exhibits[0], silo="newcomer")], history)
    assert np.isnan(found[-1])
    assert not np.isnan(found[:-1]).any()


def test_task_without_an_open_output_layer_has_no_drift() -> None:
    run = [
        (replace(setting, output_size=0), [replace(one, output=one.output[:0]) for one in shown])
        for setting, shown in lives(5, 12)
    ]
    found, _ = judged(iter(run))
    assert all(drift_of(one) is None for judgements in found for one in judgements.values())


def test_order_of_exhibits_does_not_matter() -> None:
    *past, (setting, exhibits) = lives(5, 12)
    _, history = judged(iter(past))
    assert drifts(setting, exhibits[::-1], history).tolist() == drifts(setting, exhibits, history)[::-1].tolist()


def test_only_the_window_is_read() -> None:
    *past, (setting, exhibits) = lives(5, PAST + RECENT + 5)
    _, history = judged(iter(past))
    wild = [replace(one, outputs={silo: 100 * row for silo, row in one.outputs.items()}) for one in history[:5]]
    changed: Sequence[Earlier] = [*wild, *history[5:]]
    assert drifts(setting, exhibits, changed).tolist() == drifts(setting, exhibits, history).tolist()


def test_reason_says_the_deviations() -> None:
    found, _ = judged(lives(7, SINCE + RECENT + 1, replaces_noise))
    words = RAMPS["drift"].words.format(value=drift_of(found[-1][SILO]))
    assert found[-1][SILO].reason == f"{words}; weight lowered, not excluded"
