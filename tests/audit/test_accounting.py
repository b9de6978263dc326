import dataclasses
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.accounting import (
    _ORDERS,
    ImpossibleTarget,
    _curve,
    counts_charge,
    epsilon,
    prototypes_in_round,
    round_charges,
    solve_noise,
    task_epsilon,
)
from protos.messages import Charge
from protos.task import Budget, Layout, ModelSpec, PrototypeRule, Task, TensorSpec, Training

DELTA = 100_000  # 1e-4


def task(**changes: object) -> Task:
    layout = Layout((TensorSpec("weight", (2, 1), 0), TensorSpec("bias", (2,), 2)), 4, 0, 4, 1, 2, "0" * 64)
    base = Task(
        name="demo",
        model=ModelSpec("linear", (1, 2), "none"),
        layout=layout,
        initial_model="0" * 64,
        rounds=40,
        training=Training(500_000, 1, 4_000_000, 1_000_000, 2_370_000),
        prototypes=PrototypeRule(1_000_000, 6_800_000, 1),
        counts_noise_micro=8_000_000,
        evaluation_noise_micro=30_000_000,
        evaluation_every=1,
        budget=Budget(8_000_000, DELTA),
        step_log2=-6,
        folds=4,
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def gaussian(noise_micro: int, steps: int = 1) -> Charge:
    return Charge("counts", noise_micro, 1_000_000, steps)


def closed_form(rho: float, delta: float) -> float:
    """Infimum over all real orders of the conversion in Canonne, Kamath, Steinke 2020, Proposition 12."""
    orders = [1 + 10 ** (exponent / 2000) for exponent in range(-4000, 8000)]
    return min(rho * a + math.log1p(-1 / a) - math.log(delta * a) / (a - 1) for a in orders)


@given(st.integers(1_000_000, 50_000_000), st.integers(1, 200))
@settings(max_examples=40, deadline=None)
def test_pure_gaussian_is_the_closed_form_from_above(noise_micro: int, steps: int) -> None:
    exact = closed_form(steps / (2 * (noise_micro / 1e6) ** 2), 1e-4)
    ours = epsilon([gaussian(noise_micro, steps)], DELTA) / 1e6
    assert ours >= exact - 1e-5
    if 0.5 < exact < 10:  # the orders are chosen for this range
        assert ours <= exact * 1.02


def test_analytic_gaussian_mechanism_is_never_above_ours() -> None:
    """Balle and Wang 2018: the exact δ of the Gaussian mechanism at our ε must be at most δ."""

    def phi(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    for noise in (0.7, 1.5, 4.0, 20.0):
        eps = epsilon([gaussian(round(noise * 1e6))], DELTA) / 1e6
        assert phi(0.5 / noise - eps * noise) - math.exp(eps) * phi(-0.5 / noise - eps * noise) <= 1e-4


@pytest.mark.torch
@pytest.mark.parametrize(("noise", "rate", "steps"), [(2.37, 0.5, 40), (1.1, 0.01, 1000), (4.0, 0.9, 10)])
def test_sampled_gaussian_is_at_most_one_percent_above_opacus(noise: float, rate: float, steps: int) -> None:
    from opacus.accountants import RDPAccountant

    oracle = RDPAccountant()
    oracle.history = [(noise, rate, steps), (6.8, 1.0, steps)]
    charges = [Charge("training", round(noise * 1e6), round(rate * 1e6), steps), gaussian(6_800_000, steps)]
    exact = oracle.get_epsilon(1e-4)
    assert exact - 1e-6 <= epsilon(charges, DELTA) / 1e6 <= 1.01 * exact


def test_sampled_curve_is_never_below_the_integral() -> None:
    """Mironov, Talwar, Zhang 2019: the divergence at order a is log E[(1 - q + q e^((2z-1)/2σ²))^a] / (a - 1)."""
    noise, rate = 2.37, 0.5
    curve = dict(zip(_ORDERS, _curve(2_370_000, 500_000), strict=True))
    z = np.linspace(-60, 60, 400_001)
    density = np.exp(-(z**2) / (2 * noise**2)) / (noise * math.sqrt(2 * math.pi))
    ratio = 1 - rate + rate * np.exp((2 * z - 1) / (2 * noise**2))
    for order in (2.0, 3.0, 3.2, 4.5, 7.0, 12.0):
        exact = math.log(float(np.sum(density * ratio**order)) * (z[1] - z[0])) / (order - 1)
        assert exact * (1 - 1e-9) <= curve[order] <= exact * 1.01


def test_grouping_and_order_of_charges_change_nothing() -> None:
    single = [charge for _ in range(40) for charge in round_charges(task().training, task().prototypes, 30_000_000)]
    single.append(counts_charge(task()))
    assert epsilon(single, DELTA) == epsilon(reversed(single), DELTA) == task_epsilon(task())


@given(st.lists(st.sampled_from([gaussian(5_000_000), gaussian(9_000_000, 3)]), max_size=6))
@settings(deadline=None)
def test_another_charge_never_lowers_epsilon(charges: list[Charge]) -> None:
    assert epsilon([*charges, gaussian(7_000_000)], DELTA) >= epsilon(charges, DELTA)


def test_nothing_spent_is_zero() -> None:
    assert epsilon([], DELTA) == 0


def test_hopelessly_small_noise_is_finite_and_huge() -> None:
    assert 10**12 < epsilon([gaussian(1, 100)], DELTA) <= 2**53 - 1


def test_round_without_prototypes_is_not_charged_for_them() -> None:
    rule = PrototypeRule(1_000_000, 6_800_000, 4)
    named = [number for number in range(1, 11) if prototypes_in_round(rule, number) is not None]
    assert named == [1, 5, 9]
    assert [charge.channel for charge in round_charges(task().training, None, 1)] == ["training", "evaluation"]
    sparse = task(rounds=10, prototypes=rule)
    charges = [
        charge
        for number in range(1, 11)
        for charge in round_charges(sparse.training, prototypes_in_round(rule, number), 30_000_000)
    ]
    assert epsilon([*charges, counts_charge(sparse)], DELTA) == task_epsilon(sparse)


def test_solved_noise_is_the_smallest_that_fits() -> None:
    draft = task()
    noise = solve_noise(draft)

    def spent(noise_micro: int) -> int:
        return task_epsilon(dataclasses.replace(draft, training=Training(500_000, 1, 1, 1, noise_micro)))

    assert spent(noise) <= 8_000_000 < spent(noise - 1)
    assert 2_350_000 < noise < 2_400_000


def test_impossible_target_names_the_least_epsilon() -> None:
    with pytest.raises(ImpossibleTarget, match=r"least possible epsilon of this task is \d+\.\d{3}") as caught:
        solve_noise(task(budget=Budget(1_000_000, DELTA)))
    least = caught.value.least_epsilon_micro
    assert solve_noise(task(budget=Budget(least, DELTA))) <= 1_000_000_000
    with pytest.raises(ImpossibleTarget):
        solve_noise(task(budget=Budget(least - 1, DELTA)))


def test_forty_rounds_of_accounting_take_milliseconds() -> None:
    charges = list(round_charges(task().training, task().prototypes, 30_000_000))
    epsilon(charges, DELTA)
    start = time.process_time()
    for rounds in range(2, 42):
        epsilon(charges * rounds, DELTA)
    assert time.process_time() - start < 0.2
