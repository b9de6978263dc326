"""Weighting rules of the field decide rounds under encryption, and every silo repeats them from the log."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.bench import bench, outcomes

RULES = ("geometric-median", "multi-krum", "prototype-similarity")
"""Rules that keep at least the privacy minimum of five honest silos, whatever their noise."""


@pytest.mark.parametrize("name", RULES)
def test_rule_decides_a_round_that_all_silos_adopt(tmp_path: Path, name: str) -> None:
    federation = bench(tmp_path, rounds=1, defense=name)
    (outcome,) = outcomes(federation.run())
    assert outcome.result == "adopted"
    assert federation.errors == {}


@pytest.mark.parametrize("name", ["flame-filter", "foolsgold"])
def test_rule_of_angles_may_leave_out_honest_silos_by_their_noise_and_then_no_sum_is_made(
    tmp_path: Path, name: str
) -> None:
    federation = bench(tmp_path, rounds=1, defense=name)
    history = federation.run()
    (outcome,) = outcomes(history)
    enough = len(history.round.weights) >= history.round.plan.privacy_minimum
    assert outcome.result == ("adopted" if enough else "void")
    assert federation.errors == {}


def test_sum_of_the_one_silo_that_krum_keeps_is_never_made(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=1, defense="krum")
    (outcome,) = outcomes(federation.run())
    assert (outcome.result, outcome.reason) == ("void", "fewer retained silos than the privacy minimum")


def test_rule_without_the_output_layer_that_it_reads_voids_the_round(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=1, defense="flab")
    (outcome,) = outcomes(federation.run())
    assert (outcome.result, outcome.model) == ("void", federation.task.initial_model)
    assert "flab reads the exact output layer, which this task does not open" in outcome.reason
