"""Tables against the statistics module and against numbers worked out by hand."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import redteam
from redteam.display import shown
from redteam.errors import BadScenario
from redteam.plots import plot
from redteam.results import readme
from redteam.sweep import POOLED, Cells, parse_sweep, read_sweep
from redteam.tables import entries, interval, share_interval, to_bench, to_csv

T_975 = {2: 12.706204736, 3: 4.302652730, 5: 2.776445105}
"""Quantiles of Student's t with n - 1 degrees of freedom, from a printed table."""

SWEEPS = sorted((Path(redteam.__file__).parent / "scenarios").rglob("*.toml"))

SILOS = ("s000", "s001", "s002", "eve")

SWEEP: dict[str, Any] = {
    "table": "X",
    "title": "toys",
    "seeds": [1, 2, 3],
    "defenses": ["plain", "guard"],
    "scenario": {"model": {"kind": "linear"}},
    "rows": [
        {"name": "calm"},
        {
            "name": "storm",
            "changes": {"attack.name": "badnets"},
            "goals": [
                {"defense": "guard", "metric": "success", "op": "<=", "value": 0.05},
                {"defense": "guard", "metric": "accuracy", "op": ">=", "value": -0.015, "of": "calm / plain"},
            ],
            "reference": {"plain": {"success": 0.9}},
        },
    ],
}


@settings(deadline=None)  # the first call imports scipy's distributions
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=5).filter(lambda values: len(values) in T_975))
def test_the_interval_is_students(values: list[float]) -> None:
    mean, low, high = interval(values)
    reach = T_975[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    assert mean == pytest.approx(statistics.mean(values), abs=1e-12)
    assert (low, high) == (pytest.approx(mean - reach, abs=1e-7), pytest.approx(mean + reach, abs=1e-7))


@given(st.integers(1, 40).flatmap(lambda runs: st.tuples(st.integers(0, runs), st.just(runs))))
def test_the_interval_of_a_share_holds_what_the_binomial_law_does_not_refuse(counted: tuple[int, int]) -> None:
    """At either end the tail beyond what was seen has 2.5 %; sums of the binomial law, written out."""
    hits, runs = counted
    share, low, high = share_interval(hits, runs)
    assert share == hits / runs

    def tail(rate: float, numbers: range) -> float:
        return sum(math.comb(runs, k) * rate**k * (1 - rate) ** (runs - k) for k in numbers)

    assert low == 0 if hits == 0 else tail(low, range(hits, runs + 1)) == pytest.approx(0.025, abs=1e-9)
    assert high == 1 if hits == runs else tail(high, range(hits + 1)) == pytest.approx(0.025, abs=1e-9)


def test_one_seed_has_no_interval() -> None:
    mean, low, high = interval([0.25])
    assert mean == 0.25
    assert math.isnan(low)
    assert math.isnan(high)


def kept(directory: Path, numbers: dict[tuple[str, str], list[dict[str, float]]]) -> Cells:
    """Cells of the sweep with these metrics by row and defence, one for each seed."""
    cells, sweep = Cells(directory), parse_sweep(SWEEP)
    for cell in sweep.cells:
        found = numbers.get((cell.row, cell.defense))
        if found is not None:
            cells.keep(cell, {"metrics": found[cell.seed - 1]})
    return cells


def test_means_goals_and_references_come_beside_each_other(tmp_path: Path) -> None:
    cells = kept(
        tmp_path,
        {
            ("calm", "plain"): [{"accuracy": 0.9}, {"accuracy": 0.8}, {"accuracy": 0.85}],
            ("storm", "plain"): [{"accuracy": 0.7, "success": share} for share in (0.8, 0.9, 1.0)],
            ("storm", "guard"): [{"accuracy": 0.84, "success": share} for share in (0.0, 0.1, 0.2)],
        },
    )
    found = {(one.row, one.defense, one.metric): one for one in entries(parse_sweep(SWEEP), cells)}
    assert found["storm", "plain", "success"].mean == pytest.approx(0.9)
    assert found["storm", "plain", "success"].reference == 0.9
    assert found["storm", "plain", "success"].met is None
    missed, met = found["storm", "guard", "success"], found["storm", "guard", "accuracy"]
    assert (missed.mean, missed.met, missed.goal) == (pytest.approx(0.1), False, "<= 0.05")
    assert (met.met, met.goal) == (True, ">= calm / plain - 0.015")
    assert ("calm", "guard", "accuracy") not in found


def test_a_goal_whose_base_was_not_run_is_open(tmp_path: Path) -> None:
    cells = kept(tmp_path, {("storm", "guard"): [{"accuracy": 0.84, "success": 0.0}] * 3})
    found = {one.metric: one for one in entries(parse_sweep(SWEEP), cells) if one.row == "storm"}
    assert found["accuracy"].met is None
    assert found["success"].met is True


def test_a_goal_on_what_never_happened_is_missed(tmp_path: Path) -> None:
    """Nobody was convicted, so there is no round of the first conviction."""
    goals = [{"defense": "guard", "metric": "first_conviction", "op": "<=", "value": 8}]
    sweep = parse_sweep({**SWEEP, "rows": [{**SWEEP["rows"][1], "goals": goals}]})
    cells = kept(tmp_path, {("storm", "guard"): [{"accuracy": 0.84}] * 3})
    found = {(one.row, one.metric): one for one in entries(sweep, cells)}
    assert found["storm", "first_conviction"].met is False
    assert [row["measured"] for row in to_bench(list(found.values())) if row["goal"]] == [None]


def test_cells_of_all_rows_are_pooled_and_goals_on_cells_count_them(tmp_path: Path) -> None:
    goal = {"defense": "guard", "metric": "success_within_0.05", "op": ">=", "value": 0.9}
    sweep = parse_sweep({**SWEEP, "goals": [goal]})
    cells = kept(
        tmp_path,
        {
            ("calm", "guard"): [{"accuracy": 0.9, "success": 0.9, "first_conviction": number} for number in (1, 5, 9)],
            ("storm", "guard"): [
                {"accuracy": 0.6, "success": share, "attackers_weight": 0.3} for share in (0.0, 0.05, 0.4)
            ],
        },
    )
    found = {one.metric: one for one in entries(sweep, cells) if (one.row, one.defense) == (POOLED, "guard")}
    assert (found["accuracy"].n, found["accuracy"].mean) == (6, pytest.approx(0.75))
    assert found["success_most"].mean == 0.4, "not of runs without attackers"
    assert (found["success_within_0.05"].mean, found["success_within_0.05"].met) == (pytest.approx(2 / 3), False)
    assert found["first_conviction_median"].mean == 5


def test_rates_of_silos_are_pooled_over_rows_and_seeds(tmp_path: Path) -> None:
    """By hand: three seeds, two rows. `s000` is convicted in 2 of 6 runs, `s001` in 1, an attacker in all."""
    goals = [
        {"defense": "guard", "metric": "convicted_largest", "op": "<=", "value": 0.4},
        {"defense": "guard", "metric": "convicted_single_silo", "op": "<=", "value": 0.3},
    ]
    sweep, cells = parse_sweep({**SWEEP, "goals": goals}), Cells(tmp_path)
    convicted = {("calm", 1): {"s000"}, ("calm", 3): {"s000", "s001"}}
    for cell in sweep.cells:
        guilty = convicted.get((cell.row, cell.seed), set())
        silos = [{"name": n, "attacks": n == "eve", "convicted": 2 if n in guilty | {"eve"} else None} for n in SILOS]
        largest = {"convicted_largest": float("s000" in guilty), "accuracy": 0.9, "honest_convicted": 9.0}
        if cell.defense == "guard":
            cells.keep(cell, {"metrics": largest, "silos": silos})
    found = {one.metric: one for one in entries(sweep, cells) if (one.row, one.defense) == (POOLED, "guard")}
    largest_rate, single, everybody = (
        found[name] for name in ("convicted_largest", "convicted_single_silo", "honest_convicted")
    )
    assert (everybody.n, everybody.mean) == (18, pytest.approx(3 / 18))
    assert (everybody.low, everybody.high) == share_interval(3, 18)[1:]
    assert shown(everybody) == "0.167 (0.036 to 0.414)"
    assert (largest_rate.n, largest_rate.mean, largest_rate.met) == (6, pytest.approx(2 / 6), True)
    assert (single.n, single.mean, single.met) == (6, pytest.approx(2 / 6), False)


def test_axes_repeat_every_row_and_its_goals() -> None:
    axes = [
        [{"name": f"eps {eps}", "changes": {"training.epsilon": eps}} for eps in (3, 8)],
        [{"name": f"{share}", "changes": {"attack.share": share}} for share in (0.1, 0.4)],
    ]
    sweep = parse_sweep({**SWEEP, "axes": axes})
    assert [case.name for case in sweep.cases[:3]] == ["calm, eps 3, 0.1", "calm, eps 3, 0.4", "calm, eps 8, 0.1"]
    last = sweep.cases[-1]
    assert last.goals[1].of == "calm, eps 8, 0.4 / plain"
    scenario = last.scenarios["guard", 2]
    assert (scenario.training.epsilon, scenario.attack.share, scenario.attack.name) == (8.0, 0.4, "badnets")
    assert len(sweep.cells) == 2 * 4 * 2 * 3


def test_models_of_searched_defences_are_searched_unless_a_row_says_otherwise() -> None:
    rows = [{"name": "calm"}, {"name": "blind", "changes": {"engine.search": False}}]
    sweep = parse_sweep({**SWEEP, "rows": rows, "searched": ["guard"]})
    searched = {(case.name, key[0]) for case in sweep.cases for key, one in case.scenarios.items() if one.engine.search}
    assert searched == {("calm", "guard")}


def test_csv_and_bench_rows_hold_the_numbers(tmp_path: Path) -> None:
    cells = kept(tmp_path, {("storm", "guard"): [{"accuracy": 0.84, "success": share} for share in (0.0, 0.1, 0.2)]})
    found = entries(parse_sweep(SWEEP), cells)
    rows = {row["metric"]: row for row in csv.DictReader(io.StringIO(to_csv(found))) if row["row"] == "storm"}
    assert (rows["success"]["mean"], rows["success"]["n"], rows["success"]["met"]) == ("0.1", "3", "no")
    bench = {row["metric"]: row for row in to_bench(found) if row["row"] == "storm / guard"}
    assert set(bench["success"]) == {"table", "row", "metric", "goal", "measured", "low", "high"}
    assert bench["success"]["low"] == pytest.approx(0.1 - T_975[3] * 0.1 / math.sqrt(3), abs=1e-7)
    assert json.loads(json.dumps(list(bench.values()), allow_nan=False))


def test_the_page_and_the_plot_show_each_measured_goal(tmp_path: Path) -> None:
    sweep = parse_sweep({**SWEEP, "why": "Because.", "cut": "Nearly all."})
    cells = kept(tmp_path, {("storm", "guard"): [{"accuracy": 0.84, "success": share} for share in (0.0, 0.1, 0.2)]})
    found = entries(sweep, cells)
    page = readme([(sweep, found)])
    assert "| X | storm | guard | success | 0.100 ±0.248 [missed: <= 0.05] |" in page
    assert "0 of 2 goals are met. Because." in page
    assert "*Cut:* Nearly all." in page
    assert "own: [table-j.csv](table-j.csv)." in readme([(sweep, found)], {"table-x.csv", "table-j.csv"})
    assert "storm · guard" in plot(found, "success")


def test_the_page_shows_a_papers_number_beside_ours_of_the_same_rule_without_any_goal(tmp_path: Path) -> None:
    cells = kept(
        tmp_path,
        {
            ("calm", "plain"): [{"accuracy": 0.9, "success": 0.5}] * 3,
            ("storm", "plain"): [{"accuracy": 0.7, "success": share} for share in (0.7, 0.8, 0.9)],
            ("storm", "guard"): [{"accuracy": 0.84, "success": share} for share in (0.0, 0.1, 0.2)],
        },
    )
    sweep = parse_sweep(SWEEP)
    page = readme([(sweep, entries(sweep, cells))])
    rows = [line for line in page.splitlines() if line.startswith("| X |")]
    assert rows == [
        "| X | storm | plain | success | 0.800 ±0.248 | 0.9 |",
        "| X | storm | guard | accuracy | 0.840 ±0.000 [missed: >= calm / plain - 0.015] |  |",
        "| X | storm | guard | success | 0.100 ±0.248 [missed: <= 0.05] |  |",
    ]
    assert page.count("(paper") == 0, "it has a column of its own"
    assert "0 of 2 goals are met." in page


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_papers_number_is_of_a_rule_that_its_row_runs(path: Path) -> None:
    for case in read_sweep(path).cases:
        assert set(case.reference) <= {defense for defense, _ in case.scenarios}, case.name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 3}, "rows = 3 cannot be: it is a list of one or more tables"),
        ({"rows": [3]}, r"rows = \[3\] cannot be: it is a list of one or more tables"),
        ({"axes": [[{"name": "x"}]]}, "add the missing changes"),
        ({"rows": [{"changes": {}}]}, "add the missing name"),
        ({"rows": [{"name": "a"}, {"name": "a"}]}, "two rows have one name"),
        ({"rows": [{"name": "a", "changes": {"data.sett": 1}}]}, r"row 'a': scenario: data\.sett is unknown"),
        ({"rows": [{"name": "a", "goals": [{"metric": "x"}]}]}, "add the missing defense, op, value"),
        (
            {"rows": [{"name": "a", "goals": [{"defense": "plain", "metric": "x", "op": "<", "value": 1}]}]},
            "one of <=, >=",
        ),
        ({"colour": "red"}, "colour is unknown"),
    ],
)
def test_a_bad_sweep_is_refused_with_the_row_or_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadScenario, match=message):
        parse_sweep({**SWEEP, **change})
