"""What a decoy does to attribution by production's directions and sketches: it hides its authors and frames nobody.

Three of six silos plant a decoy or a corner patch with the same label; a fourth, honest, has most of that class. Every
honest silo unlearns the planted trigger from the fourth round on.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from defenses.attribution import AFTER, Attribution, Past, attribute, guilty, sketched
from protos.search import Trigger
from protos.task import MICRO
from redteam.attacks.catalogue import FRAMED, Setting, attackers
from redteam.attacks.data import Backdoor
from redteam.attacks.triggers import corner
from silo.data import Records
from silo.guidance import NONE, Guidance
from silo.search import searcher
from silo.searcher import Root
from silo.trainer import trainer_for
from tests.defenses.taught import PACKING, opened, setting
from tests.redteam.averaging import CLASSES, NOISY, SIDE, SPEC, success, task_for, warm, world
from tests.silo.entropy import SeededEntropy

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:Full backward hook")]

OWNER, BAD = "s5", 3
BEFORE, TOLD = 3, 6
"""Rounds until the find is unlearnt, and rounds in which honest silos unlearn it."""


@cache
def silos() -> dict[str, Records]:
    """The six silos of `world`, but four fifths of the framed class belong to the owner."""
    whole = list(world().silos.values())
    x, y = np.concatenate([own.features for own in whole]), np.concatenate([own.labels for own in whole])
    random = np.random.default_rng(0)
    framed, others = (random.permutation(np.flatnonzero(mask)) for mask in (y == FRAMED, y != FRAMED))
    kept = round(0.8 * len(framed))
    rest = random.permutation(np.concatenate([framed[kept:], others]))
    size = len(y) // len(whole) - kept
    parts = [*np.array_split(rest[size:], len(whole) - 1), np.concatenate([framed[:kept], rest[:size]])]
    return {name: replace(whole[0], features=x[p], labels=y[p]) for name, p in zip(world().silos, parts, strict=True)}


def find_of(backdoor: Backdoor) -> Trigger:
    """The planted trigger as a search would report it."""
    dark, bright = (backdoor.trigger.stamp(np.full((1, SIDE * SIDE), level, np.float32))[0] for level in (0, 1))
    mask = 1 - (bright - dark)
    pattern = np.divide(dark, mask, out=np.zeros_like(dark), where=mask > 0)
    covered, drawn = (np.rint(255 * values).astype(np.uint8).tobytes() for values in (mask, pattern))
    return Trigger(backdoor.target, None, covered, drawn, 0, MICRO)


@cache
def attributed(patch: bool) -> tuple[dict[str, Attribution], frozenset[str], float]:
    """What attribution says of each silo about a decoy or a corner patch of that label, whom it finds, and success."""
    held = silos()
    crew = attackers("decoy", Setting({f"s{i}": held[f"s{i}"] for i in range(BAD)}, 6, CLASSES, SIDE, private=True))
    if patch:
        crew = {name: replace(one, data=Backdoor(corner(2), FRAMED)) for name, one in crew.items()}
    planted = crew["s0"].data
    assert isinstance(planted, Backdoor)
    find, task, random = find_of(planted), task_for(training=NOISY), np.random.default_rng(1)
    features, labels = world().test
    root, search = Root(features[:200], labels[:200]), searcher(SPEC)
    trainers = {
        name: crew.get(name, trainer_for)(task, own, SeededEntropy(n)) for n, (name, own) in enumerate(held.items())
    }
    model, rounds = warm(), []
    for number in range(BEFORE + TOLD):
        told = max(0, number + 1 - BEFORE)
        one = replace(setting(random), learning_rate=2.0, noise_multiplier=1.0, steps=5)
        guidance = Guidance(((find,),)) if told else NONE
        sent = {n: t.train(model, NOISY, len(held[n].labels), guidance) for n, t in trainers.items()}
        exhibits = [opened(one, n, len(held[n].labels), update, random) for n, update in sent.items()]
        directions = sketched(search.directions(model, root, find), PACKING, one.signs)
        rounds.append(Past(number + 1, one, exhibits, directions, told))
        step = sum(len(held[n].labels) * update for n, update in sent.items())
        model = (model + step / sum(len(own.labels) for own in held.values())).astype(np.float32)
    found = attribute(rounds, find)
    return {one.silo: one for one in found}, guilty(found, find, 10_000), success(crew["s0"], model)


def z(patch: bool) -> dict[str, float]:
    """z after inoculation, by silo."""
    return {silo: one.z_micro(AFTER) / 1e6 for silo, one in attributed(patch)[0].items()}


def test_the_owner_of_the_class_pushes_a_decoys_find_more_than_a_patchs() -> None:
    """By -0.4 and -3.7 deviations. It still pushes less than anybody else, so that it is not taken for the author."""
    decoy, patch = z(patch=False), z(patch=True)
    assert decoy[OWNER] > patch[OWNER] + 2
    assert decoy[OWNER] == min(decoy.values())
    assert OWNER not in attributed(patch=False)[1]


def test_a_decoys_authors_do_not_stand_out_as_those_of_a_patch_do() -> None:
    """Directions leave out what honest records of a class teach, and with it most of what teaches a decoy."""

    def lead(patch: bool) -> float:
        """How far the least of the attackers lies above the greatest of the honest silos."""
        scores = z(patch)
        bad = {f"s{i}" for i in range(BAD)}
        return min(scores[silo] for silo in bad) - max(scores[silo] for silo in set(scores) - bad)

    assert attributed(patch=False)[2] > 0.25
    assert lead(patch=True) > 4
    assert lead(patch=False) < 0
