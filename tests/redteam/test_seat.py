"""An attack in a seat of the simulator: the machines of production carry it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from protos.task import MICRO, PROTOTYPE_GRID
from redteam.attacks import data, local, prototypes, updates
from redteam.attacks.attack import Attack
from redteam.attacks.parts import Ring
from tests.integration.federation import CLASSES, INPUTS, federation, records, task

pytestmark = pytest.mark.integration


def test_a_seated_attack_sends_its_update_prototypes_and_false_count(tmp_path: Path) -> None:
    consensus = 5 * np.random.default_rng(0).normal(size=(CLASSES, INPUTS))
    attack = Attack(
        data.FlipPair(0, 1),
        local.PrivateSgd(),
        (updates.Scale(3.0),),
        prototypes.ConsensusPrototypes(),
        declared=3.0,
        ring=Ring(consensus=consensus),
    )
    simulation = federation(tmp_path, {"eve": attack.seat(records(4))}, rounds=1, defense="plain")
    history = simulation.run()
    assert history.rounds[0].outcome is not None
    assert history.rounds[0].outcome.result == "adopted"

    toy = task(1)[0]
    assert history.counts["eve"].total == pytest.approx(360, abs=6 * 5 * 2**0.5)
    opened = history.rounds[0].openings["eve"].prototypes
    assert opened is not None
    rule = toy.prototypes
    assert rule is not None
    unit = rule.clip_micro / MICRO / PROTOTYPE_GRID
    sums = np.frombuffer(opened, dtype="<i8").reshape(CLASSES, INPUTS) * unit
    wanted = consensus * np.bincount(records(4).labels, minlength=CLASSES)[:, None]
    noise = rule.noise_micro / MICRO * rule.clip_micro / MICRO
    # Rows are truncated to the grid: at most one unit a row and coordinate.
    allowed = 6 * noise + np.linalg.norm(wanted, axis=1, keepdims=True) * unit + unit
    assert (np.abs(sums - wanted) <= allowed).all()
    simulation.close()
