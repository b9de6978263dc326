"""Pickles from a download, read as data: a pickle is a program, and this reader knows only the words for plain values.

CIFAR-10's batches are pickles of Python 2. They hold dicts, lists, strings, whole numbers and arrays of bytes. What
would call numpy calls the stand-ins below: numpy's own types take states from a pickle that can break a process.
"""

from __future__ import annotations

import io
import pickle
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redteam.errors import BadDataFile

_NUMBERS = re.compile("[iu][1248]|f[48]|b1")


class Array:
    """An array of plain numbers; `values` is a read-only view of the pickle's bytes."""

    values: NDArray[Any]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, columns_first, data = state
        raw = data.encode("latin1") if isinstance(data, str) else data
        self.values = np.frombuffer(raw, kind.of).reshape(shape, order="F" if columns_first else "C")


class _Kind:
    """A dtype; objects and records are refused."""

    of: np.dtype[Any]

    def __init__(self, code: str, *flags: Any) -> None:
        if not _NUMBERS.fullmatch(code):
            raise pickle.UnpicklingError(f"an array of {code!r}")
        self._code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.of = np.dtype({"<": "<", ">": ">", "|": "|"}[state[1]] + self._code)


def _reconstruct(kind: type, *shape_and_code: Any) -> Array:
    """numpy's first step of an array; its state follows."""
    if kind is not Array:
        raise pickle.UnpicklingError("an array of another type")
    return Array()


def _latin1(text: str, codec: str) -> bytes:
    """`_codecs.encode` as Python 3 writes bytes into a pickle of protocol 2; no other codec."""
    if codec != "latin1":
        raise pickle.UnpicklingError(f"codec {codec!r}")
    return text.encode("latin1")


_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _latin1,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name}, which is no plain value")
        return _ADMITTED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("a reference to something outside of it")


def plain(raw: bytes) -> Any:
    """What a pickle holds, where that is plain values and `Array`s; strings of Python 2 are read as latin-1.

    Raises:
        BadDataFile: it is no whole pickle, or asks for anything else; nothing of that is called.
    """
    try:
        return _Reader(io.BytesIO(raw), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise BadDataFile(f"a pickle that cannot be read as plain data ({error})") from error
    except Exception as error:  # a damaged pickle fails in as many ways as there are opcodes
        raise BadDataFile(f"no whole pickle ({type(error).__name__})") from error
