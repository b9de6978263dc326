"""The benchmark on a small case: every line is there, figures are what they say, results are checked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tools.bench_crypto import GOALS, GOALS_S_PER_MILLION, Bench, Case, run
from tools.bench_usual import Usual, layers, resnet18

SMALL = Case(3000, 2, (3,), 1, 2)


def test_resnet18_has_its_published_number_of_parameters() -> None:
    assert (len(resnet18()), sum(resnet18())) == (62, 11_689_512)


@pytest.mark.parametrize("parameters", [3000, 100_000, 11_000_000])
def test_scaled_layers_cover_the_model(parameters: int) -> None:
    covered = [index for layer in layers(parameters) for index in (layer.start, layer.stop)]
    assert (covered[0], covered[-1], len(covered)) == (0, parameters, 124)
    assert covered == sorted(covered)
    assert covered[1:-1:2] == covered[2::2]


def test_usual_way_adds_up() -> None:
    usual, update = Usual(3000), np.linspace(-1, 1, 3000)
    sent = usual.encrypt(update)
    for weights, factor in ((None, 2), ([3, 5], 8)):
        total = [vector.serialize() for vector in usual.add_up([sent, sent], weights)]
        assert np.abs(usual.decrypt(total) - factor * update).max() < 1e-4


def test_every_metric_is_printed_and_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "build" / "crypto.json"
    rows = run((SMALL,), out)
    written = json.loads(out.read_text())
    assert [entry["metric"] for entry in written] == [row.metric for row in rows]
    named = {entry["metric"]: entry for entry in written}
    assert set(GOALS) | set(GOALS_S_PER_MILLION) <= set(named)
    printed = capfd.readouterr().out
    for metric, entry in named.items():
        assert metric in printed
        assert {"parameters", "silos", "usual", "ours", "plain", "ratio", "goal", "machine", "met"} <= set(entry)
        if entry["usual"] is not None:
            assert entry["ratio"] == pytest.approx(entry["ours"] / entry["usual"])
    # 16 chunks for the body, one for the output layer, 32 + 8 * 17 bytes of tags.
    assert named["bytes"]["ours"] == pytest.approx((17 * 32_800 + 32 + 8 * 17) / 3000)
    assert named["bytes"]["plain"] == 4


def test_wrong_sum_stops_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Bench._open
    monkeypatch.setattr(Bench, "_open", lambda *arguments: honest(*arguments) + 1)
    with pytest.raises(SystemExit, match="our sum is wrong"):
        run((SMALL,), tmp_path / "crypto.json")
