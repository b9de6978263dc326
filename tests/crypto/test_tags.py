"""Linear tags against big-integer arithmetic, and everything that must not pass."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto import tags
from crypto.errors import CheckFailed, OutOfRange
from crypto.tags import Contribution, P
from tests.crypto.conftest import OTHER_PLAN, PLAN

SECRET, SALT = b"t" * 32, b"s" * 32
MATRIX = np.array([[1, -1, 1], [0, 1, 0], [-1, -1, 0]], dtype=np.int8)


def some_fields(rng: np.random.Generator, chunks: int = 3) -> np.ndarray:  # type: ignore[type-arg]
    return rng.integers(-127, 128, (chunks, 8192))


def make(fields: np.ndarray, **changes: object) -> bytes:  # type: ignore[type-arg]
    where = {"secret": SECRET, "plan": PLAN, "silo": "north", "salt": SALT} | changes
    return tags.tag(fields, **where)  # type: ignore[arg-type]


def test_tag_is_the_inner_product_plus_a_mask_modulo_p(rng: np.random.Generator) -> None:
    fields = some_fields(rng)
    unit = np.zeros((3, 8192), np.int64)
    rho = []
    zero = tags.parse(make(unit), 3)[1]
    for column in (0, 1, 2047, 8191):
        unit[:] = 0
        unit[:, column] = 1
        rho.append([(t - z) % P for t, z in zip(tags.parse(make(unit), 3)[1], zero, strict=True)])
    assert all(len(set(values)) == 1 for values in rho), "rho is the same for every chunk"
    sparse = np.zeros((3, 8192), np.int64)
    sparse[:, [0, 1, 2047, 8191]] = fields[:, :4]
    expected = [
        (sum(int(x) * values[0] for x, values in zip(row[:4], rho, strict=True)) + mask) % P
        for row, mask in zip(fields, zero, strict=True)
    ]
    assert tags.parse(make(sparse), 3)[1] == expected


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 2**33))
def test_folded_tags_hold_for_every_matrix_and_size_of_fields(seed: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    fields = rng.integers(-most // 4, most // 4 + 1, (3, 8192))
    matrix = rng.integers(-1, 2, (4, 3)).astype(np.int8)
    made = make(fields)
    folded = matrix.astype(np.int64) @ fields
    tags.verify_folded(folded, matrix, SECRET, plan=PLAN, silo="north", tags=made)
    if matrix[0].any():
        folded[0, seed % 8192] += 1
        with pytest.raises(CheckFailed, match=r"^tags$"):
            tags.verify_folded(folded, matrix, SECRET, plan=PLAN, silo="north", tags=made)


@pytest.mark.parametrize(
    "change",
    [
        {"secret": b"u" * 32},
        {"plan": OTHER_PLAN},
        {"silo": "south"},
    ],
)
def test_tags_of_another_secret_round_or_silo_do_not_hold(rng: np.random.Generator, change: dict[str, object]) -> None:
    fields = some_fields(rng)
    with pytest.raises(CheckFailed, match=r"^tags$"):
        tags.verify_folded(
            MATRIX.astype(np.int64) @ fields, MATRIX, SECRET, plan=PLAN, silo="north", tags=make(fields, **change)
        )


def test_swapped_chunks_and_another_salt_do_not_hold(rng: np.random.Generator) -> None:
    fields = some_fields(rng)
    made, folded = make(fields), MATRIX.astype(np.int64) @ fields
    for bad in (b"r" * 32 + made[32:], made[:32] + made[40:48] + made[32:40] + made[48:]):
        with pytest.raises(CheckFailed, match=r"^tags$"):
            tags.verify_folded(folded, MATRIX, SECRET, plan=PLAN, silo="north", tags=bad)


def test_carry_from_one_field_to_the_next_does_not_hold(rng: np.random.Generator) -> None:
    fields = some_fields(rng)
    made = make(fields)
    carried = fields.copy()
    carried[0, 6] -= 2**18
    carried[0, 7] += 1
    identity = np.eye(3, dtype=np.int8)
    tags.verify_folded(fields, identity, SECRET, plan=PLAN, silo="north", tags=made)
    with pytest.raises(CheckFailed, match=r"^tags$"):
        tags.verify_folded(carried, identity, SECRET, plan=PLAN, silo="north", tags=made)


def test_weighted_sum_holds_and_every_change_of_it_does_not(rng: np.random.Generator) -> None:
    updates = {name: some_fields(rng) for name in ("a", "b", "c")}
    weights = {"a": 1, "b": 700, "c": 323}
    parts = [Contribution(n, weights[n], make(x, silo=n, salt=n.encode() * 32)) for n, x in updates.items()]
    total = sum(weights[n] * x for n, x in updates.items())
    tags.verify_sum(total, SECRET, plan=PLAN, contributions=parts)
    dropped = total - updates["a"]
    doubled = total + updates["a"]
    offset = total.copy()
    offset[2, 8191] -= 1
    swapped = total[[1, 0, 2]]
    for bad in (dropped, doubled, offset, swapped):
        with pytest.raises(CheckFailed, match=r"^tags$"):
            tags.verify_sum(bad, SECRET, plan=PLAN, contributions=parts)
    with pytest.raises(CheckFailed, match=r"^tags$"):
        tags.verify_sum(total, SECRET, plan=OTHER_PLAN, contributions=parts)


@pytest.mark.parametrize(
    "bad", [b"", bytes(31), bytes(32 + 23), bytes(32 + 32), bytes(32 + 16) + (P).to_bytes(8, "little")]
)
def test_malformed_tags_are_refused_by_name(bad: bytes) -> None:
    with pytest.raises(CheckFailed, match=r"^tags$"):
        tags.parse(bad, 3)


def test_masks_hide_equal_chunks_and_salts_make_fresh_ones() -> None:
    zero = np.zeros((50, 8192), np.int64)
    _, first = tags.parse(make(zero), 50)
    _, second = tags.parse(make(zero, salt=b"r" * 32), 50)
    assert len(set(first + second)) == 100
    assert max(first) > P // 2 > min(first)


def test_fields_too_large_for_the_arithmetic_are_refused() -> None:
    with pytest.raises(OutOfRange):
        make(np.full((1, 8192), 2**34))
    with pytest.raises(OutOfRange):
        make(np.zeros((1, 8191), np.int64))
