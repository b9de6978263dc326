"""Places of coordinates, and the two fields of a slot."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto import xof
from crypto.errors import OutOfRange
from crypto.packing import MAX_BODY_CHUNKS, MAX_MULTIPLE, Packing, pack, unpack
from tests.crypto.conftest import make_layout

FIELDS = st.integers(-(2**17), 2**17 - 1)


def test_demo_layout_has_64_body_chunks_and_one_of_output(demo: Packing) -> None:
    assert (demo.exact_output, demo.body_chunks, demo.output_chunks, demo.chunks) == (True, 64, 1, 65)
    assert (demo.width, demo.output_size) == (33, 330)
    # 2080 = 63 * 33 + 1: all chunks hold the first column, 63 the others.
    assert demo.column_counts.tolist() == [64] + [63] * 32


def test_output_of_more_than_a_quarter_belongs_to_the_body() -> None:
    whole = Packing.of(make_layout(100, 0, 26), folds=2)
    assert (whole.exact_output, whole.output_chunks, whole.output_size) == (False, 0, 0)
    assert whole.column_counts.sum() == 100
    assert Packing.of(make_layout(100, 0, 25), folds=2).exact_output


def test_large_model_fills_its_chunks() -> None:
    large = Packing.of(make_layout(300_000, 290_000, 5_000), folds=2)
    assert (large.body_chunks, large.output_chunks) == (37, 1)
    assert large.width == -(-295_000 // 37)


def test_body_follows_the_public_permutation_row_after_row(small: Packing) -> None:
    fields = small.to_fields(np.arange(1, 101))
    body = np.r_[1:41, 61:101]
    order = xof.permutation(bytes.fromhex("5c" * 32), 80)
    assert fields[:16, :5].reshape(-1).tolist() == body[order].tolist()
    assert fields[16, :20].tolist() == list(range(41, 61))
    assert int(np.count_nonzero(fields)) == 100


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 3000), st.integers(1, 8), st.data())
def test_every_layout_comes_back_and_uses_each_field_once(size: int, folds: int, data: st.DataObject) -> None:
    output = data.draw(st.integers(1, size))
    offset = data.draw(st.integers(0, size - output))
    packing = Packing.of(make_layout(size, offset, output), folds)
    values = np.arange(1, size + 1)
    fields = packing.to_fields(values)
    assert np.array_equal(packing.from_fields(fields), values)
    assert np.array_equal(np.sort(fields[fields != 0]), values)
    assert np.array_equal(packing.used(), fields != 0)
    assert np.array_equal(packing.column_counts, packing.used()[: packing.body_chunks, : packing.width].sum(axis=0))
    assert not packing.used()[: packing.body_chunks, packing.width :].any()
    assert packing.body_chunks >= 8 * folds


@given(st.lists(st.tuples(FIELDS, FIELDS), min_size=1, max_size=20))
def test_fields_come_back_from_slots(pairs: list[tuple[int, int]]) -> None:
    fields = np.array(pairs, dtype=np.int64).reshape(1, -1)
    slots = pack(fields)
    assert slots[0].tolist() == [a + b * 2**18 for a, b in pairs]
    assert np.array_equal(unpack(slots), fields)


def test_field_beyond_its_bits_comes_back_as_a_carry() -> None:
    assert unpack(pack(np.array([[2**17, 0]]))).tolist() == [[-(2**17), 1]]


def test_full_weight_on_extreme_values_stays_in_the_fields() -> None:
    extreme = MAX_MULTIPLE * 127 * np.array([[1, 1, -1, -1, 1, -1, -1, 1]])
    assert np.array_equal(unpack(pack(extreme)), extreme)
    assert (MAX_MULTIPLE + 1) * 127 >= 2**17


def test_multiples_count_the_coordinates_under_each_field_of_a_fold(rng: np.random.Generator) -> None:
    for size, output, folds in ((100, 20, 2), (2410, 330, 8), (70_000, 9_000, 1)):
        packing = Packing.of(make_layout(size, 40, output), folds)
        rows = rng.integers(-1, 2, (5, packing.chunks)).astype(np.int8)
        assert np.array_equal(packing.multiples(rows), np.abs(rows.astype(np.int64)) @ packing.used())


def test_longest_fold_stays_in_its_field_but_for_a_negligible_chance() -> None:
    # Hoeffding's bound in bits for one field of a fold of the most chunks, all values at the limit.
    limit = MAX_MULTIPLE * 127
    bits = limit**2 / (2 * MAX_BODY_CHUNKS * 127**2) / math.log(2) - 1
    assert limit < 2**17
    assert bits > 374
    assert bits - 16 > 350


def test_model_whose_folds_could_overflow_is_refused() -> None:
    size = MAX_BODY_CHUNKS * 8192
    with pytest.raises(OutOfRange, match="parameters"):
        Packing.of(make_layout(size + 11, size + 1, 10), folds=2)


def test_output_layer_outside_the_model_is_refused() -> None:
    with pytest.raises(OutOfRange):
        Packing.of(make_layout(100, 90, 11), folds=2)


@pytest.mark.parametrize("values", [np.zeros(99, np.int64), np.zeros((100, 1), np.int64), np.zeros(100)])
def test_values_of_wrong_shape_or_type_are_refused(small: Packing, values: np.ndarray) -> None:  # type: ignore[type-arg]
    with pytest.raises(OutOfRange):
        small.to_fields(values)


def test_fields_of_wrong_shape_are_refused(small: Packing) -> None:
    with pytest.raises(OutOfRange):
        small.from_fields(np.zeros((16, 8192), np.int64))
