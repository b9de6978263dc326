"""The transform against Kymatio's numbers, and what any scattering transform must do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from silo.scattering import Shape, scatter

CASES = json.loads((Path(__file__).parents[1] / "vectors" / "scattering.json").read_bytes())["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['height']}x{case['width']}")
def test_coefficients_are_those_of_kymatio(case: dict) -> None:
    shape = Shape(case["height"], case["width"], case["scales"], case["angles"])
    image = np.array(case["image"]).reshape(1, shape.height, shape.width) / 255
    found = scatter(image.astype(np.float32), shape)
    assert list(found.shape[1:]) == case["shape"] == [shape.channels, *shape.grid]
    # Kymatio takes pi for 3.1415 in one place.
    assert np.abs(found.ravel()[:: case["every"]] - case["coefficients"]).max() < 5e-5


def test_flat_image_has_its_grey_and_no_structure() -> None:
    found = scatter(np.full((1, 28, 28), 0.7, dtype=np.float32), Shape(28, 28))[0]
    assert found[0] == pytest.approx(0.7, abs=1e-2)
    assert np.abs(found[1:]).max() < 1e-5


def test_first_order_scales_with_contrast_and_ignores_its_sign() -> None:
    image = np.random.default_rng(1).random((1, 28, 28)).astype(np.float32)
    one, inverse, double = (scatter(x, Shape(28, 28))[0, 1:] for x in (image, 1 - image, 2 * image))
    assert inverse == pytest.approx(one, abs=1e-5)
    assert double == pytest.approx(2 * one, rel=1e-3, abs=1e-5)


def test_stripes_answer_in_the_channel_of_their_direction() -> None:
    shape = Shape(32, 32)
    stripes = np.tile((1 + np.cos(0.75 * np.pi * np.arange(32))) / 2, (32, 1)).astype(np.float32)
    across, along = (scatter(image[None].copy(), shape)[0, 1:9].mean(axis=(1, 2)) for image in (stripes, stripes.T))
    # Angles are four eighths of a half turn apart.
    assert abs(int(across.argmax()) - int(along.argmax())) == 4
    assert across.max() > 3 * np.median(across)


def test_batches_do_not_show() -> None:
    images = np.random.default_rng(2).random((300, 16, 16)).astype(np.float32)
    shape = Shape(16, 16, 1, 4)
    whole = scatter(images, shape)
    assert np.array_equal(whole[257:259], scatter(images[257:259], shape))
    assert scatter(images[:0], shape).shape == (0, shape.channels, *shape.grid)
