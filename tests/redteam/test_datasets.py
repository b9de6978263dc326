"""Loaders on tiny files made here, and on the real ones where they are."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from redteam import datasets
from redteam.attacks import triggers
from redteam.errors import BadDataFile, BadScenario, MissingData
from redteam.scenario import parse
from redteam.world import build


def write_idx(path: Path, array: NDArray[np.generic], kind: int = 0x08) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    body = array.astype({0x08: ">u1", 0x0C: ">i4"}[kind]).tobytes()
    path.write_bytes(gzip.compress(header + body))


CIFAR = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def write_batch(path: Path, first: int, **changes: object) -> None:
    """Two images; pixel p of image i in batch b is (b + 2 i + p) modulo 256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (first + 2 * np.arange(2)[:, None] + np.arange(3072)) % 256
    content = {"batch_label": "tiny", "labels": [first, 9], "data": pixels.astype(np.uint8), "filenames": ["a", "b"]}
    path.write_bytes(pickle.dumps(content | changes, protocol=2))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for folder in ("mnist", "fashion_mnist"):
        for part, count in (("train", 12), ("t10k", 6)):
            write_idx(tmp_path / folder / f"{part}-images-idx3-ubyte.gz", random.integers(0, 256, (count, 4, 4)))
            write_idx(tmp_path / folder / f"{part}-labels-idx1-ubyte.gz", np.arange(count) % 3)
    for part, count in (("train", 12), ("test", 8)):
        table = np.zeros((count, 8), dtype=np.int64)
        table[:, 0], table[:, 2] = np.arange(count) % 3, 2000 + np.arange(count) // 2
        write_idx(tmp_path / "mnist_writers_qmnist" / f"qmnist-{part}-labels-idx2-int.gz", table, 0x0C)
    for number, name in enumerate(CIFAR):
        write_batch(tmp_path / "cifar-10-batches-py" / name, number)
    rows = ["amount,grade,addr_state,Class"] + [
        f"{100 + i},{'AB'[i % 2]},{('CA', 'TX', 'VT')[i % 3]},{'bad' if i == 3 else 'good'}" for i in range(10)
    ]
    (tmp_path / "loan_lending_club").mkdir()
    (tmp_path / "loan_lending_club" / "lending_club.csv").write_text("\n".join(rows))
    return tmp_path


def test_images_are_flat_and_scaled_to_one(directory: Path) -> None:
    for name in ("mnist", "fashion_mnist"):
        found = datasets.load(name, directory)
        assert found.features.shape == (12, 16)
        assert found.features.dtype == np.float32
        assert 0 <= found.features.min() < found.features.max() <= 1
        assert found.test_labels.tolist() == [0, 1, 2, 0, 1, 2]
        assert found.groups is None


def test_a_pixel_is_read_from_its_place(directory: Path) -> None:
    image = np.zeros((1, 4, 4))
    image[0, 1, 2] = 255
    write_idx(directory / "mnist" / "t10k-images-idx3-ubyte.gz", image)
    write_idx(directory / "mnist" / "t10k-labels-idx1-ubyte.gz", np.array([7]))
    assert np.flatnonzero(datasets.mnist(directory).test_features[0]).tolist() == [6]


def test_cifar_batches_follow_each_other_in_colour_and_in_grey(directory: Path) -> None:
    found = datasets.load("cifar10", directory)
    assert found.features.shape == (10, 3072)
    assert found.features.dtype == np.float32
    assert found.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert found.test_labels.tolist() == [5, 9]
    assert found.features[2, :3].tolist() == pytest.approx([1 / 255, 2 / 255, 3 / 255])
    assert found.features[3, 300] == pytest.approx(((1 + 2 + 300) % 256) / 255)
    grey = datasets.load("cifar10_grey", directory)
    red, green, blue = found.features[3].reshape(3, 1024)
    np.testing.assert_allclose(grey.features[3], 0.299 * red + 0.587 * green + 0.114 * blue, rtol=1e-5)
    assert grey.test_features.shape == (2, 1024)
    assert grey.features.dtype == np.float32


@pytest.mark.torch
def test_triggers_are_drawn_at_the_size_of_cifars_images_in_every_channel(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in CIFAR:
        path = tmp_path / "cifar-10-batches-py" / name
        dark = random.integers(0, 200, (20, 3072), dtype=np.uint8)
        write_batch(path, 0, data=dark, labels=[int(label) for label in np.arange(20) % 10])
    attack = {"name": "dba-strips", "share": 0.4}
    for name, channels in (("cifar10", 3), ("cifar10_grey", 1)):
        world = build(parse({"data": {"set": name}, "attack": attack, "federation": {"silos": 5}}), tmp_path)
        assert world.triggered is not None
        stamped = world.triggered.holdout_features.reshape(-1, channels, 32, 32)
        lit = set(map(tuple, np.argwhere((stamped == 1).all(axis=(0, 1))).tolist()))
        assert lit == {cell for strip in triggers.strips(32) for cell in strip.cells}


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": [1]},
        {"labels": [1, 10]},
        {"labels": [1, "2"]},
        {"labels": None},
        {"data": np.zeros((2, 3071), np.uint8)},
        {"data": np.zeros((2, 3072))},
        {"data": [0]},
    ],
)
def test_a_cifar_batch_of_another_kind_is_refused(changes: dict[str, object], directory: Path) -> None:
    write_batch(directory / "cifar-10-batches-py" / "data_batch_3", 0, **changes)
    with pytest.raises(BadDataFile, match=r"data_batch_3: not a batch.*put there"):
        datasets.load("cifar10", directory)


def test_a_cifar_batch_that_would_call_something_is_refused_and_calls_nothing(directory: Path) -> None:
    mark = directory / "called"
    path = directory / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(f"cposix\nsystem\n(S'touch {mark}'\ntR.".encode())
    with pytest.raises(BadDataFile, match=r"test_batch: a pickle .*posix\.system.*put there"):
        datasets.load("cifar10", directory)
    assert not mark.exists()


def test_writers_stand_beside_their_images(directory: Path) -> None:
    found = datasets.load("mnist_by_writer", directory)
    assert found.groups is not None
    assert found.groups.tolist() == [2000 + i // 2 for i in range(12)]
    assert found.test_groups is not None
    assert len(found.test_groups) == len(found.test_labels) == 6


def test_writers_of_other_images_are_refused(directory: Path) -> None:
    write_idx(directory / "mnist" / "train-labels-idx1-ubyte.gz", np.full(12, 9))
    with pytest.raises(BadDataFile, match="same order"):
        datasets.load("mnist_by_writer", directory)


def test_loans_are_standardised_and_grouped_by_state(directory: Path) -> None:
    found = datasets.load("loans", directory)
    assert found.names == ("CA", "TX", "VT")
    assert found.columns == ("amount", "grade=A", "grade=B")
    assert found.groups is not None
    assert found.features.shape == (8, 3)
    assert found.features[:, 0].mean() == pytest.approx(0, abs=1e-6)
    assert found.labels.sum() == 1
    assert set(found.features[:, 1:].sum(axis=1)) == {1.0}


@pytest.mark.parametrize("name", [name for name in datasets.DATASETS if name != "digits"])
def test_an_absent_set_gets_one_line_that_says_how_to_get_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingData) as caught:
        datasets.load(name, tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("--data", "put there", str(tmp_path)):
        assert part in message
    assert not any(part in message for part in ("://", "www.", ".com", ".edu"))


def test_an_absent_mnist_is_named_file_by_file(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match=r"MNIST database of handwritten digits.*LeCun, Cortes and Burges") as caught:
        datasets.load("mnist", tmp_path)
    files = [f"{part}-{what}-ubyte.gz" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")]
    assert all(file in str(caught.value) for file in files)


def test_the_small_digits_need_no_directory_and_share_no_image_between_training_and_test(tmp_path: Path) -> None:
    found = datasets.load("digits", tmp_path / "nothing")
    assert (found.features.shape, found.test_features.shape) == ((1397, 64), (400, 64))
    assert (found.features.min(), found.features.max()) == (0.0, 1.0)
    pixels, labels = load_digits(return_X_y=True)
    known = {(row.tobytes(), int(label)) for row, label in zip((pixels / 16).astype(np.float32), labels, strict=True)}
    parts = [
        {(row.tobytes(), int(label)) for row, label in zip(x, y, strict=True)}
        for x, y in ((found.features, found.labels), (found.test_features, found.test_labels))
    ]
    assert parts[0] | parts[1] == known
    assert not parts[0] & parts[1]


def test_chosen_classes_keep_their_records_and_owners_under_new_names(directory: Path) -> None:
    whole = datasets.load("mnist_by_writer", directory)
    few = datasets.of_classes(whole, (2, 0))
    assert few.classes == 2
    for own, ours, other, theirs, name in (
        (few.features, few.labels, whole.features, whole.labels, "training"),
        (few.test_features, few.test_labels, whole.test_features, whole.test_labels, "test"),
    ):
        assert np.array_equal(own[ours == 0], other[theirs == 2]), name
        assert np.array_equal(own[ours == 1], other[theirs == 0]), name
        assert len(ours) == np.isin(theirs, (0, 2)).sum() > 0, name
    assert whole.groups is not None
    assert np.array_equal(few.groups, whole.groups[np.isin(whole.labels, (0, 2))])  # type: ignore[arg-type]
    assert datasets.of_classes(whole, ()) is whole


@pytest.mark.parametrize("classes", [(1,), (1, 1), (0, 10)])
def test_classes_that_cannot_be_chosen_are_refused(classes: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(BadScenario, match="two or more of 0 to 9, each once"):
        datasets.of_classes(datasets.load("digits", tmp_path), classes)


def test_an_unknown_set_is_refused_with_the_known_names(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="fashion_mnist"):
        datasets.load("cifar", tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"no gzip",
        lambda raw: raw[:-12],
        lambda raw: gzip.compress(b"\0\0\x0d\x01" + bytes(8)),
        lambda raw: gzip.compress(gzip.decompress(raw)[:-1]),
        lambda raw: gzip.compress(b""),
        lambda raw: raw[:20] + bytes([raw[20] ^ 0xFF]) + raw[21:],
    ],
)
def test_a_damaged_file_is_refused(damage: object, directory: Path) -> None:
    assert callable(damage)
    path = directory / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BadDataFile, match=r"train-images.*put there"):
        datasets.load("mnist", directory)


def test_labels_that_do_not_fit_the_images_are_refused(directory: Path) -> None:
    write_idx(directory / "mnist" / "train-labels-idx1-ubyte.gz", np.arange(5))
    with pytest.raises(BadDataFile, match="images for"):
        datasets.load("mnist", directory)


@pytest.mark.parametrize("text", ["", "a,b\n", "a,b\n1\n", "amount,addr_state\n1,CA\n"])
def test_a_broken_table_is_refused(text: str, directory: Path) -> None:
    (directory / "loan_lending_club" / "lending_club.csv").write_text(text)
    with pytest.raises(BadDataFile, match="lending_club"):
        datasets.load("loans", directory)


@pytest.mark.data
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_real_images_have_their_sizes(name: str, data_directory: Path) -> None:
    found = datasets.load(name, data_directory)
    assert found.features.shape == (60_000, 784)
    assert np.bincount(found.test_labels).sum() == 10_000
    if name == "mnist":
        assert np.bincount(found.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


@pytest.mark.data
def test_the_real_writers_are_539_and_apart_from_those_of_the_test_set(data_directory: Path) -> None:
    found = datasets.load("mnist_by_writer", data_directory)
    assert found.groups is not None
    assert found.test_groups is not None
    assert len(np.unique(found.groups)) == 539
    assert not set(found.groups.tolist()) & set(found.test_groups.tolist())


@pytest.mark.data
def test_the_real_loans_have_fifty_states_and_few_bad_ones(data_directory: Path) -> None:
    found = datasets.load("loans", data_directory)
    assert len(found.names) == 50
    assert len(set(found.columns)) == found.features.shape[1] == 69
    assert len(found.labels) + len(found.test_labels) == 9857
    assert found.labels.sum() + found.test_labels.sum() == 517
    assert np.isfinite(found.features).all()
