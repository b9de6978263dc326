"""Every liar about a sum is caught by the check that is named."""

from __future__ import annotations

import numpy as np
import pytest

from crypto import ring
from crypto.ckks import NOISE_STD
from crypto.errors import BadCiphertext, OutOfRange
from crypto.packing import MAX_MULTIPLE, Packing, pack
from crypto.secure_sum import Protected, SiloSum, deal
from crypto.sketch import rows, signs, sketch
from crypto.tags import Contribution
from tests.crypto.conftest import (
    EPOCH,
    FEDERATION,
    OTHER_PLAN,
    PLAN,
    make_layout,
    random_values,
)
from tests.crypto.sums import SEED, Fields, Liar, add_up, check, contributions, fails, fold, protect_all


@pytest.fixture(scope="module")
def liar(secret: bytes) -> Liar:
    return Liar(secret)


# What a checker must catch in a folded ciphertext


def test_sketch_of_another_update_is_caught(keys: SiloSum, demo: Packing, update: Fields, protected: Protected) -> None:
    for chunk, column in [(5, 7), (64, 329)]:
        other = update.copy()
        other[chunk, column] -= np.sign(other[chunk, column]) or 1
        with fails("sketch"):
            check(keys, protected, other, demo)


def test_opposite_chunks_are_seen_by_the_folds(
    keys: SiloSum, demo: Packing, update: Fields, protected: Protected
) -> None:
    other = update.copy()
    other[3, :33], other[4, :33] = 0, 0
    with fails("sketch"):
        check(keys, protected, other, demo)


def test_logged_sketch_is_checked_against_tags_without_a_ciphertext(
    keys: SiloSum, demo: Packing, update: Fields, protected: Protected
) -> None:
    drawn = signs(SEED, demo.folds, demo.body_chunks)
    folds, output = sketch(update, demo, drawn)
    facts = {"plan": PLAN, "silo": "north", "tags": protected.tags}
    keys.check_sketch((folds, output), rows(drawn, demo), demo, **facts)
    for part in (folds, output):
        part.flat[3] += 1
        with fails("tags"):
            keys.check_sketch((folds, output), rows(drawn, demo), demo, **facts)
        part.flat[3] -= 1


def test_false_tag_is_caught(keys: SiloSum, demo: Packing, update: Fields, protected: Protected) -> None:
    flipped = protected.tags[:-1] + bytes([protected.tags[-1] ^ 1])
    for bad in (flipped, protected.tags[:-8], b""):
        with fails("tags"):
            check(keys, Protected(protected.chunks, bad), update, demo)


def test_tags_of_another_silo_or_round_are_caught(
    keys: SiloSum, demo: Packing, update: Fields, protected: Protected
) -> None:
    with fails("tags"):
        check(keys, protected, update, demo, silo="south")
    with fails("tags"):
        check(keys, protected, update, demo, plan=OTHER_PLAN)
    other = keys.protect(-update, demo, plan=PLAN, silo="north")
    with fails("tags"):
        check(keys, Protected(protected.chunks, other.tags), update, demo)


def test_flipped_bit_and_wrong_key_decrypt_to_no_whole_numbers(
    keys: SiloSum, demo: Packing, update: Fields, protected: Protected
) -> None:
    for place in (5, 20_000):
        chunk = bytearray(protected.chunks[9])
        chunk[place] ^= 1
        flipped = [*protected.chunks[:9], bytes(chunk), *protected.chunks[10:]]
        with fails("whole"):
            check(keys, Protected(flipped, protected.tags), update, demo)
    with fails("whole"):
        check(SiloSum(deal(FEDERATION, EPOCH)), protected, update, demo)


def test_folded_bytes_of_wrong_size_count_or_words_are_refused_before_decryption(
    keys: SiloSum, demo: Packing, protected: Protected
) -> None:
    matrix = rows(signs(SEED, 8, 64), demo)
    good = fold(protected.chunks, matrix)
    high = ring.Q.to_bytes(8, "little") + good[0][8:]
    for bad in (good[:-1], [], [*good, good[0]], [good[0][:-1], *good[1:]], [b"", *good[1:]], [high, *good[1:]]):
        with pytest.raises(BadCiphertext):
            keys.check_folded(bad, matrix, demo, plan=PLAN, silo="north", tags=protected.tags, sketch=None)


def test_crafted_fold_of_other_chunks_is_caught(keys: SiloSum, demo: Packing, protected: Protected) -> None:
    matrix = rows(signs(SEED, 8, 64), demo)
    single = np.zeros_like(matrix)
    single[:, 5] = 1
    with fails("tags"):
        keys.check_folded(
            fold(protected.chunks, single), matrix, demo, plan=PLAN, silo="north", tags=protected.tags, sketch=None
        )


@pytest.mark.parametrize(("chunk", "column"), [(64, 0), (0, 33), (17, 4095), (64, 330)])
def test_out_of_range_and_unused_fields_are_caught(
    keys: SiloSum, liar: Liar, demo: Packing, update: Fields, chunk: int, column: int
) -> None:
    bad = update.copy()
    bad[chunk, column] = 128
    lie = liar.protect(pack(bad).astype(np.float64), bad)
    with fails("range"):
        check(keys, lie, bad, demo)


def test_huge_field_is_caught_by_the_range_of_its_fold(
    keys: SiloSum, liar: Liar, demo: Packing, update: Fields
) -> None:
    bad = update.copy()
    bad[7, 3] = 127 * 66 + 5000
    with fails("range"):
        check(keys, liar.protect(pack(bad).astype(np.float64), bad), bad, demo)


def test_carry_between_fields_is_caught_by_the_tags(keys: SiloSum, liar: Liar, demo: Packing, update: Fields) -> None:
    tagged = update.copy()
    tagged[64, 10] += 2**18
    tagged[64, 11] -= 1
    assert np.array_equal(pack(tagged), pack(update))
    with fails("tags"):
        check(keys, liar.protect(pack(update).astype(np.float64), tagged), update, demo)


@pytest.mark.parametrize("shift", [0.5, 0.25, 0.01])
def test_single_fraction_is_caught(keys: SiloSum, liar: Liar, demo: Packing, update: Fields, shift: float) -> None:
    slots = pack(update).astype(np.float64)
    slots[20, 4] += shift
    with fails("whole"):
        check(keys, liar.protect(slots, update), update, demo)


def test_fraction_too_small_for_one_fold_is_caught_by_all_together(
    keys: SiloSum, liar: Liar, demo: Packing, update: Fields
) -> None:
    slots = pack(update).astype(np.float64)
    slots[20, 4] += 0.0014
    assert 9 * NOISE_STD * 64**0.5 > 0.0014
    with fails("whole"):
        check(keys, liar.protect(slots, update), update, demo)


def test_halves_on_an_even_number_of_chunks_pass_the_folds_but_not_the_trace(
    keys: SiloSum, liar: Liar, demo: Packing, update: Fields
) -> None:
    halves = np.zeros_like(update)
    halves[[3, 4], 8] = 1
    halved = liar.halve(liar.protect(pack(update) + pack(halves) / 2, update), halves)
    drawn = signs(SEED, 8, 64)
    matrix = rows(drawn, demo)
    folds, output = sketch(2 * update + halves, demo, drawn)
    keys.check_folded(
        fold(halved.chunks, matrix), matrix, demo, plan=PLAN, silo="north", tags=halved.tags,
        sketch=(folds // 2, output // 2),
    )  # fmt: skip
    with fails("whole"):
        keys.open_sum(
            add_up([halved], [1023]), demo, plan=PLAN, contributions=[Contribution("north", 1023, halved.tags)],
            total_weight=1023,
        )  # fmt: skip
    with fails("whole"):
        check(keys, halved, None, demo)


def test_fold_that_leaves_its_field_is_refused_and_random_signs_never_do(
    keys: SiloSum, rng: np.random.Generator
) -> None:
    """The largest value in 1040 chunks: one sign for all of them overflows, and is not decoded to something else."""
    packing = Packing.of(make_layout(1040 * 16, 0, 1040 * 16), folds=130)
    assert packing.chunks == 1040 > MAX_MULTIPLE
    fields = packing.to_fields(random_values(rng, 1040 * 16))
    fields[:, 0] = 127
    made = keys.protect(fields, packing, plan=PLAN, silo="north")
    matrix = np.ones((1, 1040), np.int8)
    for said, name in ((None, "tags"), (sketch(fields, packing, matrix), "sketch")):
        with fails(name):
            keys.check_folded(
                fold(made.chunks, matrix), matrix, packing, plan=PLAN, silo="north", tags=made.tags, sketch=said
            )
    matrix = rows(signs(SEED, 8, 1040), packing)
    said = sketch(fields, packing, matrix)
    keys.check_folded(fold(made.chunks, matrix), matrix, packing, plan=PLAN, silo="north", tags=made.tags, sketch=said)


# What every silo must catch in a sum


@pytest.fixture(scope="module")
def three(keys: SiloSum, small: Packing) -> tuple[list[Protected], list[int]]:
    rng = np.random.default_rng(11)
    return protect_all(keys, [random_values(rng, 100) for _ in range(3)], small), [200, 300, 524]


def test_lies_of_the_coordinator_about_the_sum_are_caught(
    keys: SiloSum, small: Packing, three: tuple[list[Protected], list[int]]
) -> None:
    parts, weights = three
    honest = add_up(parts, weights)
    offset = ring.to_bytes(ring.add(ring.parse_chunk(honest[0]), ring.parse_fresh(parts[0].chunks[0])))
    lies = [
        add_up(parts, [0, 300, 524]),
        add_up(parts, [201, 300, 523]),
        [offset, *honest[1:]],
        [honest[1], honest[0], *honest[2:]],
        add_up(parts[:1], [1]),
        add_up(protect_all(keys, [np.ones(100, np.int64)] * 3, small), weights),
    ]
    for lie in lies:
        with fails("tags"):
            keys.open_sum(lie, small, plan=PLAN, contributions=contributions(parts, weights), total_weight=sum(weights))
    crafted = [bytes(ring.CHUNK_BYTES - 8) + (ring.Q // 3).to_bytes(8, "little"), *honest[1:]]
    with fails("whole"):
        keys.open_sum(crafted, small, plan=PLAN, contributions=contributions(parts, weights), total_weight=1024)


def test_sum_of_another_round_or_epoch_is_caught(
    keys: SiloSum, small: Packing, three: tuple[list[Protected], list[int]]
) -> None:
    parts, weights = three
    total = add_up(parts, weights)
    with fails("tags"):
        keys.open_sum(total, small, plan=OTHER_PLAN, contributions=contributions(parts, weights), total_weight=1024)
    with fails("whole"):
        SiloSum(deal(FEDERATION, EPOCH)).open_sum(
            total, small, plan=PLAN, contributions=contributions(parts, weights), total_weight=1024
        )


def test_sum_beyond_the_total_weight_is_out_of_range(keys: SiloSum, small: Packing) -> None:
    parts = protect_all(keys, [np.full(100, 127)] * 3, small)
    with fails("range"):
        keys.open_sum(
            add_up(parts, [5, 5, 5]), small, plan=PLAN, contributions=contributions(parts, [4, 5, 5]), total_weight=14
        )


def test_sum_of_wrong_size_count_or_words_is_refused(
    keys: SiloSum, small: Packing, three: tuple[list[Protected], list[int]]
) -> None:
    parts, weights = three
    good = add_up(parts, weights)
    high = ring.Q.to_bytes(8, "little") + good[0][8:]
    for bad in ([], good[:-1], [*good, good[0]], [good[0][:-1], *good[1:]], [high, *good[1:]]):
        with pytest.raises(BadCiphertext):
            keys.open_sum(bad, small, plan=PLAN, contributions=contributions(parts, weights), total_weight=1024)


@pytest.mark.parametrize(
    ("weights", "total"), [([200, 300, 524], 1023), ([1025, -1, 0], 1024), ([0, 0, 0], 0), ([1000, 30, 3], 1033)]
)
def test_weights_that_do_not_add_up_are_refused(
    keys: SiloSum, small: Packing, three: tuple[list[Protected], list[int]], weights: list[int], total: int
) -> None:
    parts, _ = three
    with pytest.raises(OutOfRange):
        keys.open_sum(
            parts[0].chunks, small, plan=PLAN, contributions=contributions(parts, weights), total_weight=total
        )
