"""MNIST seen through fixed public features: the recommended model for images is a small head on these.

The public images are a named root part: the last 1,000 training images, which are no records of anybody. Scattering
60,000 images takes a minute, so the result is kept in `build/features`, under the extractor's digest.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from redteam.datasets import Dataset, mnist
from silo.features import Extractor, fit, parse
from silo.scattering import Shape

ROOT, OUTPUTS, GROUPS = 1000, 400, 27
SHAPE = Shape(28, 28)
CACHE = Path("build/features")


def mnist_features(directory: Path, cache: Path = CACHE) -> tuple[Dataset, Extractor]:
    """The records without the root part, as features, and the extractor that made them; 59,000 and 10,000 rows."""
    images = mnist(directory)
    extractor = _extractor(images.features[-ROOT:], cache)
    kept = cache / f"mnist-{extractor.digest[:16]}.npz"
    if not kept.is_file():
        train, test = (extractor.features(part) for part in (images.features[:-ROOT], images.test_features))
        np.savez(kept, train=train, test=test)
    with np.load(kept, allow_pickle=False) as arrays:
        train, test = arrays["train"], arrays["test"]
    return replace(images, features=train, labels=images.labels[:-ROOT], test_features=test), extractor


def _extractor(public: np.ndarray, cache: Path) -> Extractor:
    """Learned on these images, or read where they were learned on before."""
    cache.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(public.astype("<f4").tobytes() + repr((OUTPUTS, GROUPS, SHAPE)).encode()).hexdigest()
    path = cache / f"extractor-{name[:16]}.npz"
    if not path.is_file():
        path.write_bytes(fit(public, SHAPE, OUTPUTS, GROUPS))
    return parse(path.read_bytes())
