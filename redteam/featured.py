"""Images seen through fixed public features: the recommended model for images is a small head on these.

The public images are the last of the training part, up to 1,000 of them, which are then no records of anybody. All
records are extracted once and kept in `build/features`: 60,000 images of MNIST take a minute.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from redteam.datasets import Dataset
from redteam.errors import BadScenario
from silo.features import Extractor, fit, parse
from silo.scattering import Shape

PUBLIC, OUTPUTS, GROUPS = 1000, 400, 27
"""Public images and features of MNIST; of a smaller set a quarter is public, and there are two features for five."""
SCALES, ANGLES = 2, 8
CACHE = Path("build/features")

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Source:
    """A data set as it is and as models see it, row by row the same records; one and the same without features."""

    images: Dataset
    seen: Dataset
    extractor: Extractor | None = None


def through_scattering(data: Dataset, components: int = 0, cache: Path | None = None) -> Source:
    """A set of images without its public part, and the same records as features.

    Args:
        data: flat square images.
        components: how many features; 0 for the most.
        cache: where results are kept, by default `CACHE`.

    Raises:
        BadScenario: the records are no square images, or support fewer features.
    """
    side, public = math.isqrt(data.features.shape[1]), min(PUBLIC, len(data.labels) // 4)
    most = min(OUTPUTS, 2 * public // 5)
    if side**2 != data.features.shape[1] or components > most:
        raise BadScenario(
            f"scenario: data.features = 'scattering' cannot be with these records: it takes square images and gives up "
            f"to {most} components; set data.set, or data.components"
        )
    shape = Shape(side, side, SCALES, ANGLES)
    with _locked(cache or CACHE) as place:
        whole, chosen = (_extractor(data.features[-public:], shape, n, place) for n in (most, components or most))
        train, test = _extracted(data, public, whole, place / f"{_digest(data)}-{whole.digest[:16]}.npz")
    images = _without_public(data, public)
    seen = replace(
        images, features=_first(train, components), test_features=_first(test, components), extractor=chosen.digest
    )
    return Source(images, seen, chosen)


def _without_public(data: Dataset, public: int) -> Dataset:
    groups = None if data.groups is None else data.groups[:-public]
    return replace(data, features=data.features[:-public], labels=data.labels[:-public], groups=groups)


def _first(features: Floats, components: int) -> Floats:
    """Unit vectors of the first components: what an extractor of so many gives."""
    if components in (0, features.shape[1]):
        return features
    rows = features[:, :components]
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def _extractor(public: Floats, shape: Shape, outputs: int, cache: Path) -> Extractor:
    """Learned on these images, or read where they were learned on before."""
    name = hashlib.sha256(public.astype("<f4").tobytes() + repr((outputs, GROUPS, shape)).encode()).hexdigest()
    path = cache / f"extractor-{name[:16]}.npz"
    if not path.is_file():
        with _whole(path) as temporary:
            temporary.write_bytes(fit(public, shape, outputs, GROUPS))
    return parse(path.read_bytes())


def _extracted(data: Dataset, public: int, extractor: Extractor, kept: Path) -> tuple[Floats, Floats]:
    """Features of all training records but the public ones, and of the test records."""
    if not kept.is_file():
        train, test = (extractor.features(part) for part in (data.features[:-public], data.test_features))
        with _whole(kept) as temporary:
            np.savez(temporary, train=train, test=test)
    with np.load(kept, allow_pickle=False) as arrays:
        return arrays["train"], arrays["test"]


def _digest(data: Dataset) -> str:
    """Of all that a result depends on."""
    hashed = hashlib.sha256(repr((data.features.shape, PUBLIC)).encode())
    for part in (data.features, data.test_features):
        hashed.update(np.ascontiguousarray(part).data)
    return hashed.hexdigest()[:16]


@contextmanager
def _locked(cache: Path) -> Iterator[Path]:
    """The directory. One process of a sweep extracts, the others wait for it."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield cache


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Where to write what then stands at `path`, whole or not at all."""
    temporary = path.with_name(f"part-{path.name}")
    yield temporary
    temporary.replace(path)
