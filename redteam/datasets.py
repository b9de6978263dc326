"""Data sets from a directory, never from the network: MNIST, Fashion-MNIST, CIFAR-10, MNIST by writer, loans by state.

Small digits come with scikit-learn and need no directory.

The directory holds one folder for each set; `GET` says which files. Pixels come in [0, 1].
"""

from __future__ import annotations

import csv
import gzip
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redteam import pickled
from redteam.attacks.parts import Features, Labels
from redteam.errors import BadDataFile, BadScenario, MissingData

_UBYTE, _INT = 0x08, 0x0C
_IDX_TYPES = {_UBYTE: ">u1", _INT: ">i4"}
_WRITER_COLUMN = 2
_CIFAR = "cifar-10-batches-py"
_CIFAR_SHAPE = (3, 32 * 32)
_LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601: what red, green and blue add to brightness."""
_LOAN_TEST_SHARE = 5
"""One loan in this many, by position in the file, is a test record."""

_IDX_FILES = ", ".join(
    f"{part}-{what}-ubyte.gz" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")
)
GET = {
    "mnist": f"{_IDX_FILES}: the MNIST database of handwritten digits, four idx files by LeCun, Cortes and Burges",
    "fashion_mnist": f"{_IDX_FILES}: Fashion-MNIST, four idx files by Xiao, Rasul and Vollgraf of Zalando Research",
    "cifar-10-batches-py": "data_batch_1 to data_batch_5 and test_batch: CIFAR-10 by Krizhevsky, Nair and Hinton, its "
    "version for Python",
    "mnist_writers_qmnist": "qmnist-train-labels-idx2-int.gz and qmnist-test-labels-idx2-int.gz: the label files of "
    "QMNIST by Yadav and Bottou",
    "loan_lending_club": "lending_club.csv: the table lending_club of the R package modeldata, written as CSV",
}
"""By folder, the files that it must have, and whose work they are."""


@dataclass(frozen=True)
class Dataset:
    """Features float32[n, inputs], labels int64[n], and the same of the test set.

    `groups`, int64[n], are natural owners: writers, or states by their position in `names`; None where there are none.
    `extractor` is the digest of the fixed public features that all records went through (`redteam.featured`).
    `columns` names the features of a table, a category's as `column=value`; images have none.
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
    columns: tuple[str, ...] = ()


def load(name: str, directory: Path) -> Dataset:
    """The data set of that name below `directory`.

    Raises:
        MissingData: no set has that name, or a file is absent; the message says how to get it.
        BadDataFile: a file is damaged.
    """
    if name not in DATASETS:
        raise MissingData(f"no data set is named {name!r}: choose one of {', '.join(DATASETS)}")
    return DATASETS[name](directory)


def of_classes(data: Dataset, classes: Sequence[int]) -> Dataset:
    """The records of these classes only, which are then called 0, 1, ... in this order; all where none is named.

    Raises:
        BadScenario: it is fewer than two, one comes twice, or the set has no such class.
    """
    if not classes:
        return data
    if not 2 <= len(classes) == len(set(classes)) or not max(classes) < data.classes:
        allowed = f"two or more of 0 to {data.classes - 1}, each once"
        raise BadScenario(f"scenario: data.classes = {list(classes)} cannot be: it is {allowed}")
    renamed = np.full(data.classes, -1, dtype=np.int64)
    renamed[list(classes)] = np.arange(len(classes))
    train, test = renamed[data.labels] >= 0, renamed[data.test_labels] >= 0
    return replace(
        data,
        features=data.features[train],
        labels=renamed[data.labels[train]],
        test_features=data.test_features[test],
        test_labels=renamed[data.test_labels[test]],
        classes=len(classes),
        groups=None if data.groups is None else data.groups[train],
        test_groups=None if data.test_groups is None else data.test_groups[test],
    )


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


def cifar10(directory: Path) -> Dataset:
    """CIFAR-10, 50,000 and 10,000 colour images of 32 x 32: all red pixels of a row, then green, then blue."""
    parts = [_batch(directory / _CIFAR / f"data_batch_{number}") for number in range(1, 6)]
    features, labels = (np.concatenate(both) for both in zip(*parts, strict=True))
    test_features, test_labels = _batch(directory / _CIFAR / "test_batch")
    return Dataset(features, labels, test_features, test_labels, classes=10)


def cifar10_grey(directory: Path) -> Dataset:
    """The same in grey, for a `lenet`, which takes one channel."""
    images = cifar10(directory)
    return replace(images, features=_grey(images.features), test_features=_grey(images.test_features))


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
    encoded = [_encoded(name, np.array(column), ~test) for name, column in columns.items()]
    features = np.hstack([values for _, values in encoded]).astype(np.float32)
    groups = groups.astype(np.int64)
    return Dataset(
        features[~test], labels[~test], features[test], labels[test],
        classes=2, groups=groups[~test], test_groups=groups[test], names=tuple(names.tolist()),
        columns=tuple(name for own, _ in encoded for name in own),
    )  # fmt: skip


DATASETS: dict[str, Callable[[Path], Dataset]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar10_grey": cifar10_grey,
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


def _batch(path: Path) -> tuple[Features, Labels]:
    """One of CIFAR-10's pickles; a pickle is code, so only plain values are taken from it."""
    _require(path)
    try:
        content = pickled.plain(path.read_bytes())
    except BadDataFile as error:
        raise BadDataFile(f"{path}: {error}; {_how(path.parent.name)}") from error
    pixels, labels = _entries(content)
    if not _are_images(pixels) or not _are_classes(labels, len(pixels)):
        raise BadDataFile(f"{path}: not a batch of 3 x 32 x 32 images with a label each; {_how(path.parent.name)}")
    return pixels.astype(np.float32) / np.float32(255), np.array(labels, dtype=np.int64)


def _entries(content: Any) -> tuple[Any, Any]:
    """The entries `data` and `labels`, None where there are none."""
    if not isinstance(content, dict):
        return None, None
    data = content.get("data")
    return data.values if isinstance(data, pickled.Array) else None, content.get("labels")


def _are_images(pixels: Any) -> bool:
    return isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape[1:] == (prod(_CIFAR_SHAPE),)


def _are_classes(labels: Any, count: int) -> bool:
    whole = isinstance(labels, list) and all(type(one) is int and 0 <= one < 10 for one in labels)
    return whole and len(labels) == count


def _grey(features: Features) -> Features:
    return np.tensordot(features.reshape(-1, *_CIFAR_SHAPE), np.array(_LUMA, np.float32), (1, 0)).astype(np.float32)


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


def _encoded(name: str, column: NDArray[np.str_], fitted: NDArray[np.bool_]) -> tuple[list[str], NDArray[np.float64]]:
    """Names and values: a numeric column standardised by its `fitted` rows, or one column for each category."""
    try:
        numbers = column.astype(np.float64)
    except ValueError:
        kinds = np.unique(column)
        one_hot: NDArray[np.float64] = (column[:, None] == kinds[None, :]).astype(np.float64)
        return [f"{name}={kind}" for kind in kinds], one_hot
    deviation = float(numbers[fitted].std()) or 1.0
    standard: NDArray[np.float64] = ((numbers - numbers[fitted].mean()) / deviation)[:, None]
    return [name], standard


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
    return f"put there {GET.get(folder, 'whole files of its data set')}"
