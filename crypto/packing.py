"""Which coordinate of a model lies in which field of which ciphertext chunk.

A chunk has 4096 slots (of real numbers, see `SLOTS`) of two 18-bit fields: 8-bit values times a total weight of 1024
stay below 2^17 in size. The
body (all but an output layer of at most a quarter of the model) is shuffled by the layout's public permutation and
laid row after row in at least 8 chunks per fold, so that a sketch is at most an eighth of an update. The output layer
has chunks of its own, after the body's, in its own order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crypto import xof
from crypto.errors import OutOfRange
from protos.task import Layout

FIELD_BITS = 18
FIELDS = 2
SLOTS = 4096
"""Real numbers of a chunk: the real and the imaginary parts of 2048 complex CKKS slots, in turn."""
FIELDS_PER_CHUNK = FIELDS * SLOTS
LEVELS = 127
"""Quantised values lie within ±127."""
MAX_MULTIPLE = (2 ** (FIELD_BITS - 1) - 1) // LEVELS
"""Most values that one field can hold the sum of, whatever they are (1032): bounds the total weight."""
MAX_BODY_CHUNKS = 2048
"""Chunks in one fold. Up to 1032 no fold leaves its field. Beyond, the signs see to it: they are uniform and drawn
after the values are fixed, so by Hoeffding (1963, theorem 2) the sum of n values within ±127 leaves ±127 * 1032 with
probability at most 2 exp(-(127 * 1032)^2 / (2 n 127^2)), for n = 2048 below 2^-374; below 2^-350 for all 2^16
fields of an update, and below 2^-290 even if 2^64 seeds were tried to harm a silo. What overflows all the same fails
the range or the tags, so nothing is decoded wrongly in silence."""
_CHUNKS_PER_FOLD = 8


@dataclass(frozen=True, eq=False)
class Packing:
    """The places of a layout's coordinates. Make it by `of`; two of the same layout and folds are interchangeable.

    Whoever only adds ciphertexts never asks for `order`, so a packing costs the coordinator next to nothing.

    Attributes:
        size: d, coordinates of the model.
        width: columns of the body in use, at most 8192.
        output_size: coordinates that have chunks of their own, 0 if none.
        output_offset: where these coordinates begin in the model.
        permutation: the layout's public seed, 32 bytes in hex.
        lengths: shape [chunks], int64; the first `lengths[k]` fields of chunk k hold a coordinate each.
        column_counts: shape [width], int64; in how many body chunks a column holds a coordinate.
    """

    size: int
    folds: int
    width: int
    body_chunks: int
    output_chunks: int
    output_size: int
    exact_output: bool
    output_offset: int
    permutation: str = field(repr=False)
    lengths: NDArray[np.int64] = field(repr=False)
    column_counts: NDArray[np.int64] = field(repr=False)

    @classmethod
    def of(cls, layout: Layout, folds: int) -> Packing:
        """The packing of a layout for sketches of `folds` folds.

        Raises:
            OutOfRange: the output layer lies outside the model, or a fold of so many chunks would leave its field.
        """
        end = layout.output_offset + layout.output_size
        if end > layout.size or folds < 1:
            raise OutOfRange("the output layer must lie inside the model; pack the task again")
        exact = 4 * layout.output_size <= layout.size
        output_size = layout.output_size if exact else 0
        body_size = layout.size - output_size
        body_chunks = max(_CHUNKS_PER_FOLD * folds, _ceil(body_size, FIELDS_PER_CHUNK))
        output_chunks = _ceil(output_size, FIELDS_PER_CHUNK)
        if body_chunks > MAX_BODY_CHUNKS:
            most = MAX_BODY_CHUNKS * FIELDS_PER_CHUNK
            raise OutOfRange(f"{layout.size} parameters overflow a fold; train at most about {most}, such as a head")
        width = _ceil(body_size, body_chunks)
        lengths = np.concatenate(
            [_lengths(body_size, width, body_chunks), _lengths(output_size, FIELDS_PER_CHUNK, output_chunks)]
        )
        counts = (np.arange(width) < lengths[:body_chunks, None]).sum(axis=0, dtype=np.int64)
        where = layout.output_offset, layout.permutation
        arrays = _frozen(lengths), _frozen(counts)
        return cls(layout.size, folds, width, body_chunks, output_chunks, output_size, exact, *where, *arrays)

    @property
    def chunks(self) -> int:
        """Chunks of a ciphertext: the body's, then the output layer's."""
        return self.body_chunks + self.output_chunks

    @cached_property
    def order(self) -> NDArray[np.int32]:
        """The coordinates of the body row after row, `width` in each chunk: shape [d - output_size], int32."""
        order = xof.permutation(bytes.fromhex(self.permutation), self.size - self.output_size)
        order[order >= self.output_offset] += self.output_size
        return _frozen(order)

    @property
    def places(self) -> NDArray[np.int64]:
        """Shape [d], int64: coordinate i is field `places[i]` of the flattened [chunks, 8192]."""
        fields = np.arange(self.chunks * FIELDS_PER_CHUNK).reshape(self.chunks, FIELDS_PER_CHUNK)
        return self.from_fields(fields)

    def used(self, block: slice = slice(None)) -> NDArray[np.bool_]:
        """Which fields of a block of chunks hold a coordinate: shape [chunks, 8192]."""
        held: NDArray[np.bool_] = np.arange(FIELDS_PER_CHUNK) < self.lengths[block, None]
        return held

    def multiples(self, rows: NDArray[np.int8]) -> NDArray[np.int64]:
        """How many coordinates a field of a fold adds up: shape [rows, 8192], for a matrix of shape [rows, chunks]."""
        members = np.abs(rows.astype(np.int64))
        counts = np.zeros((rows.shape[0], FIELDS_PER_CHUNK), dtype=np.int64)
        for length in np.unique(self.lengths):
            counts[:, :length] += members[:, self.lengths == length].sum(axis=1)[:, None]
        return counts

    def to_fields(self, values: NDArray[Any]) -> NDArray[Any]:
        """Lay integer `values` (shape [d]) into fields (shape [chunks, 8192], of their type); unused ones are zero."""
        if values.shape != (self.size,) or not np.issubdtype(values.dtype, np.integer):
            raise OutOfRange(f"{self.size} integers are needed, not {values.dtype}{list(values.shape)}")
        fields = np.zeros((self.chunks, FIELDS_PER_CHUNK), dtype=values.dtype)
        for row, members in zip(fields, self._members(), strict=False):
            row[: members.size] = values[members]
        fields[self.body_chunks :].reshape(-1)[: self.output_size] = values[self.output]
        return fields

    def from_fields(self, fields: NDArray[Any]) -> NDArray[Any]:
        """Inverse of `to_fields`: shape [d]. Unused fields are not looked at (the caller's range check does)."""
        if fields.shape != (self.chunks, FIELDS_PER_CHUNK):
            raise OutOfRange(f"fields of shape {[self.chunks, FIELDS_PER_CHUNK]} are needed, not {list(fields.shape)}")
        values = np.empty(self.size, dtype=fields.dtype)
        for row, members in zip(fields, self._members(), strict=False):
            values[members] = row[: members.size]
        values[self.output] = fields[self.body_chunks :].reshape(-1)[: self.output_size]
        return values

    @property
    def output(self) -> slice:
        """Which coordinates of the model have chunks of their own."""
        return slice(self.output_offset, self.output_offset + self.output_size)

    def _members(self) -> Iterator[NDArray[np.int32]]:
        """Which coordinates the body's chunks hold, chunk by chunk."""
        for start in range(0, self.order.size, self.width):
            yield self.order[start : start + self.width]


def pack(fields: NDArray[Any]) -> NDArray[np.int64]:
    """Slots of fields: `a + b * 2^18` of each pair; shape [..., 8192], integers, to [..., 4096], int64, signed."""
    wide = fields.astype(np.int64, copy=False)
    slots: NDArray[np.int64] = wide[..., 0::2] + (wide[..., 1::2] << FIELD_BITS)
    return slots


def unpack(slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """Inverse of `pack` for low fields in [-2^17, 2^17); shape [..., 4096] to [..., 8192], int64.

    Every slot has exactly one such pair. A low field outside would carry into its neighbour and come back as another
    pair: the tags are made over fields, not over slots, so that this is seen.
    """
    half = 1 << (FIELD_BITS - 1)
    low = ((slots + half) & ((1 << FIELD_BITS) - 1)) - half
    fields = np.empty((*slots.shape[:-1], FIELDS * slots.shape[-1]), dtype=np.int64)
    fields[..., 0::2] = low
    fields[..., 1::2] = (slots - low) >> FIELD_BITS
    return fields


def _lengths(size: int, width: int, chunks: int) -> NDArray[np.int64]:
    return np.clip(size - width * np.arange(chunks, dtype=np.int64), 0, width)


def _ceil(amount: int, unit: int) -> int:
    return -(-amount // unit)


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array
