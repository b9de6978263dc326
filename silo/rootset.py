"""The federation's public root set as a file: features `<f4` row after row, then labels `<i4`.

Its digest stands in the task; every silo fetches it from the coordinator and compares.
"""

from __future__ import annotations

import numpy as np

from silo.errors import BadData
from silo.searcher import Root

_BYTES = 4


def require_fit(root: Root, inputs: int, classes: int) -> None:
    """Check a root set against a model's inputs and classes; BadData names what does not fit."""
    if root.features.shape[1] != inputs:
        raise BadData(
            f"root records have {root.features.shape[1]} features, the model takes {inputs}: reshape them, or say "
            "--features where the model has fixed ones"
        )
    missing = sorted(set(range(classes)) ^ set(root.labels.tolist()))
    if missing:
        raise BadData(f"the root set needs records of exactly the classes 0 to {classes - 1}: look at {missing[:10]}")


def to_bytes(root: Root) -> bytes:
    """The file of a root set."""
    return root.features.astype("<f4").tobytes() + root.labels.astype("<i4").tobytes()


def from_bytes(data: bytes, inputs: int) -> Root:
    """Inverse of `to_bytes` for rows of `inputs` values; raises BadData for another length."""
    row = _BYTES * (inputs + 1)
    if not data or len(data) % row:
        raise BadData(f"the root set's {len(data)} bytes are no records of {inputs} values and a label")
    count = len(data) // row
    features = np.frombuffer(data, dtype="<f4", count=count * inputs).astype(np.float32).reshape(count, inputs)
    return Root(features, np.frombuffer(data, dtype="<i4", offset=_BYTES * count * inputs).astype(np.int64))
