from pathlib import Path

import numpy as np
import pytest

from silo.data import HOLDOUT_SHARE, NumpySource, Records, open_source, split
from silo.errors import BadData

X = np.arange(60, dtype=np.float64).reshape(20, 3)
Y = np.arange(20) % 4


def saved(path: Path, **arrays: object) -> NumpySource:
    np.savez(path / "records.npz", **arrays)  # type: ignore[arg-type]
    return NumpySource(path / "records.npz")


def test_records_with_their_own_holdout(tmp_path: Path) -> None:
    images = X.reshape(20, 1, 3)
    records = saved(tmp_path, x=images, y=Y.astype(np.uint8), holdout_x=images[:5], holdout_y=Y[:5]).load()
    assert records.features.dtype == np.float32
    assert records.features.shape == (20, 3)
    assert records.labels.dtype == np.int64
    assert records.holdout_features.shape == (5, 3)
    assert np.array_equal(records.features, X)
    assert np.array_equal(records.labels, Y)


def test_split_puts_every_record_on_exactly_one_side() -> None:
    x = np.random.default_rng(1).normal(size=(4000, 3)).astype(np.float32)
    y = np.zeros(4000, dtype=np.int64)
    records = split(x, y)
    both = np.vstack([records.features, records.holdout_features])
    assert np.array_equal(np.sort(both, axis=0), np.sort(x, axis=0))
    assert abs(len(records.holdout_labels) / 4000 - 1 / HOLDOUT_SHARE) < 0.02


def test_removing_one_record_moves_no_other() -> None:
    x = np.random.default_rng(2).normal(size=(200, 3)).astype(np.float32)
    y = np.arange(200) % 3
    held = {row.tobytes() for row in split(x, y).holdout_features}
    without = {row.tobytes() for row in split(x[1:], y[1:]).holdout_features}
    assert held - without <= {x[0].tobytes()}
    assert without <= held


def test_too_few_records_to_split_are_refused() -> None:
    with pytest.raises(BadData, match="holdout_x and holdout_y"):
        split(np.zeros((5, 2), dtype=np.float32), np.zeros(5, dtype=np.int64))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.where(X == 7, np.nan, X), "y": Y}, "x has NaN.* 1 rows, first in row 2"),
        ({"x": np.where(X == 7, np.inf, X), "y": Y}, "x has NaN, infinite"),
        ({"x": np.where(X == 7, 1e300, X), "y": Y}, "too large"),
        ({"x": X[0], "y": Y}, "one row per record"),
        ({"x": X[:0], "y": Y[:0]}, "at least one record"),
        ({"x": X, "y": Y[:19]}, r"y has shape \(19,\)"),
        ({"x": X, "y": Y.reshape(20, 1)}, "one label for each"),
        ({"x": X, "y": Y.astype(float)}, "integer class numbers"),
        ({"x": X, "y": Y - 1}, "label -1"),
        ({"x": X.astype(str), "y": Y}, "numbers are needed"),
        ({"x": X.astype(complex), "y": Y}, "numbers are needed"),
        ({"x": X}, "array y is missing"),
        ({"x": X, "y": Y, "holdout_x": X}, "belong together"),
        ({"x": X, "y": Y, "holdout_x": X * np.nan, "holdout_y": Y}, "holdout_x has NaN"),
        ({"x": X.astype(object), "y": Y}, "without pickles"),
    ],
)
def test_bad_arrays_are_refused_with_what_to_do(tmp_path: Path, arrays: dict[str, object], message: str) -> None:
    with pytest.raises(BadData, match=message):
        saved(tmp_path, **arrays).load()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"\x93NUMPY"])
def test_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "records.npz").write_bytes(content)
    with pytest.raises(BadData, match=r"not a readable \.npz"):
        NumpySource(tmp_path / "records.npz").load()


def test_truncated_archive_is_refused(tmp_path: Path) -> None:
    source = saved(tmp_path, x=X, y=Y)
    source.path.write_bytes(source.path.read_bytes()[:-300])
    with pytest.raises(BadData):
        source.load()


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="No such file"):
        NumpySource(tmp_path / "none.npz").load()


def records() -> Records:
    return Records(X.astype(np.float32), Y.astype(np.int64), X[:3].astype(np.float32), Y[:3].astype(np.int64))


def test_fitting_records_pass_and_others_name_the_misfit() -> None:
    records().require_fit(3, 4)
    with pytest.raises(BadData, match="3 features, the model takes 4"):
        records().require_fit(4, 4)
    with pytest.raises(BadData, match=r"label 3 is unknown.*0 to 2"):
        records().require_fit(3, 3)


def test_sources_are_found_by_name(tmp_path: Path) -> None:
    path = saved(tmp_path, x=X, y=Y, holdout_x=X, holdout_y=Y).path
    assert len(open_source("numpy", path).load().labels) == 20
    with pytest.raises(BadData, match="choose one of numpy"):
        open_source("dicom", path)
