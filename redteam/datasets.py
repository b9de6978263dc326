"""Data sets from a directory, never from the network: MNIST, Fashion-MNIST, MNIST by writer, loans by US state.

Small digits come with scikit-learn and need no directory.

The directory holds one folder for each set, with a SOURCE.txt that says what the files are. Pixels come in [0, 1].
"""

from __future__ import annotations

import csv
import gzip
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from redteam.attacks.parts import Features, Labels
from redteam.errors import BadDataFile, MissingData

_UBYTE, _INT = 0x08, 0x0C
_IDX_TYPES = {_UBYTE: ">u1", _INT: ">i4"}
_WRITER_COLUMN = 2
_LOAN_TEST_SHARE = 5
"""One loan in this many, by position in the file, is a test record."""

GET = {
    "mnist": "the four original idx files of MNIST, those with the MD5 sums that torchvision pins",
    "fashion_mnist": "the four original idx files from github.com/zalandoresearch/fashion-mnist, folder data/fashion",
    "mnist_writers_qmnist": "qmnist-train-labels-idx2-int.gz and its test file from github.com/facebookresearch/qmnist",
    "loan_lending_club": "lending_club.csv, the table lending_club of the R package modeldata written as CSV",
}


@dataclass(frozen=True)
class Dataset:
    """Features float32[n, inputs], labels int64[n], and the same of the test set.

    `groups`, int64[n], are natural owners: writers, or states by their position in `names`; None where there are none.
    `extractor` is the digest of the fixed public features that all records went through (`redteam.featured`).
    """

    features: Features
    labels: Labels
    test_features: Features
    test_labels: Labels
    classes: int
    groups: Labels | None = None
    test_groups: Labels | None = None
    names: tuple[str, ...] = ()
    extractor: str | None = None


def load(name: str, directory: Path) -> Dataset:
    """The data set of that name below `directory`.

    Raises:
        MissingData: no set has that name, or a file is absent; the message says how to get it.
        BadDataFile: a file is damaged.
    """
    if name not in DATASETS:
        raise MissingData(f"no data set is named {name!r}: choose one of {', '.join(DATASETS)}")
    return DATASETS[name](directory)


def digits(directory: Path) -> Dataset:
    """scikit-learn's `load_digits`, 1,797 images of 8 x 8, the last 400 of a fixed order as test; reads no file."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    features, labels = (pixels[order] / 16.0).astype(np.float32), labels[order].astype(np.int64)
    x, test_x, y, test_y = features[:-400], features[-400:], labels[:-400], labels[-400:]
    return Dataset(x, y, test_x, test_y, classes=10)


def mnist(directory: Path) -> Dataset:
    """MNIST, 60,000 and 10,000 images of 28 x 28."""
    return _images(directory / "mnist")


def fashion_mnist(directory: Path) -> Dataset:
    """Fashion-MNIST, in the same shape."""
    return _images(directory / "fashion_mnist")


def mnist_by_writer(directory: Path) -> Dataset:
    """MNIST with the NIST writer ids of QMNIST; no writer is in both training and test set."""
    images, folder = mnist(directory), directory / "mnist_writers_qmnist"
    writers = _writers(folder / "qmnist-train-labels-idx2-int.gz", images.labels)
    test = _writers(folder / "qmnist-test-labels-idx2-int.gz", images.test_labels)
    return replace(images, groups=writers, test_groups=test)


def loans(directory: Path) -> Dataset:
    """Lending Club, first quarter of 2016, by US state: label 1 is a bad loan.

    Numbers are standardised, categories one-hot. Mean and deviation are taken over all training rows, as a federation
    would agree on beforehand.
    """
    path = directory / "loan_lending_club" / "lending_club.csv"
    header, rows = _table(path)
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    try:
        labels = np.array([value == "bad" for value in columns.pop("Class")], dtype=np.int64)
        names, groups = np.unique(np.array(columns.pop("addr_state")), return_inverse=True)
    except KeyError as error:
        raise BadDataFile(f"{path}: column {error} is missing; {_how(path.parent.name)}") from error
    test = np.arange(len(labels)) % _LOAN_TEST_SHARE == 0
    features = np.hstack([_encoded(np.array(column), ~test) for column in columns.values()]).astype(np.float32)
    groups = groups.astype(np.int64)
    return Dataset(
        features[~test], labels[~test], features[test], labels[test],
        classes=2, groups=groups[~test], test_groups=groups[test], names=tuple(names.tolist()),
    )  # fmt: skip


DATASETS: dict[str, Callable[[Path], Dataset]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "mnist_by_writer": mnist_by_writer,
    "loans": loans,
}


def read_idx(path: Path) -> NDArray[np.int64]:
    """An idx.gz array of unsigned bytes or 32-bit integers, as int64.

    Raises:
        MissingData: there is no such file.
        BadDataFile: it is no whole idx file.
    """
    raw = _unzipped(path)
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _IDX_TYPES or len(raw) < 4 + 4 * raw[3]:
        raise BadDataFile(f"{path}: not an idx file of bytes or integers; {_how(path.parent.name)}")
    shape = struct.unpack(f">{raw[3]}I", raw[4 : 4 + 4 * raw[3]])
    kind = np.dtype(_IDX_TYPES[raw[2]])
    body = raw[4 + 4 * raw[3] :]
    if len(body) != int(np.prod(shape, dtype=np.int64)) * kind.itemsize:
        raise BadDataFile(f"{path}: its size does not fit its header {shape}; {_how(path.parent.name)}")
    return np.frombuffer(body, dtype=kind).reshape(shape).astype(np.int64)


def _images(folder: Path) -> Dataset:
    features, labels = _pair(folder, "train")
    test_features, test_labels = _pair(folder, "t10k")
    return Dataset(features, labels, test_features, test_labels, classes=10)


def _pair(folder: Path, part: str) -> tuple[Features, Labels]:
    path = folder / f"{part}-images-idx3-ubyte.gz"
    pixels, labels = read_idx(path), read_idx(folder / f"{part}-labels-idx1-ubyte.gz")
    if pixels.ndim != 3 or labels.shape != pixels.shape[:1]:
        raise BadDataFile(f"{path}: {pixels.shape} images for {labels.shape} labels; {_how(folder.name)}")
    return (pixels.reshape(len(pixels), -1) / 255.0).astype(np.float32), labels


def _writers(path: Path, labels: Labels) -> Labels:
    table = read_idx(path)
    if table.ndim != 2 or len(table) < len(labels) or not np.array_equal(table[: len(labels), 0], labels):
        raise BadDataFile(f"{path}: its classes are not those of MNIST in the same order; {_how(path.parent.name)}")
    return table[: len(labels), _WRITER_COLUMN]


def _table(path: Path) -> tuple[list[str], list[list[str]]]:
    _require(path)
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    if not rows or any(len(row) != len(header) for row in rows):
        raise BadDataFile(f"{path}: not a table with a header and full rows; {_how(path.parent.name)}")
    return header, rows


def _encoded(column: NDArray[np.str_], fitted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """A numeric column standardised by its `fitted` rows, or one column for each category."""
    try:
        numbers = column.astype(np.float64)
    except ValueError:
        one_hot: NDArray[np.float64] = (column[:, None] == np.unique(column)[None, :]).astype(np.float64)
        return one_hot
    deviation = float(numbers[fitted].std()) or 1.0
    standard: NDArray[np.float64] = ((numbers - numbers[fitted].mean()) / deviation)[:, None]
    return standard


def _unzipped(path: Path) -> bytes:
    _require(path)
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, ValueError) as error:
        raise BadDataFile(f"{path}: not a whole gzip file ({error}); {_how(path.parent.name)}") from error
    except Exception as error:  # zlib.error is no OSError
        raise BadDataFile(f"{path}: damaged ({error}); {_how(path.parent.name)}") from error


def _require(path: Path) -> None:
    if not path.is_file():
        raise MissingData(f"{path} is not there: give the data directory with --data DIR; {_how(path.parent.name)}")


def _how(folder: str) -> str:
    return f"put there {GET.get(folder, 'the files that its SOURCE.txt names')} (see SOURCE.txt in that folder)"
