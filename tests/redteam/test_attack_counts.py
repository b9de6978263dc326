"""False record counts: what is declared, and what it gains over honest training with the same weight."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from redteam.attacks import local
from redteam.attacks.attack import Attack
from redteam.attacks.parts import Context, Floats
from silo.trainer import trainer_for
from tests.redteam.averaging import NOISY, QUIET, attacking, average, success, world

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:Full backward hook")]


@dataclass(frozen=True)
class TrueSteps(local.PrivateSgd):
    """DP-SGD with the step of the true count, whatever was declared."""

    times: int = 1

    def train(self, context: Context) -> Floats:
        trainer = trainer_for(context.task, context.poisoned, context.entropy)
        return trainer.train(context.model, context.training, self.times * context.count, context.guidance)


@pytest.mark.parametrize(("name", "share"), [("false-count", 0.25), ("inflated-count", 4.0)])
def test_a_false_count_is_declared_at_enrolment_and_its_weight_follows(name: str, share: float) -> None:
    attack, own = attacking(name, 1, private=True)["s0"], world().silos["s0"]
    assert len(attack.declare(own).labels) == round(share * len(own.labels))
    assert len(attack.seat(own).records.labels) == round(share * len(own.labels))


def test_a_false_count_reaches_more_than_its_weight() -> None:
    """A quarter of the declared count is a quarter of the weight, but four times the step per record.

    Success 0.55, of the true count 0.60; of a quarter of the weight with honest steps 0.05.
    """
    lies = attacking("false-count", 2, private=True)

    def reached(crew: dict[str, Attack]) -> float:
        return success(lies["s0"], average(crew, 8, NOISY))

    lied = reached(lies)
    light = reached({silo: replace(one, local=TrueSteps(times=4)) for silo, one in lies.items()})
    told = reached({silo: replace(one, declared=1.0) for silo, one in lies.items()})
    assert light < 0.2 < 0.4 < lied
    assert lied == pytest.approx(told, abs=0.15)


def test_an_inflated_count_reaches_more_than_its_records() -> None:
    lies = attacking("inflated-count", 1)
    told = {silo: replace(one, declared=1.0) for silo, one in lies.items()}
    inflated, plain = (success(lies["s0"], average(crew, 6, QUIET)) for crew in (lies, told))
    assert inflated > plain + 0.1
