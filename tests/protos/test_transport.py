"""Limits and names that both ends of the wire share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos import transport


@given(length=st.integers(0, 3 * transport.PART_BYTES))
def test_parts_are_the_data_in_bounded_pieces_and_at_least_one(length: int) -> None:
    data = bytes(length)
    pieces = list(transport.parts(data))
    assert b"".join(pieces) == data
    assert pieces
    assert all(len(piece) <= transport.PART_BYTES < transport.MESSAGE_BYTES for piece in pieces)


@given(
    federation=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", fullmatch=True),
    name=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", fullmatch=True),
)
def test_silos_name_comes_back_from_its_uri(federation: str, name: str) -> None:
    assert transport.silo_of(transport.silo_uri(federation, name), federation) == name
    assert transport.silo_of(transport.silo_uri(federation + "x", name), federation) is None
    assert transport.silo_of(transport.coordinator_uri(federation), federation) is None


@pytest.mark.parametrize(
    "uri",
    ["", "concordat://fed/silo/", "concordat://fed/silo/a/", "concordat://fed/silo/a\n", "concordat://fed/silo/a?b",
     "concordat://fed/silo/%61", "CONCORDAT://fed/silo/a", "concordat://fed.x/silo/a", " concordat://fed/silo/a"],
)  # fmt: skip
def test_uri_that_is_not_exactly_a_silos_has_no_name(uri: str) -> None:
    assert transport.silo_of(uri, "fed") is None
