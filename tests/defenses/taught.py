"""Rounds in which silos push along the directions of a find, laid out and opened as production does it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from crypto.packing import Packing
from crypto.sketch import sketch
from defenses.attribution import (
    Attribution,
    Past,
    sketched,
)
from defenses.evidence import Exhibit, Setting
from protos.search import Trigger
from protos.task import Layout, TensorSpec
from tests.defenses.simulate import COUNTS, DEMO, noise_std

SIZE, OUTPUT, CLASSES, TARGET = 2410, 330, 10, 3
LAYOUT = Layout((TensorSpec("all", (SIZE,), 0),), SIZE, SIZE - OUTPUT, OUTPUT, 32, CLASSES, "ab" * 32)
PACKING = Packing.of(LAYOUT, 8)
FDR = 10_000
FIND = Trigger(TARGET, None, bytes([255]), bytes([255]), 0, 1_000_000)
FLIP = Trigger(TARGET, 7, b"", b"", 0, 1_000_000)


def setting(rng: np.random.Generator) -> Setting:
    """The demonstration's round under fresh signs, laid out as production packs it."""
    signs = rng.choice(np.array([-1, 1], dtype=np.int8), (8, PACKING.body_chunks))
    return replace(DEMO, signs=signs, column_counts=PACKING.column_counts)


def unit_rows(rng: np.random.Generator) -> np.ndarray:
    rows = rng.normal(size=(CLASSES, SIZE))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def opened(one: Setting, silo: str, count: int, update: np.ndarray, rng: np.random.Generator) -> Exhibit:
    """What a silo shows of an update in the model's own order."""
    whole = np.clip(np.floor(update / one.step + rng.random(SIZE)), -127, 127).astype(np.int64)
    folds, output = sketch(PACKING.to_fields(whole), PACKING, one.signs)
    return Exhibit(silo, count, np.ones(CLASSES, dtype=np.int64), folds.astype(np.int64), output.astype(np.int64), None)


def rounds(
    seed: int,
    number: int,
    counts: dict[str, int] = COUNTS,
    push: dict[str, float] | None = None,
    inoculated: bool = False,
    others: float = 0.0,
) -> list[Past]:
    """Rounds of noise; `push` adds so many noise deviations along the target's direction, `others` to all others."""
    along = np.eye(CLASSES)[TARGET]
    pushes = {silo: (push or {}).get(silo, others) * along for silo in counts}
    return leaning(seed, number, pushes, inoculated, counts)


def leaning(
    seed: int,
    number: int,
    pushes: dict[str, np.ndarray],
    inoculated: bool = True,
    counts: dict[str, int] | None = None,
) -> list[Past]:
    """Rounds in which each silo adds so many noise deviations along the directions of all classes; 200 records each.

    Inoculated ones are the second and those after it in which silos train against the find: the first that count.
    """
    rng = np.random.default_rng(seed)
    made = []
    for place in range(number):
        one, rows = setting(rng), unit_rows(rng)
        exhibits = []
        for silo, push in pushes.items():
            count = (counts or {}).get(silo, 200)
            std = noise_std(one, count)
            exhibits.append(opened(one, silo, count, std * (rng.normal(size=SIZE) + push @ rows), rng))
        made.append(Past(place + 1, one, exhibits, sketched(rows, PACKING, one.signs), place + 2 if inoculated else 0))
    return made


def told(push: float) -> list[Past]:
    """Twenty inoculated rounds after twenty others, in which all others unlearn the find."""
    past = rounds(19, 20, push={"d150": push}, inoculated=True, others=-2.0)
    return [replace(one, number=20 + one.number) for one in past]


def z_of(found: Attribution, name: str) -> float:
    return next(score.value_micro for score in found.scores if score.name == f"{name}-z") / 1e6
