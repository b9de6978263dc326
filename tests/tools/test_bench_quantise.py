"""The comparison of quantisations, on a federation of seconds."""

from __future__ import annotations

import numpy as np
import pytest

from tests.integration.federation import SILOS, records, task
from tools.bench_quantise import WAYS, Federation, Run, Way, rows


@pytest.fixture(scope="module")
def made() -> Federation:
    toy, model = task(rounds=3)
    test = records(99)
    silos = {name: records(index) for index, name in enumerate(SILOS)}
    return Federation(toy, np.frombuffer(model, "<f4").astype(np.float32), silos, (test.features, test.labels), 1)


def test_ways_of_a_seed_share_batches_and_noise(made: Federation) -> None:
    first, again = (made._updates(made.start, 1) for _ in range(2))
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert not np.array_equal(first[0], made._updates(made.start, 2)[0])
    assert made.train(WAYS[0]) == made.train(WAYS[0])


def test_eight_bits_end_where_floats_do_and_the_range_follows(made: Federation) -> None:
    found = {way.name: made.train(way) for way in WAYS}
    assert abs(found["8 bits"].accuracy - found["float"].accuracy) < 5
    assert found["8 bits"].step_log2 < found["8 bits, task's range"].step_log2 == made.task.step_log2
    assert found["4 bits"].step_log2 > found["8 bits"].step_log2
    assert all(run.cut < 0.01 for run in found.values())


def test_row_is_the_paired_difference() -> None:
    runs = {"float": [Run(90, 0, 0, 0), Run(80, 0, 0, 0)], "8 bits": [Run(91, 0.5, -7, 2), Run(80, 0.5, -7, 2)]}
    assert rows("x", runs)[1] == "| x | 8 bits | 85.50 ± 7.78 | +0.50 ± 0.50 | 5.0e-01 | -7.0 | 2.00 |"
    assert Way("5 bits", 5, True).levels == 15
