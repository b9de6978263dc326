"""Wavelet scattering of images: fixed features that were learned from nobody's data.

Bruna and Mallat 2013 (Invariant Scattering Convolution Networks): moduli of Morlet wavelet transforms, averaged by a
Gaussian; order two repeats that on the moduli. Filters, padding and sampling follow Kymatio (Andreux et al. 2020),
whose numbers are this module's oracle. A record's features depend on that record alone, so they cost no privacy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Floats = NDArray[np.float32]
Spectra = NDArray[np.complex64]

_BATCH = 256
"""Images that are transformed at once; bounds the memory to a few hundred megabytes."""
_SIGMA, _FREQUENCY = 0.8, 0.75 * math.pi
"""Width and centre frequency of the finest wavelet, in pixels; scale j has 2^j and 2^-j times them."""


@dataclass(frozen=True)
class Shape:
    """Images of `height` x `width` in [0, 1], wavelets at `scales` J octaves and `angles` L directions."""

    height: int
    width: int
    scales: int = 2
    angles: int = 8

    @property
    def channels(self) -> int:
        """Maps per image: 1 + JL + L²J(J-1)/2."""
        return 1 + self.scales * self.angles + self.angles**2 * self.scales * (self.scales - 1) // 2

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a map: a value per 2^J pixels."""
        stride = 2**self.scales
        return self.height // stride, self.width // stride


def scatter(images: Floats, shape: Shape) -> Floats:
    """Scattering coefficients up to order two.

    Args:
        images: float32[n, height, width].
        shape: its height and width must be those of the images and at least 2^(J+1).

    Returns:
        float32[n, channels, rows, columns]: order 0, then order 1 by (j, angle), then order 2 by both.
    """
    parts = [_scatter(images[start : start + _BATCH], shape) for start in range(0, len(images), _BATCH)]
    return np.concatenate(parts) if parts else np.zeros((0, shape.channels, *shape.grid), dtype=np.float32)


def _scatter(images: Floats, shape: Shape) -> Floats:
    bank = _bank(shape)
    start = _spectrum(_padded(images, shape))
    zeroth, first, second = [_averaged(start, 0, bank)], [], []
    for one in bank.wavelets:
        modulus = _spectrum(np.abs(_sampled(start * one.levels[0], 2**one.scale)))
        first.append(_averaged(modulus, one.scale, bank))
        for other in bank.wavelets:
            if other.scale > one.scale:
                steps = 2 ** (other.scale - one.scale)
                deeper = _spectrum(np.abs(_sampled(modulus * other.levels[one.scale], steps)))
                second.append(_averaged(deeper, other.scale, bank))
    return np.stack(zeroth + first + second, axis=1)


@dataclass(frozen=True, eq=False)
class _Wavelet:
    """A wavelet's spectrum, real float32, at each resolution from full (level 0) to that of its own scale."""

    scale: int
    levels: tuple[Floats, ...]


@dataclass(frozen=True, eq=False)
class _Bank:
    shape: Shape
    wavelets: tuple[_Wavelet, ...]
    average: tuple[Floats, ...]


@lru_cache(maxsize=4)
def _bank(shape: Shape) -> _Bank:
    size = _padded_size(shape)
    wavelets = []
    for scale in range(shape.scales):
        for angle in range(shape.angles):
            turn = (shape.angles // 2 - 1 - angle) * math.pi / shape.angles
            spectrum = _morlet(size, _SIGMA * 2**scale, turn, _FREQUENCY / 2**scale, 4 / shape.angles)
            wavelets.append(_Wavelet(scale, tuple(_coarser(spectrum, level) for level in range(scale + 1))))
    window = _real_spectrum(_gabor(size, _SIGMA * 2 ** (shape.scales - 1), 0.0, 0.0, 1.0))
    return _Bank(shape, tuple(wavelets), tuple(_coarser(window, level) for level in range(shape.scales)))


def _morlet(size: tuple[int, int], sigma: float, turn: float, frequency: float, slant: float) -> NDArray[np.float64]:
    """Spectrum of a Gabor atom less so much of its envelope that its mean is zero."""
    atom, envelope = (_gabor(size, sigma, turn, wave, slant) for wave in (frequency, 0.0))
    return _real_spectrum(atom - atom.sum() / envelope.sum() * envelope)


def _gabor(size: tuple[int, int], sigma: float, turn: float, frequency: float, slant: float) -> NDArray[np.complex128]:
    """A plane wave under an oblong Gaussian, wrapped around the borders; complex128[size]."""
    total = np.zeros(size, dtype=np.complex128)
    cos, sin = math.cos(turn), math.sin(turn)
    for row in range(-2, 3):
        for column in range(-2, 3):
            y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
            y, x = y + row * size[0], x + column * size[1]
            along, across = y * cos + x * sin, slant * (x * cos - y * sin)
            total += np.exp(-(along**2 + across**2) / (2 * sigma**2) + 1j * frequency * along)
    return total * slant / (2 * math.pi * sigma**2)


def _real_spectrum(filter_: NDArray[np.complex128]) -> NDArray[np.float64]:
    """The filter is Hermitian about the origin, so that its spectrum is real."""
    return np.asarray(fft.fft2(filter_).real, dtype=np.float64)


def _coarser(spectrum: NDArray[np.float64], level: int) -> Floats:
    """The filter for signals sampled every 2^level pixels: its low frequencies, what lies above cut off."""
    kept = spectrum.copy()
    for axis, length in enumerate(spectrum.shape):
        edge = length // 2 ** (level + 1)
        cut = [slice(None), slice(None)]
        cut[axis] = slice(edge, edge + length - length // 2**level)
        kept[tuple(cut)] = 0
    rows, columns = (length // 2**level for length in spectrum.shape)
    return np.asarray(kept.reshape(2**level, rows, 2**level, columns).sum(axis=(0, 2)), dtype=np.float32)


def _padded_size(shape: Shape) -> tuple[int, int]:
    stride = 2**shape.scales
    return ((shape.height + stride) // stride + 1) * stride, ((shape.width + stride) // stride + 1) * stride


def _padded(images: Floats, shape: Shape) -> Floats:
    """Mirrored at the borders, as much on both sides as the size allows."""
    extra = [whole - own for whole, own in zip(_padded_size(shape), (shape.height, shape.width), strict=True)]
    return np.pad(images, [(0, 0), *((more // 2, more - more // 2) for more in extra)], mode="reflect")


def _spectrum(maps: Floats) -> Spectra:
    return np.asarray(fft.fft2(maps), dtype=np.complex64)


def _sampled(spectra: Spectra, steps: int) -> Spectra:
    """The signals of these spectra at every `steps`-th pixel: sampling in space folds frequencies together."""
    if steps > 1:
        rows, columns = spectra.shape[1] // steps, spectra.shape[2] // steps
        parts = spectra.reshape(-1, steps, rows, steps, columns)
        # Added up slice by slice: a mean over two axes of such small arrays takes longer than the transform.
        tall = sum((parts[:, step] for step in range(1, steps)), start=parts[:, 0])
        spectra = sum((tall[:, :, step] for step in range(1, steps)), start=tall[:, :, 0]) * np.float32(steps**-2)
    return np.asarray(fft.ifft2(spectra), dtype=np.complex64)


def _averaged(spectra: Spectra, scale: int, bank: _Bank) -> Floats:
    """Local mean of maps sampled every 2^scale pixels, without the padded border."""
    maps = _sampled(spectra * bank.average[scale], 2 ** (bank.shape.scales - scale))
    rows, columns = bank.shape.grid
    return np.asarray(maps.real[:, 1 : 1 + rows, 1 : 1 + columns], dtype=np.float32)
