"""Features of a small stand-in for MNIST: the root part is nobody's, and the second time nothing is computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from redteam import featured
from redteam.datasets import Dataset
from silo.scattering import Shape

RANDOM = np.random.default_rng(4)
IMAGES = RANDOM.random((90, 784)).astype(np.float32)
SMALL = Dataset(IMAGES[:80], np.arange(80) % 10, IMAGES[80:], np.arange(10), classes=10)


def test_root_part_teaches_the_features_and_is_in_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(featured, "mnist", lambda directory: SMALL)
    monkeypatch.setattr(featured, "ROOT", 30)
    monkeypatch.setattr(featured, "OUTPUTS", 6)
    monkeypatch.setattr(featured, "SHAPE", Shape(28, 28, 1, 2))
    monkeypatch.setattr(featured, "GROUPS", 3)
    data, extractor = featured.mnist_features(tmp_path, tmp_path)
    assert data.features.shape == (50, 6)
    assert np.array_equal(data.labels, SMALL.labels[:50])
    assert data.features == pytest.approx(extractor.features(IMAGES[:50]), abs=1e-5)
    assert data.test_features == pytest.approx(extractor.features(IMAGES[80:]), abs=1e-5)
    monkeypatch.setattr(featured, "fit", None)
    again, same = featured.mnist_features(tmp_path, tmp_path)
    assert same.digest == extractor.digest
    assert np.array_equal(again.features, data.features)
