"""The learning rate of a round, from the task and the round's number alone, the same on every machine.

Cosine (Loshchilov and Hutter 2017, without restarts): round r of R takes `(1 + cos(pi (r - 1) / R)) / 2` of the task's
rate. In decimal arithmetic: the last bits of a library's cosine differ between machines, and a plan is signed.
Updates shrink with the rate, and the quantisation step follows them (`audit.ranges`). Rates are no secret and cost no
privacy.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protos.task import Task, Training

_DECIMAL = Context(prec=50, rounding=ROUND_HALF_EVEN)
_PI = Decimal("3.14159265358979323846264338327950288419716939937511")


def training_in_round(task: Task, number: int) -> Training:
    """DP-SGD of round `number` (from 1)."""
    if task.schedule == "constant":
        return task.training
    whole = task.training.learning_rate_micro
    share = _DECIMAL.divide(_DECIMAL.add(Decimal(1), _cosine(number - 1, task.rounds)), Decimal(2))
    rate = max(1, int(_DECIMAL.to_integral_value(_DECIMAL.multiply(Decimal(whole), share))))
    return replace(task.training, learning_rate_micro=rate)


def _cosine(numerator: int, denominator: int) -> Decimal:
    """cos(pi * numerator / denominator) for an angle up to pi, by its power series."""
    angle = _DECIMAL.divide(_DECIMAL.multiply(_PI, Decimal(numerator)), Decimal(denominator))
    square = _DECIMAL.multiply(angle, angle)
    total, term = Decimal(0), Decimal(1)
    for order in range(1, 80, 2):
        total = _DECIMAL.add(total, term)
        term = _DECIMAL.divide(_DECIMAL.multiply(term, -square), Decimal(order * (order + 1)))
    return total
