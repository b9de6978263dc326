from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from defenses.evidence import Exhibit, Setting
from tests.defenses.simulate import COUNTS, DEMO, drawn, honest, noised_sums


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240611)


@pytest.fixture
def setting(rng: np.random.Generator) -> Setting:
    """The demo's round, without prototypes."""
    return drawn(DEMO, rng)


@pytest.fixture
def exhibits(setting: Setting, rng: np.random.Generator) -> list[Exhibit]:
    """Six honest silos without signal."""
    return [honest(setting, silo, count, rng) for silo, count in COUNTS.items()]


@pytest.fixture
def round_with_prototypes(setting: Setting, rng: np.random.Generator) -> tuple[Setting, list[Exhibit]]:
    """Eight equal honest silos whose prototypes are clear enough to judge."""
    setting = replace(setting, prototype_noise=3.0)
    centres = rng.normal(0, 0.8 / np.sqrt(setting.embedding), (setting.classes, setting.embedding))
    found = []
    for number in range(8):
        exhibit = honest(setting, f"silo{number}", 400, rng)
        found.append(replace(exhibit, prototypes=noised_sums(setting, centres, exhibit.classes, rng)))
    return setting, found
