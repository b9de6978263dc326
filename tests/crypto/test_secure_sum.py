"""The sum decodes exactly, and every liar is caught by the check that is named."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tenseal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from crypto import ring, tags
from crypto.ckks import NOISE_STD, CkksKey
from crypto.errors import BadCiphertext, CheckFailed, KeyMismatch, OutOfRange
from crypto.packing import Packing, pack
from crypto.secure_sum import SCHEME, PackedCkks, Protected, SiloSum, SumKeys, SumScheme, deal
from crypto.sketch import rows, signs, sketch, trace_signs
from crypto.tags import Contribution
from tests.crypto.conftest import (
    EPOCH,
    FEDERATION,
    OTHER_PLAN,
    PLAN,
    TOTAL_WEIGHT,
    encrypt_reals,
    make_layout,
    random_values,
)

Fields = NDArray[np.int64]
SEED = bytes(range(32))


def fold(chunks: Sequence[bytes], matrix: NDArray[np.int8]) -> list[bytes]:
    """What the coordinator hands to the checkers."""
    return [ring.to_bytes(words) for words in ring.fold((ring.parse_chunk(chunk) for chunk in chunks), matrix)]


def add_up(parts: Sequence[Protected], weights: Sequence[int]) -> list[bytes]:
    """What the coordinator hands to all silos."""
    streams = [(ring.parse_chunk(chunk) for chunk in part.chunks) for part in parts]
    return [ring.to_bytes(words) for words in ring.weighted_sum(streams, weights)]


def check(
    keys: SumKeys, update: Protected, fields: Fields | None, packing: Packing, *, plan: str = PLAN, silo: str = "north"
) -> None:
    """Step 5: fold, and check against the sketch of `fields` (the trace's rows where there are none)."""
    drawn = signs(SEED, packing.folds, packing.body_chunks)
    matrix = rows(drawn, packing) if fields is not None else trace_signs(SEED, packing.folds, packing.chunks)
    said = None if fields is None else sketch(fields, packing, drawn)
    keys.check_folded(fold(update.chunks, matrix), matrix, packing, plan=plan, silo=silo, tags=update.tags, sketch=said)


def contributions(parts: Sequence[Protected], weights: Sequence[int]) -> list[Contribution]:
    return [Contribution(f"silo-{i}", w, part.tags) for i, (part, w) in enumerate(zip(parts, weights, strict=True))]


def protect_all(keys: SumKeys, updates: Sequence[NDArray[np.int64]], packing: Packing) -> list[Protected]:
    return [
        keys.protect(packing.to_fields(update), packing, plan=PLAN, silo=f"silo-{i}")
        for i, update in enumerate(updates)
    ]


def fails(name: str) -> Any:
    """The check of that name fails, and its message is the name and nothing else."""
    return pytest.raises(CheckFailed, match=f"^{name}$")


@pytest.fixture
def update(demo: Packing, rng: np.random.Generator) -> Fields:
    return demo.to_fields(random_values(rng, demo.size))


@pytest.fixture
def protected(keys: SiloSum, demo: Packing, update: Fields) -> Protected:
    return keys.protect(update, demo, plan=PLAN, silo="north")


class Liar:
    """A silo that holds all secrets and encrypts and tags what it likes."""

    def __init__(self, secret: bytes) -> None:
        blob = json.loads(secret)
        self.context = tenseal.context_from(base64.b64decode(blob["ckks"]))
        self.context.global_scale = 2.0**22
        self.key = CkksKey.load(base64.b64decode(blob["ckks"]))
        self.tag_secret = base64.b64decode(blob["tags"])

    def protect(self, slots: NDArray[np.float64], tagged: Fields) -> Protected:
        chunks = [ring.to_bytes(encrypt_reals(self.context, row)) for row in slots]
        return Protected(chunks, tags.tag(tagged, self.tag_secret, plan=PLAN, silo="north", salt=b"s" * 32))

    def halve(self, protected: Protected, halves: Fields) -> Protected:
        """Add the tags of `halves / 2`, in which the half of an odd number is one modulo p."""
        salt, values = tags.parse(protected.tags, halves.shape[0])
        products = tags._products(halves, self.tag_secret, PLAN)
        inverse = pow(2, -1, tags.P)
        changed = [(value + inverse * product) % tags.P for value, product in zip(values, products, strict=True)]
        return Protected(protected.chunks, salt + np.array(changed, dtype="<u8").tobytes())


@pytest.fixture(scope="module")
def liar(secret: bytes) -> Liar:
    return Liar(secret)


# What must work


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_values_and_weights_decode_exactly(keys: SiloSum, small: Packing, data: st.DataObject) -> None:
    silos = data.draw(st.sampled_from([3, 4, 6, 20, 64]))
    total = data.draw(st.integers(8, TOTAL_WEIGHT))
    cuts = sorted(data.draw(st.lists(st.integers(0, total), min_size=silos - 1, max_size=silos - 1)))
    weights = [b - a for a, b in zip([0, *cuts], [*cuts, total], strict=True)]
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    extreme = data.draw(st.booleans())
    updates = [rng.choice([-127, 127], 100) if extreme else random_values(rng, 100) for _ in weights]
    parts = protect_all(keys, updates, small)
    opened = keys.open_sum(
        add_up(parts, weights), small, plan=PLAN, contributions=contributions(parts, weights), total_weight=total
    )
    assert opened.tolist() == [
        sum(w * int(u[k]) for w, u in zip(weights, updates, strict=True)) for k in range(small.size)
    ]


def test_all_silos_at_the_same_extreme_decode_exactly(keys: SiloSum, small: Packing) -> None:
    for value in (127, -127):
        parts = protect_all(keys, [np.full(100, value)] * 3, small)
        weights = [682, 171, 171]
        opened = keys.open_sum(
            add_up(parts, weights), small, plan=PLAN, contributions=contributions(parts, weights), total_weight=1024
        )
        assert set(opened.tolist()) == {value * 1024}


def test_honest_update_passes_step_five_and_the_trace(
    keys: SiloSum, secret: bytes, demo: Packing, update: Fields, protected: Protected
) -> None:
    check(keys, protected, update, demo)
    check(SiloSum(secret), protected, update, demo)
    check(keys, protected, None, demo)


def test_model_without_exact_output_passes(keys: SiloSum, rng: np.random.Generator) -> None:
    packing = Packing.of(make_layout(60, 0, 60), folds=2)
    fields = packing.to_fields(random_values(rng, 60))
    check(keys, keys.protect(fields, packing, plan=PLAN, silo="north"), fields, packing)


def test_extreme_update_passes_step_five(keys: SiloSum, demo: Packing) -> None:
    fields = demo.to_fields(np.full(demo.size, -127))
    check(keys, keys.protect(fields, demo, plan=PLAN, silo="north"), fields, demo)


def test_noise_under_all_weight_on_one_silo_is_within_the_bound(keys: SiloSum, demo: Packing) -> None:
    zero = np.zeros((demo.chunks, 4096), np.int64)
    part = keys.protect(zero, demo, plan=PLAN, silo="north")
    noise = keys._decrypt(add_up([part], [1024]))
    assert 0.96 * 1024 * NOISE_STD < noise.std() < 1.005 * 1024 * NOISE_STD
    assert np.abs(noise).max() < 6.5 * 1024 * NOISE_STD < 3 / 8


def test_two_protections_of_one_update_share_nothing(keys: SiloSum, demo: Packing, update: Fields) -> None:
    first, second = (keys.protect(update, demo, plan=PLAN, silo="north") for _ in range(2))
    assert not set(first.chunks) & set(second.chunks)
    assert not set(tags.parse(first.tags, 65)[1]) & set(tags.parse(second.tags, 65)[1])


def test_packed_ckks_is_a_scheme() -> None:
    scheme: SumScheme = PackedCkks()
    assert scheme.name == SCHEME == "ckks-4096-60-49/2^22/2x18"
    one = scheme.deal(FEDERATION, 1)
    assert scheme.join(one).key_check(FEDERATION, 1) == SiloSum(one).key_check(FEDERATION, 1)


# Keys


def test_key_checks_agree_exactly_when_all_secrets_do(secret: bytes, keys: SiloSum) -> None:
    value = keys.key_check(FEDERATION, EPOCH)
    assert SiloSum(secret).key_check(FEDERATION, EPOCH) == value
    other = json.loads(deal(FEDERATION, EPOCH))
    for name in ("ckks", "model", "tags"):
        mixed = json.dumps(json.loads(secret) | {name: other[name]}, sort_keys=True, separators=(",", ":"))
        assert SiloSum(mixed.encode()).key_check(FEDERATION, EPOCH) != value


def test_secrets_of_another_federation_or_epoch_are_refused(keys: SiloSum) -> None:
    for federation, epoch in [("banks", EPOCH), (FEDERATION, EPOCH + 1)]:
        with pytest.raises(KeyMismatch):
            keys.key_check(federation, epoch)


def test_damaged_secrets_are_refused(secret: bytes) -> None:
    blob = json.loads(secret)
    short = base64.b64encode(bytes(31)).decode()
    changes = [{"scheme": "other"}, {"tags": short}, {"model": short}, {"ckks": "AAAA"}, {"tags": 5}, {"more": 1}]
    damaged = [json.dumps(blob | change, sort_keys=True, separators=(",", ":")).encode() for change in changes]
    for bad in [b"", b"[]", b"5", b"garbage", secret[:-1], secret + b" ", *damaged]:
        with pytest.raises(KeyMismatch) as caught:
            SiloSum(bad)
        assert blob["tags"] not in str(caught.value)


def test_no_secret_stands_in_a_repr(secret: bytes, keys: SiloSum, protected: Protected) -> None:
    blob = json.loads(secret)
    shown = repr(keys) + str(keys) + repr(protected) + repr(PackedCkks())
    for name in ("ckks", "model", "tags"):
        raw = base64.b64decode(blob[name])
        for text in (blob[name][:16], raw.hex()[:16], repr(raw[:8])[2:-1]):
            assert text not in shown
    assert protected.tags.hex()[:16] not in shown


# What a silo must refuse to send


def test_update_out_of_range_is_not_protected(keys: SiloSum, demo: Packing, update: Fields) -> None:
    for place, value in [((0, 0), 128), ((64, 0), -128), ((0, 33), 1), ((64, 330), 1), ((0, 0), 2**40)]:
        bad = update.copy()
        bad[place] = value
        with pytest.raises(OutOfRange):
            keys.protect(bad, demo, plan=PLAN, silo="north")
    with pytest.raises(OutOfRange):
        keys.protect(update[:-1], demo, plan=PLAN, silo="north")


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
    other = keys.protect(update, demo, plan=PLAN, silo="north")
    with fails("tags"):
        check(keys, Protected(protected.chunks, other.tags), update, demo)


def test_flipped_bit_and_wrong_key_decrypt_to_no_whole_numbers(
    keys: SiloSum, demo: Packing, update: Fields, protected: Protected
) -> None:
    chunk = bytearray(protected.chunks[9])
    chunk[40_000] ^= 1
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
    offset = ring.to_bytes(ring.add(ring.parse_chunk(honest[0]), ring.parse_chunk(parts[0].chunks[0])))
    lies = [
        add_up(parts, [0, 300, 524]),
        add_up(parts, [201, 300, 523]),
        [offset, *honest[1:]],
        [honest[1], honest[0], *honest[2:]],
        parts[0].chunks,
        add_up(protect_all(keys, [np.ones(100, np.int64)] * 3, small), weights),
    ]
    for lie in lies:
        with fails("tags"):
            keys.open_sum(lie, small, plan=PLAN, contributions=contributions(parts, weights), total_weight=sum(weights))
    crafted = [bytes(ring.CHUNK_BYTES - 8) + (ring.Q // 3).to_bytes(8, "little")] + honest[1:]
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
