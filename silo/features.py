"""Fixed public features: a frozen extractor in front of the model, the same at every silo, pinned by the task.

Scattering coefficients of an image (`silo.scattering`), each group of channels standardised within its own record
(group norm, Wu and He 2018; Tramer and Boneh 2021 use it for this), projected on the principal components of *public*
images, and scaled to length one. What is learned, mean and components, comes from images that no silo counts among
its records; so features cost no privacy, and a small head on them needs less noise than a network on pixels.

An extractor is one `.npz` file without pickles. The task names its SHA-256, so that all silos use the same bytes.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from silo.data import DataSource, Records
from silo.errors import BadData, BadExtractor
from silo.scattering import Shape, scatter

Floats = NDArray[np.float32]

_BATCH = 4096
_EPSILON = 1e-5
"""Added to a group's variance, as every group norm does: a flat patch stays flat."""
WHITEN = 0.5
"""Half whitened: rare components count more than by their variance, and less than they would with all alike."""
_FIELDS = {"image": ("i", 1), "groups": ("i", 0), "mean": ("f", 1), "components": ("f", 2)}


@dataclass(frozen=True, eq=False)
class Extractor:
    """Images to unit vectors.

    Attributes:
        shape: of the images and wavelets.
        groups: how many groups the channels make; each is standardised within a record. 1 takes all together.
        mean: float32[channels * rows * columns], of the public images.
        components: float32[outputs, the same], orthogonal rows by falling variance.
        digest: SHA-256 of the file, in hex.
    """

    shape: Shape
    groups: int
    mean: Floats
    components: Floats
    digest: str

    @property
    def outputs(self) -> int:
        """Length of a feature vector: the first of the model's sizes."""
        return len(self.components)

    def features(self, images: Floats) -> Floats:
        """Features of flat images.

        Args:
            images: float32[n, height * width], grey in [0, 1].

        Returns:
            float32[n, outputs], every row of length one (or zero for an image without any structure).

        Raises:
            BadData: the rows are not images of the extractor's shape.
        """
        pixels = self.shape.height * self.shape.width
        if images.ndim != 2 or images.shape[1] != pixels:
            raise BadData(
                f"records have {images.shape[1:]} numbers, the task's features take flat images of "
                f"{self.shape.height} x {self.shape.width}: reshape or resize them"
            )
        parts = [self._project(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
        return np.concatenate(parts) if parts else np.zeros((0, self.outputs), dtype=np.float32)

    def of(self, records: Records) -> Records:
        """The records with features in the place of their images; raises BadData as `features` does."""
        features, held = self.features(records.features), records.holdout_features
        # Records that are their own hold-out are seen once.
        shown = features if held is records.features else self.features(held)
        return replace(records, features=features, holdout_features=shown, extractor=self.digest)

    def _project(self, images: Floats) -> Floats:
        rows = (coefficients(images, self.shape, self.groups) - self.mean) @ self.components.T
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows / np.where(lengths > 0, lengths, 1), dtype=np.float32)


@dataclass(frozen=True)
class ExtractedSource:
    """Any source of images, seen through an extractor."""

    source: DataSource
    extractor: Extractor

    def load(self) -> Records:
        """Records whose features are the extractor's; which side of a hold-out they are on was decided before."""
        return self.extractor.of(self.source.load())


def coefficients(images: Floats, shape: Shape, groups: int) -> Floats:
    """Scattering coefficients in standardised groups, float32[n, channels * rows * columns]."""
    maps = scatter(images.reshape(-1, shape.height, shape.width), shape)
    rows = maps.reshape(len(maps), groups, -1)
    spread = np.sqrt(rows.var(axis=2, keepdims=True) + np.float32(_EPSILON))
    return np.asarray((rows - rows.mean(axis=2, keepdims=True)) / spread, dtype=np.float32).reshape(len(maps), -1)


def fit(images: Floats, shape: Shape, outputs: int, groups: int | None = None, whiten: float = WHITEN) -> bytes:
    """Learn an extractor on public images.

    Args:
        images: float32[n, height * width] in [0, 1], n above `outputs`; none of them a silo's record.
        shape: of the images and wavelets.
        outputs: how many principal components are kept.
        groups: of channels; by default each channel is a group of its own.
        whiten: each component is divided by its standard deviation to this power; 0 leaves it, 1 makes all alike.

    Returns:
        The file's bytes; `parse` reads them.

    Raises:
        BadExtractor: the images are too few, or the groups do not divide the channels.
    """
    groups = groups or shape.channels
    if shape.channels % groups:
        raise BadExtractor(f"{groups} groups do not divide {shape.channels} channels evenly: choose a divisor")
    size = shape.channels * shape.grid[0] * shape.grid[1]
    if not 0 < outputs <= min(size, len(images) - 1):
        raise BadExtractor(f"{outputs} components of {len(images)} images with {size} coefficients: ask for fewer")
    mean, spread = _moments(images, shape, groups, size)
    variances, vectors = linalg.eigh(spread, subset_by_index=[size - outputs, size - 1])
    if variances[0] <= 0:
        raise BadExtractor(f"the images have fewer than {outputs} components: ask for fewer, or give more images")
    components = (vectors / variances ** (whiten / 2))[:, ::-1].T
    # A component's sign is arbitrary; the largest entry is made positive, so that a repetition gives the same file.
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    file = io.BytesIO()
    image = np.array([shape.height, shape.width, shape.scales, shape.angles], dtype="<i8")
    arrays = {"mean": mean.astype("<f4"), "components": (components * np.sign(largest)).astype("<f4")}
    np.savez(file, image=image, groups=np.array(groups, dtype="<i8"), **arrays)
    return file.getvalue()


def parse(data: bytes) -> Extractor:
    """The extractor in a file's bytes; raises BadExtractor for anything else. Nothing in it is executed."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in _FIELDS}
    # A damaged archive fails in zipfile, zlib or numpy, each with errors of its own.
    except Exception as error:
        raise BadExtractor(f"no file of fixed features ({error}); fetch it again") from error
    _verify(arrays)
    shape = Shape(*map(int, arrays["image"]))
    mean, components = (arrays[name].astype(np.float32) for name in ("mean", "components"))
    return Extractor(shape, int(arrays["groups"]), mean, components, hashlib.sha256(data).hexdigest())


def load(path: Path) -> Extractor:
    """`parse` of a file."""
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise BadExtractor(f"{path} cannot be read: {error.strerror}") from error


def fit_file(images: Path, out: Path, outputs: int, groups: int | None = None, whiten: float = WHITEN) -> Extractor:
    """`fit` on the array `x` [n, height, width] of a file, written to `out`."""
    try:
        with np.load(images, allow_pickle=False) as archive:
            x = archive["x"]
    except Exception as error:
        raise BadExtractor(f"{images}: an .npz file with an array x of public images is needed ({error})") from error
    if x.ndim != 3 or x.dtype.kind not in "fiub" or not np.isfinite(x).all() or x.min() < 0 or x.max() > 1:
        raise BadExtractor(f"{images}: x must be images [n, height, width], grey in [0, 1]")
    data = fit(x.reshape(len(x), -1).astype(np.float32), Shape(x.shape[1], x.shape[2]), outputs, groups, whiten)
    try:
        out.write_bytes(data)
    except OSError as error:
        raise BadExtractor(f"{out} cannot be written: {error.strerror}") from error
    return parse(data)


def _moments(images: Floats, shape: Shape, groups: int, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean float64[size] and covariance float64[size, size] of the coefficients, batch by batch."""
    total, products = np.zeros(size), np.zeros((size, size))
    for start in range(0, len(images), _BATCH):
        rows = coefficients(images[start : start + _BATCH], shape, groups)
        total += rows.sum(axis=0, dtype=np.float64)
        products += rows.T @ rows
    mean = total / len(images)
    return mean, products / len(images) - np.outer(mean, mean)


def _verify(arrays: dict[str, NDArray[Any]]) -> None:
    for name, (kind, dimensions) in _FIELDS.items():
        array = arrays[name]
        if array.dtype.kind != kind or array.ndim != dimensions or not np.isfinite(array).all():
            raise BadExtractor(f"fixed features: {name} is not as it must be; fetch the file again")
    height, width, scales, angles = (int(value) for value in arrays["image"]) if arrays["image"].size == 4 else [0] * 4
    if not (1 <= scales <= 6 and 1 <= angles <= 32 and 2 ** (scales + 1) <= min(height, width) <= 4096):
        raise BadExtractor("fixed features: no such images or wavelets; fetch the file again")
    shape = Shape(height, width, scales, angles)
    size = shape.channels * shape.grid[0] * shape.grid[1]
    if arrays["mean"].shape != (size,) or arrays["components"].shape[1] != size or len(arrays["components"]) < 1:
        raise BadExtractor("fixed features: mean and components do not fit the images; fetch the file again")
    if arrays["groups"] < 1 or shape.channels % int(arrays["groups"]):
        raise BadExtractor("fixed features: the groups do not divide the channels; fetch the file again")
