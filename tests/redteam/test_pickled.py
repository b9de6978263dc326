"""A pickle from a download is read as data: nothing in it is ever called."""

from __future__ import annotations

import codecs
import contextlib
import os
import pickle
import pickletools
import subprocess
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redteam import pickled
from redteam.errors import BadDataFile


def short(text: bytes) -> bytes:
    """SHORT_BINSTRING, which only Python 2 writes."""
    return b"U" + bytes([len(text)]) + text


def of_python_2(labels: list[int], pixels: np.ndarray) -> bytes:
    """What Python 2's cPickle made of {'labels': labels, 'data': pixels} at protocol 2, opcode by opcode."""
    rows, columns = pixels.shape
    shape = b"M" + rows.to_bytes(2, "little") + b"M" + columns.to_bytes(2, "little") + b"\x86"
    kind = b"cnumpy\ndtype\n" + short(b"u1") + b"K\x00K\x01\x87R" + b"(K\x03" + short(b"|") + b"NNN"
    kind += b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + short(b"b") + b"\x87R"
    array += b"(K\x01" + shape + kind + b"\x89T" + pixels.nbytes.to_bytes(4, "little") + pixels.tobytes() + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + short(b"labels") + numbers + short(b"data") + array + b"u."


def test_a_pickle_of_python_2_is_read() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 300), dtype=np.uint8)
    raw = of_python_2([7, 0, 255], pixels)
    assert [code.name for code, _, _ in pickletools.genops(raw)][-2:] == ["SETITEMS", "STOP"]
    content = pickled.plain(raw)
    assert content["labels"] == [7, 0, 255]
    assert content["data"].values.dtype == np.uint8
    assert np.array_equal(content["data"].values, pixels)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    ),
    st.integers(3, 5),
)
def test_plain_values_come_back_as_they_were(value: Any, protocol: int) -> None:
    assert pickled.plain(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("kind", ["u1", "<i4", ">i2", "<f8", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_numbers_come_back_as_they_were(order: Literal["C", "F"], kind: str, protocol: int) -> None:
    array = np.arange(12).reshape(3, 4).astype(kind, order=order)
    found = pickled.plain(pickle.dumps(array, protocol)).values
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


class Calls:
    """Unpickles to the value of a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_calls_something_is_refused_and_calls_nothing(protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "called"
    for evil in (
        Calls(os.system, f"touch {mark}"),
        Calls(eval, f"open({str(mark)!r}, 'w')"),
        Calls(subprocess.check_call, ["touch", str(mark)]),
        Calls(np.fromfile, "/etc/hostname"),
        Calls(mark.touch),
    ):
        with pytest.raises(BadDataFile, match="no plain value"):
            pickled.plain(pickle.dumps({"data": evil}, protocol))
    assert not mark.exists()


class Own(np.ndarray):
    """An array of a type of its own."""


@pytest.mark.parametrize(
    "evil",
    [
        np.array([{}], dtype=object),
        np.zeros(1, dtype=[("a", "u1")]),
        np.zeros(1, dtype="datetime64[s]"),
        np.zeros(2).view(Own),
        Calls(np.dtype, "O"),
        Calls(np.ndarray, (2**40,)),
        Calls(codecs.encode, "text", "rot13"),
        Calls(codecs.encode, "text", "idna"),
        np.float64(1),
    ],
)
def test_objects_records_other_types_and_other_codecs_are_refused(evil: object) -> None:
    with pytest.raises(BadDataFile, match="pickle"):
        pickled.plain(pickle.dumps(evil, 2))


def test_a_reference_to_something_outside_is_refused() -> None:
    with pytest.raises(BadDataFile, match="outside"):
        pickled.plain(b"Pname\n.")


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_pickle_is_refused_or_read_but_never_fails_otherwise(place: int, value: int) -> None:
    raw = bytearray(of_python_2([1, 2], np.arange(600, dtype=np.uint8).reshape(2, 300)))
    raw[place % len(raw)] = value
    with contextlib.suppress(BadDataFile):
        pickled.plain(bytes(raw))


def test_a_cut_pickle_is_refused() -> None:
    raw = of_python_2([1], np.zeros((1, 300), np.uint8))
    for end in range(0, len(raw), 7):
        with pytest.raises(BadDataFile, match="pickle"):
            pickled.plain(raw[:end])
