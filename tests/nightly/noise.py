"""Measures the decryption error beside its law: `python -m tests.nightly.noise [chunks]` (default 10,000: a minute).

Prints what docs/crypto.md quotes: the standard deviation and the tail of fresh symmetric encryptions of full-range
updates, real and imaginary parts apart and how they correlate, the same for public-key encryptions, and of weighted
sums under the most uneven weights that policies allow. A slot is one part, as in `crypto.packing`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator

import numpy as np
import tenseal
from numpy.typing import NDArray

from crypto import ckks, ring
from crypto.ckks import NOISE_STD, CkksKey
from crypto.packing import FIELDS, FIELDS_PER_CHUNK, LEVELS, SLOTS, pack

WEIGHT = 1024
MOST_SLOTS = 11_000_000 // FIELDS
"""Slots of a round of 11 million parameters, two fields to a slot."""
DEVIATIONS = (3.0, 4.0, 4.5, 5.0)
CORRELATIONS = 30


def slots(rng: np.random.Generator) -> NDArray[np.int64]:
    """A chunk of quantised values of the whole range."""
    return pack(rng.integers(-LEVELS, LEVELS + 1, (1, FIELDS_PER_CHUNK)))[0]


def symmetric(chunks: int) -> Iterator[NDArray[np.float64]]:
    """Errors of fresh encryptions, of a new key every 500 chunks; float64[4096] each."""
    rng = np.random.default_rng(1)
    for index in range(chunks):
        if index % 500 == 0:
            key = CkksKey.load(ckks.generate())
        values = slots(rng)
        yield key.decrypt(ring.parse_fresh(key.encrypt(values))) - values


def public_key(chunks: int) -> Iterator[NDArray[np.float64]]:
    """The same with TenSEAL's public-key encryption of the real parts, a new key every 100 chunks; float64[2048]."""
    rng = np.random.default_rng(2)
    for index in range(chunks):
        if index % 100 == 0:
            context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 4096, coeff_mod_bit_sizes=[60, 49])
            context.global_scale = 2.0**ckks.SCALE_LOG2
        values = slots(rng)[0::2]
        yield np.array(tenseal.ckks_vector(context, values.astype(float).tolist()).decrypt()) - values


def tail(errors: Iterator[NDArray[np.float64]], unit: float) -> dict[str, float]:
    """Deviation in slots, kurtosis, largest error and counts beyond `DEVIATIONS`, all in `unit`s."""
    count, second, fourth, largest = 0, 0.0, 0.0, 0.0
    beyond = dict.fromkeys(DEVIATIONS, 0)
    for error in errors:
        scaled = np.abs(error) / unit
        count, largest = count + scaled.size, max(largest, float(scaled.max()))
        second, fourth = second + float((scaled**2).sum()), fourth + float((scaled**4).sum())
        for bound in DEVIATIONS:
            beyond[bound] += int((scaled > bound).sum())
    facts = {"slots": count, "std": unit * math.sqrt(second / count), "kurtosis": fourth * count / second**2}
    return facts | {"largest": largest} | {f"beyond {bound}": number for bound, number in beyond.items()}


def correlations(errors: Iterator[NDArray[np.float64]]) -> tuple[float, float]:
    """Of real with imaginary parts of the same slots, and of parts with their neighbours of the next complex slot.

    Both in standard errors: squares of many runs add up to about their number where parts are uncorrelated.
    """
    within, across, count = 0.0, 0.0, 0
    for error in errors:
        unit = error / NOISE_STD
        within, count = within + float(unit[0::2] @ unit[1::2]), count + unit.size // 2
        across += float(unit[:-2] @ unit[2:]) / math.sqrt(2)
    return within / math.sqrt(count), across / math.sqrt(count)


def uneven(silos: int, floor: float, cap: float) -> list[int]:
    """The weights of largest norm: as many at the cap as leave the others the floor."""
    least, most = math.ceil(floor * WEIGHT / silos), min(math.floor(cap * WEIGHT / silos), WEIGHT)
    weights = [least] * silos
    spare = WEIGHT - sum(weights)
    for index in range(silos):
        given = min(spare, most - least)
        weights[index], spare = weights[index] + given, spare - given
    return weights


def bound_log2(error: float, norm: float, count: int) -> float:
    """Logarithm of the bound `count * 2 exp(-error^2 / (2 NOISE_STD^2 norm^2))`."""
    return math.log2(2 * count) - error**2 / (2 * (NOISE_STD * norm) ** 2) / math.log(2)


def sums(silos: int, weights: list[int], chunks: int) -> Iterator[NDArray[np.float64]]:
    """Errors of weighted sums of fresh encryptions."""
    rng, key = np.random.default_rng(3), CkksKey.load(ckks.generate())
    for _ in range(chunks):
        values = [slots(rng) for _ in range(silos)]
        (total,) = ring.weighted_sum([[ring.parse_fresh(key.encrypt(value))] for value in values], weights)
        yield key.decrypt(total) - sum(w * value for w, value in zip(weights, values, strict=True))


def main() -> None:
    chunks = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    print(f"constant {NOISE_STD:.3g}; errors below in units of it (times |w| for sums)")
    print("symmetric ", tail(symmetric(chunks), NOISE_STD))
    for bound in DEVIATIONS:
        print(f"  a Gaussian would have {chunks * SLOTS * math.erfc(bound / math.sqrt(2)):.1f} beyond {bound}")
    tenth = max(1, chunks // 10)
    for name, start in (("real parts", 0), ("imaginary ", 1)):
        print(name, tail((error[start::2] for error in symmetric(tenth)), NOISE_STD))
    scores = np.array([correlations(symmetric(max(1, tenth // CORRELATIONS))) for _ in range(CORRELATIONS)])
    within, across = (scores**2).sum(axis=0)
    print(f"correlation of parts, squared z-scores of {CORRELATIONS} runs: {within:.1f} in slots, {across:.1f} across")
    print("public key", tail(public_key(tenth), NOISE_STD))
    for silos, floor, cap in [(1, 0, 1), (2, 0.5, 2), (3, 0.5, 2), (5, 0.5, 2), (20, 0.5, 2), (20, 0, 4)]:
        weights = uneven(silos, floor, cap)
        norm = math.hypot(*weights)
        measured = tail(sums(silos, weights, max(1, chunks // 100)), NOISE_STD * norm)
        wrong, false = (bound_log2(error, norm, MOST_SLOTS) for error in (0.5, 0.375))
        print(
            f"{silos} silos, floor {floor}, cap {cap}: |w| {norm:.0f}, std {NOISE_STD * norm:.4f} by the law, ", end=""
        )
        print(f"{measured['std']:.4f} measured, largest {measured['largest']:.2f}; ", end="")
        print(f"wrong 2^{wrong:.0f}, false alarm 2^{false:.0f} a round of 11 M")


if __name__ == "__main__":
    main()
