"""Canonical JSON: one form in both directions, and nothing else is read."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos import canonical
from protos.canonical import MAX_INTEGER
from protos.errors import MalformedMessage

TEXT = st.text(st.characters(exclude_categories=("Cs",)))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_written_is_read_back_and_written_the_same(value: object) -> None:
    data = canonical.dumps(value)
    assert canonical.loads(data) == value
    assert canonical.dumps(canonical.loads(data)) == data


@given(VALUES)
def test_bytes_are_those_of_pythons_json_for_plain_ascii_keys(value: object) -> None:
    """Python sorts keys by code point and RFC 8785 by UTF-16 unit: the same below the surrogates."""
    plain = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    if max(plain, default="") < "\ud800" and "\x7f" not in plain:
        assert canonical.dumps(value) == plain.encode()


def test_keys_are_sorted_by_utf_16_units() -> None:
    assert canonical.dumps({"\U0001f600": 1, "\ufb33": 2, "\u20ac": 3, "1": 4}) == (
        '{"1":4,"\u20ac":3,"\U0001f600":1,"\ufb33":2}'.encode()
    )


@given(VALUES, st.data())
def test_any_other_byte_is_refused_or_another_value(value: object, data: st.DataObject) -> None:
    good = canonical.dumps(value)
    place = data.draw(st.integers(0, len(good) - 1))
    changed = good[:place] + bytes([good[place] ^ data.draw(st.integers(1, 255))]) + good[place + 1 :]
    try:
        other = canonical.loads(changed)
    except MalformedMessage:
        return
    assert other != value or type(other) is not type(value)
    assert canonical.dumps(other) == changed


@pytest.mark.parametrize("value", [1.5, 1.0, float("nan"), float("inf"), {"a": [0.0]}, ({"b": (1, 2.0)},)])
def test_float_is_not_written(value: object) -> None:
    with pytest.raises(MalformedMessage, match="float"):
        canonical.dumps(value)


@pytest.mark.parametrize("value", [MAX_INTEGER + 1, -MAX_INTEGER - 1, 2**200, b"bytes", {1: 2}, object(), {"a": {3}}])
def test_what_is_no_canonical_json_is_not_written(value: object) -> None:
    with pytest.raises(MalformedMessage, match="canonical JSON"):
        canonical.dumps(value)


@pytest.mark.parametrize(
    "data",
    [
        b"", b" 1", b"1 ", b"01", b"-0", b"+1", b"1.0", b"1e3", b"1E3", b"NaN", b"Infinity", b"-Infinity", b"tru",
        b'{"a":1,"a":1}', b'{"a":1,"a":2}', b'{"b":1,"a":2}', b'{"a": 1}', b"[1,]", b"[1 ,2]", b"'a'", b'"\\u0061"',
        b'"\\/"', b'"\t"', b'"\\ud800"', b"\xff", b"\xef\xbb\xbf1", b"9007199254740992", b"-9007199254740992",
        b"null\n", b"[" * 100_000, b'{"a":1}{"a":1}', "\u00e9".encode("latin-1"), b"9" * 5000,
    ],
    ids=lambda data: repr(data[:20]),
)  # fmt: skip
def test_bytes_that_are_not_canonical_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        canonical.loads(data)


def test_largest_integers_pass() -> None:
    for value in (MAX_INTEGER, -MAX_INTEGER, 0):
        assert canonical.loads(str(value).encode()) == value


def test_digest_is_sha256_in_hex() -> None:
    assert canonical.digest(b"abc") == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize("depth", [100, 900, 990, 994, 996, 1000, 5000, 100_000])
@pytest.mark.parametrize(("left", "middle", "right"), [(b"[", b"", b"]"), (b'{"a":', b"1", b"}")])
def test_deep_nesting_is_read_or_refused_and_never_another_error(
    left: bytes, middle: bytes, right: bytes, depth: int
) -> None:
    """Python's reader and writer give up at different depths, and a caller's stack moves both."""
    data = left * depth + middle + right * depth
    refusal = ""
    try:
        written = canonical.dumps(canonical.loads(data))
    except MalformedMessage as error:
        written, refusal = data, str(error)
    assert written == data
    assert len(refusal) < 300
