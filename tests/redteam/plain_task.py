"""A task of plain values for trainers; its privacy parameters are not solved for."""

from __future__ import annotations

from protos.task import MICRO, Budget, ModelSpec, PrototypeRule, Task, Training
from silo.trainer import layout_for

PROTOTYPES = PrototypeRule(4 * MICRO, 1, 1)
PLAN = Training(MICRO, 5, MICRO, 2 * MICRO, 20_000)


def plain_task(spec: ModelSpec, training: Training = PLAN, rounds: int = 40) -> Task:
    """A task for this model."""
    layout = layout_for(spec, "0" * 64)
    budget = Budget(8 * MICRO, 10_000)
    return Task("test", spec, layout, "0" * 64, rounds, training, PROTOTYPES, MICRO, MICRO, 1, budget, -6, 4)
