"""TenSEAL decrypts nearly anything without a word. Each failure is caught here, by a check that no other replaces.

Where a check is said to be the only one, it is switched off, and then the failure passes the whole chain.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tenseal

from crypto import merkle, ring, secure_sum
from crypto.ckks import CkksKey
from crypto.errors import BadCiphertext, CheckFailed, KeyMismatch
from crypto.packing import FIELDS_PER_CHUNK, SLOTS, Packing, pack
from crypto.secure_sum import Contribution, Protected, SiloSum, deal
from crypto.sketch import rows, signs, sketch
from tests.crypto.conftest import EPOCH, FEDERATION, PLAN, KeepingSum, random_values
from tests.crypto.oracle import context_of, last_words, tenseal_vector
from tests.crypto.sums import SEED, Fields, Liar, add_up, check, contributions, fails, fold, protect_all

ROOT = Path(__file__).parents[2]
FLIPS = 260


@pytest.fixture(scope="module")
def liar(secret: bytes) -> Liar:
    return Liar(secret)


def _nothing(*arguments: Any, **rest: Any) -> None:
    return None


# What the library does not see


@pytest.mark.parametrize("where", ["low bits", "all bits"])
def test_no_single_bit_flip_of_a_chunk_passes_the_chain(keys: SiloSum, small: Packing, where: str) -> None:
    """A sweep over words and bits of one chunk; most flips decrypt without an error of the library."""
    rng = np.random.default_rng(5)
    parts = protect_all(keys, [random_values(rng, 100) for _ in range(3)], small)
    weights = [300, 300, 424]
    total, facts = add_up(parts, weights), contributions(parts, weights)
    root = merkle.root(total)
    silent = 0
    for index in range(FLIPS):
        word = (index * 31 + 7) % ring.WORDS
        bit = index % 12 if where == "low bits" else index * 7 % 64
        data = bytearray(total[4])
        data[8 * word + bit // 8] ^= 1 << bit % 8
        flipped = [*total[:4], bytes(data), *total[5:]]
        with pytest.raises(BadCiphertext):
            merkle.verify_root(flipped, root)
        try:
            slots = keys._key.decrypt(ring.parse_chunk(bytes(data)))
        except BadCiphertext:
            continue
        silent += 1
        with fails("whole"):
            secure_sum._check_whole(slots, secure_sum._MAX_SUM_ERROR)
        if index % 20 == 0:
            with fails("whole"):
                keys.open_sum(flipped, small, plan=PLAN, contributions=facts, total_weight=1024)
    assert silent > 0.8 * FLIPS


def test_wrong_and_mixed_keys_decrypt_silently_and_give_no_whole_numbers(keys: SiloSum, small: Packing) -> None:
    foreign = KeepingSum(deal(FEDERATION, EPOCH))
    zeros = ring.parse_fresh(keys._key.encrypt(np.zeros(SLOTS, np.int64)))
    assert foreign._key.decrypt(zeros).shape == (SLOTS,)
    rng = np.random.default_rng(6)
    updates = [random_values(rng, 100) for _ in range(3)]
    ours, theirs = protect_all(keys, updates, small), protect_all(foreign, updates, small)
    mixed = [ours[0], Protected(theirs[1].chunks, ours[1].tags), ours[2]]
    weights = [341, 341, 342]
    with fails("whole"):
        keys.open_sum(
            add_up(mixed, weights), small, plan=PLAN, contributions=contributions(mixed, weights), total_weight=1024
        )
    with fails("whole"):
        check(keys, mixed[1], small.to_fields(updates[1]), small, silo="silo-1")


def test_library_takes_no_bytes_at_all_for_a_vector_and_we_do_not(keys: SiloSum, small: Packing) -> None:
    context = context_of(bytes(32))
    assert tenseal.ckks_vector_from(context, b"").decrypt() == []
    for bad in (b"", b"garbage", bytes(ring.CHUNK_BYTES - 8), bytes(ring.CHUNK_BYTES + 8)):
        with pytest.raises(BadCiphertext):
            keys.open_sum(
                [bad] * small.chunks, small, plan=PLAN, contributions=[Contribution("a", 9, b"")], total_weight=9
            )


@pytest.mark.parametrize(
    ("degree", "moduli", "scale"), [(8192, [60, 40, 40], 40), (4096, [58, 49], 22), (4096, [60, 49], 20)]
)
def test_ciphertexts_of_foreign_parameters_are_refused(
    keys: SiloSum, small: Packing, degree: int, moduli: list[int], scale: int
) -> None:
    """The last of them only by what it decrypts to: its bytes have our form."""
    other = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, degree, coeff_mod_bit_sizes=moduli,
        encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
    )  # fmt: skip
    other.global_scale = 2.0**scale
    serialized = tenseal.ckks_vector(other, [1.0] * 2048).serialize()
    part = keys.protect(np.zeros((small.chunks, FIELDS_PER_CHUNK), np.int64), small, plan=PLAN, silo="a")
    rest = add_up([part], [1])[1:]
    with pytest.raises((BadCiphertext, CheckFailed)):
        keys.open_sum(
            [serialized, *rest], small, plan=PLAN, contributions=[Contribution("a", 1, part.tags)],
            total_weight=1,
        )  # fmt: skip
    body = last_words(serialized)
    with pytest.raises((BadCiphertext, CheckFailed)):
        keys.open_sum([body, *rest], small, plan=PLAN, contributions=[Contribution("a", 1, part.tags)], total_weight=1)


@pytest.mark.parametrize("error", [RuntimeError("ciphertext data is invalid"), ValueError("failed to parse")])
def test_error_of_the_library_rejects_the_ciphertext_in_our_words(
    keys: SiloSum,
    demo: Packing,
    update: Fields,
    protected: Protected,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def throw(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(CkksKey, "_load", throw)
    with pytest.raises(BadCiphertext, match="reject it"):
        check(keys, protected, update, demo)


def test_vector_of_no_or_endless_numbers_is_rejected(key: CkksKey, monkeypatch: pytest.MonkeyPatch) -> None:
    class Encoder:
        def __init__(self, numbers: list[complex]) -> None:
            self._numbers = numbers

        def decode_complex(self, plain: Any) -> list[complex]:
            return self._numbers

    half, endless = SLOTS // 2, float("inf")
    broken = [complex(1, float("nan")), complex(endless, 1), complex(1, endless)]
    for numbers in ([], [0j] * (half - 1), [0j] * SLOTS, *([0j] * (half - 1) + [one] for one in broken)):
        monkeypatch.setattr(key, "_encoder", Encoder(numbers))
        with pytest.raises(BadCiphertext):
            key.decrypt(np.zeros(ring.WORDS, np.uint64))


# Transparent ciphertexts


def test_library_throws_on_opposite_ciphertexts_and_our_arithmetic_does_not(key: CkksKey) -> None:
    words = ring.parse_fresh(key.encrypt(np.arange(SLOTS)))
    vector = tenseal_vector(context_of(bytes(32)), words)
    with pytest.raises(RuntimeError, match="transparent"):
        vector - vector
    assert not key.decrypt(ring.subtract(words, words)).any()


@pytest.mark.parametrize("kind", ["zero words", "opposite", "no second half"])
def test_transparent_ciphertexts_are_rejected_by_name(
    keys: SiloSum, demo: Packing, update: Fields, protected: Protected, kind: str
) -> None:
    """A fresh chunk cannot be transparent, its second half comes from a seed; what is folded or summed can."""
    matrix = rows(signs(SEED, demo.folds, demo.body_chunks), demo)

    def transparent(chunks: list[bytes]) -> list[bytes]:
        zero = bytes(ring.CHUNK_BYTES)
        half = ring.CHUNK_BYTES // 2
        opposite = [ring.to_bytes(ring.subtract(w, w)) for w in map(ring.parse_chunk, chunks)]
        kinds = {"zero words": [zero] * len(chunks), "opposite": opposite}
        return kinds.get(kind) or [chunk[:half] + zero[:half] for chunk in chunks]

    with pytest.raises(CheckFailed):
        keys.check_folded(
            transparent(fold(protected.chunks, matrix)), matrix, demo, plan=PLAN, silo="north", tags=protected.tags,
            sketch=sketch(update, demo, signs(SEED, demo.folds, demo.body_chunks)),
        )  # fmt: skip
    with pytest.raises(CheckFailed):
        keys.open_sum(
            transparent(add_up([protected] * 2, [5, 4])), demo, plan=PLAN,
            contributions=[Contribution("north", 9, protected.tags)], total_weight=9,
        )  # fmt: skip


def test_two_silos_whose_ciphertexts_cancel_give_the_sum_of_the_others(keys: SiloSum, small: Packing) -> None:
    """Honest tags over opposite updates: the sum is right, and nothing throws."""
    rng = np.random.default_rng(8)
    update, third = random_values(rng, 100), random_values(rng, 100)
    parts = protect_all(keys, [update, -update, third], small)
    weights = [400, 400, 224]
    opened = keys.open_sum(
        add_up(parts, weights), small, plan=PLAN, contributions=contributions(parts, weights), total_weight=1024
    )
    assert np.array_equal(opened, 224 * third)


# Each check is the only one for something


def _reencrypted(keys: SiloSum, liar: Liar, packing: Packing, update: Fields) -> tuple[Protected, Fields]:
    return liar.protect(pack(update).astype(np.float64), update), update


def _fraction(keys: SiloSum, liar: Liar, packing: Packing, update: Fields) -> tuple[Protected, Fields]:
    slots = pack(update).astype(np.float64)
    slots[20, 4] += 0.3
    return liar.protect(slots, update), update


def _unused(keys: SiloSum, liar: Liar, packing: Packing, update: Fields) -> tuple[Protected, Fields]:
    bad = update.copy()
    bad[17, 4095] = 3
    return liar.protect(pack(bad).astype(np.float64), bad), bad


def _other_sketch(keys: SiloSum, liar: Liar, packing: Packing, update: Fields) -> tuple[Protected, Fields]:
    other = update.copy()
    other[5, 7] += 1 if other[5, 7] < 0 else -1
    return liar.protect(pack(update).astype(np.float64), update), other


def _other_tags(keys: SiloSum, liar: Liar, packing: Packing, update: Fields) -> tuple[Protected, Fields]:
    other = update.copy()
    other[3, 3] += 1 if other[3, 3] < 0 else -1
    return liar.protect(pack(update).astype(np.float64), other), update


@pytest.mark.parametrize(
    ("make", "name", "function"),
    [
        (_fraction, "whole", "_check_folds_whole"),
        (_unused, "range", "_check_range"),
        (_other_sketch, "sketch", "_check_sketch"),
        (_other_tags, "tags", "verify_folded"),
    ],
)
def test_failure_is_caught_by_one_check_and_passes_without_it(
    keys: SiloSum, liar: Liar, demo: Packing, update: Fields, monkeypatch: pytest.MonkeyPatch,
    make: Callable[..., tuple[Protected, Fields]], name: str, function: str,
) -> None:  # fmt: skip
    lie, said = make(keys, liar, demo, update)
    with fails(name):
        check(keys, lie, said, demo)
    monkeypatch.setattr(secure_sum, function, _nothing)
    check(keys, lie, said, demo)


def test_other_bytes_of_the_same_numbers_are_caught_by_the_digest_only(
    keys: SiloSum, liar: Liar, demo: Packing, update: Fields, protected: Protected
) -> None:
    again, said = _reencrypted(keys, liar, demo, update)
    check(keys, again, said, demo)
    check(keys, Protected(again.chunks, protected.tags), update, demo)
    with pytest.raises(BadCiphertext, match="Merkle root"):
        merkle.verify_root(again.chunks, merkle.root(protected.chunks))


def test_word_beyond_the_modulus_is_caught_by_the_parameter_check_only(
    keys: SiloSum, demo: Packing, update: Fields, protected: Protected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same residues in other bytes: folds of unreduced words would be residues of nobody's ciphertext."""
    drawn = signs(SEED, demo.folds, demo.body_chunks)
    matrix = rows(drawn, demo)
    folded = fold(protected.chunks, matrix)
    words = np.frombuffer(folded[0], "<u8").copy()
    words[:3] += np.uint64(ring.Q)
    unreduced = [words.tobytes(), *folded[1:]]
    facts = {"plan": PLAN, "silo": "north", "tags": protected.tags, "sketch": sketch(update, demo, drawn)}
    with pytest.raises(BadCiphertext, match="modulus"):
        keys.check_folded(unreduced, matrix, demo, **facts)
    reduced = ring.to_bytes(np.frombuffer(unreduced[0], "<u8") % np.uint64(ring.Q))
    keys.check_folded([reduced, *folded[1:]], matrix, demo, **facts)


# Who has a secret at all


def test_copy_of_a_context_keeps_the_secret_key_so_none_is_ever_handed_out() -> None:
    """`copy()` after which the original is made public still decrypts: a process either has no context or the key."""
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 4096, coeff_mod_bit_sizes=[60, 49])
    copied = context.copy()
    context.make_context_public()
    assert not context.is_private()
    assert copied.is_private()
    assert context_of(bytes(32)).copy().is_private()


@pytest.mark.processes
def test_nothing_of_the_coordinator_imports_tenseal_or_a_key() -> None:
    modules = sorted(f"coordinator.{path.stem}" for path in (ROOT / "coordinator").glob("*.py"))
    script = (
        f"import sys, importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('tenseal', '_tenseal_cpp', '_sealapi_cpp')"
        " or name in ('crypto.ckks', 'crypto.ckks_key', 'crypto.secure_sum')])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_secret_of_another_kind_is_refused() -> None:
    with pytest.raises(KeyMismatch):
        SiloSum(tenseal.context(tenseal.SCHEME_TYPE.CKKS, 4096, coeff_mod_bit_sizes=[60, 49]).serialize())
