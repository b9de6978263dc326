"""From float updates to integers and back to a model, with the same bits on every machine.

Steps are powers of two, so scaling is exact. Randomness is an argument; in production it is fresh from the operating
system. Stochastic rounding is unbiased and adds at most step^2 / 4 of variance per coordinate. Which step a round has
is the plan's matter (`audit.ranges`), and so is what lies beyond it: a coordinate moves by at most 127 steps a round.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crypto.errors import OutOfRange
from crypto.packing import LEVELS

_BYTES_PER_VALUE = 8
_BLOCK = 2**18


def randomness_needed(size: int) -> int:
    """Random bytes that `quantise` takes for an update of `size` coordinates."""
    return _BYTES_PER_VALUE * size


def quantise(update: NDArray[np.float64], step_log2: int, randomness: bytes) -> NDArray[np.int16]:
    """Round `update / 2**step_log2` stochastically to integers, clipped to [-127, 127].

    Args:
        update: shape [d], float64, finite.
        step_log2: the step is `2**step_log2` in units of the update.
        randomness: exactly `randomness_needed(d)` bytes.

    Returns:
        shape [d], int16. Where nothing is clipped, its expectation is `update / 2**step_log2` (within 2^-53).

    Raises:
        OutOfRange: NaN, infinity, wrong shape or type, or another amount of randomness.
    """
    if update.ndim != 1 or update.dtype != np.float64:
        raise OutOfRange(f"an update is one float64 vector, not {update.dtype}{list(update.shape)}")
    if not bool(np.isfinite(update).all()):
        raise OutOfRange("the update holds NaN or infinity; lower the learning rate")
    if len(randomness) != randomness_needed(update.size):
        raise OutOfRange(f"rounding needs {randomness_needed(update.size)} random bytes, not {len(randomness)}")
    with np.errstate(over="ignore", under="ignore"):
        scaled = np.clip(np.ldexp(update, -step_log2), -LEVELS, LEVELS)
    low = np.floor(scaled)
    # 53 bits make every draw an exact float64 in [0, 1).
    draws = (np.frombuffer(randomness, dtype="<u8") >> np.uint64(11)).astype(np.float64) * 2.0**-53
    rounded: NDArray[np.int16] = (low + (draws < scaled - low)).astype(np.int16)
    return rounded


def apply_aggregate(
    model: NDArray[np.float32],
    aggregate: NDArray[Any],
    step_log2: int,
    total_weight: int,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """The new model `float32(float64(g) + 2**step_log2 * aggregate / W)`, elementwise with one cast; shape [d].

    It is written to `out`, which may be `model`; to an array of its own by default.

    Raises:
        OutOfRange: shapes differ, or the new model is not finite.
    """
    if model.shape != aggregate.shape or model.ndim != 1 or total_weight < 1:
        raise OutOfRange("model and aggregate must be vectors of one length, and the total weight positive")
    new = np.empty(model.shape, dtype=np.float32) if out is None else out
    # Block by block: in float64 a model and its move take twice the memory of all else.
    for start in range(0, model.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        move = np.ldexp(aggregate[block].astype(np.float64), step_log2) / np.float64(total_weight)
        with np.errstate(over="ignore"):
            new[block] = (model[block].astype(np.float64) + move).astype(np.float32)
    if not bool(np.isfinite(new).all()):
        raise OutOfRange("the new model is not finite; the old one stays")
    return new


def model_bytes(model: NDArray[np.float32]) -> bytes:
    """Flat little-endian float32: the one byte form of a model."""
    return bytes(model_view(model))


def model_view(model: NDArray[np.float32]) -> memoryview:
    """`model_bytes` without a copy; it holds while the model is not changed."""
    return np.ascontiguousarray(model, dtype="<f4").data.cast("B")


def model_from_bytes(data: bytes | bytearray, size: int) -> NDArray[np.float32]:
    """Inverse of `model_bytes` without a copy; shape [size], float32, read-only where `data` is.

    Raises:
        OutOfRange: wrong length, NaN or infinity.
    """
    if len(data) != 4 * size:
        raise OutOfRange(f"a model of {size} parameters has {4 * size} bytes, not {len(data)}")
    model = np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)
    if not bool(np.isfinite(model).all()):
        raise OutOfRange("the model holds NaN or infinity; ask for the model that the log names")
    return model


def model_digest(model: NDArray[np.float32]) -> str:
    """SHA-256 of `model_bytes` in hex."""
    return hashlib.sha256(model_view(model)).hexdigest()
