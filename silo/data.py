"""Where a silo's records come from: one small interface, and its NumPy adapter.

A source loads `Records`, which are checked here once; later adapters (DICOM, SQL) only fill them. Hold-out records are
never trained on; if a source has none, each record's own content decides on which side it falls, so that adding or
removing one record moves no other one, as the privacy proof needs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from silo.errors import BadData

HOLDOUT_SHARE = 8
"""Without a hold-out of its own a source gives one record in this many, on average."""


@dataclass(frozen=True)
class Records:
    """Checked records: features float32[n, inputs], labels int64[n], and the same of the hold-out.

    `extractor` is the digest of the fixed features that they went through, None for raw records.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    holdout_features: NDArray[np.float32]
    holdout_labels: NDArray[np.int64]
    extractor: str | None = None

    def require_fit(self, inputs: int, classes: int, extractor: str | None = None) -> None:
        """Check the records against the task's model.

        Raises:
            BadData: names what does not fit.
        """
        if self.extractor != extractor:
            wanted = f"give the file with SHA-256 {extractor}" if extractor else "give none"
            raise BadData(f"the task's features are not those of these records: {wanted} as --features")
        for part, features, labels in (
            ("training", self.features, self.labels),
            ("hold-out", self.holdout_features, self.holdout_labels),
        ):
            if features.shape[1] != inputs:
                raise BadData(
                    f"{part} records have {features.shape[1]} features, the model takes {inputs}: reshape them"
                )
            if labels.max() >= classes:
                raise BadData(f"{part} label {labels.max()} is unknown: the task has classes 0 to {classes - 1}")


class DataSource(Protocol):
    """An adapter to where an institution keeps its records."""

    def load(self) -> Records:
        """All records, checked; raises BadData with what to correct."""


@dataclass(frozen=True)
class NumpySource:
    """An `.npz` file with arrays `x` [n, ...] and `y` [n], and optionally `holdout_x` and `holdout_y`."""

    path: Path

    def load(self) -> Records:
        """Read and check the file. Nothing in it is executed: pickled arrays are refused."""
        arrays = self._read()
        x, y = _checked("x", "y", arrays)
        if ("holdout_x" in arrays) != ("holdout_y" in arrays):
            raise BadData(f"{self.path}: holdout_x and holdout_y belong together, add the missing one")
        if "holdout_x" in arrays:
            return Records(x, y, *_checked("holdout_x", "holdout_y", arrays))
        return split(x, y)

    def examples(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """`x` and `y` alone, checked: for public examples, of which nothing is held out."""
        return _checked("x", "y", self._read())

    def _read(self) -> dict[str, NDArray[Any]]:
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        # A damaged archive fails in zipfile, zlib or numpy, each with errors of its own.
        except Exception as error:
            raise BadData(f"{self.path}: not a readable .npz file without pickles ({error})") from error
        missing = {"x", "y"} - set(arrays)
        if missing:
            raise BadData(f"{self.path}: array {' and '.join(sorted(missing))} is missing, save it with numpy.savez")
        return arrays


SOURCES: dict[str, Callable[[Path], DataSource]] = {"numpy": NumpySource}
"""Adapters by the name that a silo's configuration gives."""


def open_source(kind: str, path: Path) -> DataSource:
    """The adapter of that name for the data at `path`; raises BadData for a name that is not registered."""
    if kind not in SOURCES:
        raise BadData(f"no data adapter is named {kind!r}: choose one of {', '.join(sorted(SOURCES))}")
    return SOURCES[kind](path)


def split(features: NDArray[np.float32], labels: NDArray[np.int64]) -> Records:
    """Set aside about one record in eight as hold-out, by a hash of the record itself (equal records stay together).

    Raises:
        BadData: if one side is empty.
    """
    held = np.array([_is_held_out(row, label) for row, label in zip(features, labels, strict=True)], dtype=bool)
    if held.all() or not held.any():
        raise BadData("too few records to set a hold-out aside: add arrays holdout_x and holdout_y")
    return Records(features[~held], labels[~held], features[held], labels[held])


def _is_held_out(row: NDArray[np.float32], label: np.int64) -> bool:
    content = row.astype("<f4").tobytes() + int(label).to_bytes(8, "little")
    return hashlib.sha256(content).digest()[0] < 256 // HOLDOUT_SHARE


def _checked(
    x_name: str, y_name: str, arrays: dict[str, NDArray[Any]]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    x, y = arrays[x_name], arrays[y_name]
    if x.ndim < 2 or len(x) == 0:
        raise BadData(f"{x_name} has shape {x.shape}: one row per record and at least one record are needed")
    if y.shape != (len(x),):
        raise BadData(f"{y_name} has shape {y.shape}: one label for each of the {len(x)} rows of {x_name} is needed")
    return _features(x_name, x), _labels(y_name, y)


def _features(name: str, x: NDArray[Any]) -> NDArray[np.float32]:
    if x.dtype.kind not in "fiub":
        raise BadData(f"{name} holds {x.dtype}: numbers are needed, encode categories first")
    with np.errstate(over="ignore"):
        rows = x.reshape(len(x), -1).astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise BadData(
            f"{name} has NaN, infinite or too large values in {len(bad)} rows, first in row {bad[0]}: impute or drop"
        )
    return rows


def _labels(name: str, y: NDArray[Any]) -> NDArray[np.int64]:
    if y.dtype.kind not in "iu":
        raise BadData(f"{name} holds {y.dtype}: integer class numbers from 0 are needed")
    labels = y.astype(np.int64)
    if labels.min() < 0:
        raise BadData(f"{name} holds the label {labels.min()}: class numbers start at 0")
    return labels
