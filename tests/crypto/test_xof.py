"""Expansion of seeds: stored vectors, an oracle written out, and what a permutation is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from crypto import xof

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "xof.json").read_text())


def test_stored_vectors() -> None:
    for vector in VECTORS:
        seed = bytes.fromhex(vector["seed"])
        assert xof.expand(seed, vector["label"], 40).hex() == vector["expand40"]
        assert [hex(word) for word in xof.words(seed, vector["label"], 3)] == vector["words3"]
        assert xof.permutation(seed, 12).tolist() == vector["permutation12"]


def test_expansion_is_shake_256_of_prefixed_label_and_seed() -> None:
    data = b"\x02\x00\x00\x00ab" + b"\x03\x00\x00\x00cde"
    assert xof.expand(b"cde", "ab", 33) == hashlib.shake_256(data).digest(33)


def test_label_and_seed_cannot_be_shifted_into_each_other() -> None:
    assert xof.expand(b"bc", "a", 32) != xof.expand(b"c", "ab", 32)


def test_words_are_the_stream_in_little_endian() -> None:
    stream = xof.expand(b"seed", "label", 80)
    expected = [int.from_bytes(stream[i : i + 8], "little") for i in range(0, 80, 8)]
    assert xof.words(b"seed", "label", 10).tolist() == expected


def test_permutation_holds_every_index_once_and_depends_on_the_seed() -> None:
    order = xof.permutation(b"seed", 5000)
    assert np.array_equal(np.sort(order), np.arange(5000))
    assert not np.array_equal(order, xof.permutation(b"Seed", 5000))
    # A uniform permutation correlates with the identity by about 1/sqrt(n); 5 of these is out of the question.
    assert abs(np.corrcoef(order, np.arange(5000))[0, 1]) < 5 / 5000**0.5
    assert xof.permutation(b"seed", 0).shape == (0,)
