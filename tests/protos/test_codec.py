"""Messages are read strictly: every field, its type, its range, its kind."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos import canonical, messages, records
from protos.canonical import MAX_INTEGER
from protos.codec import (
    LATER,
    Digest,
    JsonObject,
    Name,
    Natural,
    Positive,
    Text,
    decode,
    digest_of,
    encode,
    pack,
    unpack,
)
from protos.errors import MalformedMessage


@dataclass(frozen=True)
class Part:
    number: Natural
    note: Text | None


@dataclass(frozen=True)
class Whole:
    KIND: ClassVar[str] = "test/whole"

    name: Name
    mark: Digest
    count: Positive
    yes: bool
    blob: bytes
    parts: tuple[Part, ...]
    more: JsonObject
    maybe: Part | None


GOOD = Whole("ada", "0" * 64, 1, True, b"\x00\xff", (Part(0, None), Part(5, "five")), {"a": [1]}, None)

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", fullmatch=True)
NOTES = st.none() | st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20)
PARTS = st.builds(Part, st.integers(0, MAX_INTEGER), NOTES)
WHOLES = st.builds(
    Whole,
    NAMES,
    st.binary(min_size=32, max_size=32).map(bytes.hex),
    st.integers(1, MAX_INTEGER),
    st.booleans(),
    st.binary(max_size=40),
    st.lists(PARTS, max_size=3).map(tuple),
    st.dictionaries(st.sampled_from("xyz"), st.integers(0, 9), max_size=2),
    st.none() | PARTS,
)


@pytest.mark.parametrize("text", ["AB==", "AA", "A A=", "AAB="])
def test_second_base64_text_of_the_same_bytes_is_refused(text: str) -> None:
    with pytest.raises(MalformedMessage, match="base64"):
        decode(Whole, encode(GOOD) | {"blob": text})


@given(WHOLES)
def test_messages_come_back_as_they_went(message: Whole) -> None:
    assert unpack(Whole, pack(message)) == message
    assert digest_of(message) == hashlib.sha256(pack(message)).hexdigest()


def test_kind_stands_in_the_bytes() -> None:
    assert encode(GOOD)["kind"] == "test/whole"
    assert "kind" not in encode(Part(1, None))


@pytest.mark.parametrize("field", [*(field.name for field in dataclasses.fields(Whole)), "kind"])
def test_missing_field_is_named(field: str) -> None:
    value = encode(GOOD)
    del value[field]
    with pytest.raises(MalformedMessage, match=f"missing or unknown fields: {field}"):
        decode(Whole, value)


@dataclass(frozen=True)
class Grown:
    """What `Part` became when it got a field more."""

    number: Natural
    note: Text | None
    share: Natural = dataclasses.field(default=0, metadata=LATER)


@given(PARTS, st.integers(0, 9))
def test_a_later_field_leaves_old_bytes_as_they_are_and_stands_only_in_new_ones(part: Part, share: int) -> None:
    old = pack(part)
    assert unpack(Grown, old) == Grown(part.number, part.note)
    grown = Grown(part.number, part.note, share)
    assert unpack(Grown, pack(grown)) == grown
    assert (pack(grown) == old) == (share == 0)


def test_a_later_field_has_one_form_and_one_range() -> None:
    with pytest.raises(MalformedMessage, match=r"Grown\.share: must be left out where it is 0"):
        decode(Grown, {"number": 1, "note": None, "share": 0})
    for wrong in (-1, False, "1", None):
        with pytest.raises(MalformedMessage, match=r"Grown\.share"):
            decode(Grown, {"number": 1, "note": None, "share": wrong})
    with pytest.raises(MalformedMessage, match="missing or unknown fields: note"):
        decode(Grown, {"number": 1, "share": 1})
    with pytest.raises(MalformedMessage, match="missing or unknown fields: share"):
        decode(Part, {"number": 1, "note": None, "share": 1})


def test_unknown_field_is_named() -> None:
    with pytest.raises(MalformedMessage, match="missing or unknown fields: extra"):
        decode(Whole, encode(GOOD) | {"extra": 1})
    with pytest.raises(MalformedMessage, match="Part: missing or unknown fields: kind"):
        decode(Whole, encode(GOOD) | {"maybe": {"number": 1, "note": None, "kind": "x"}})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "test/other"), ("kind", None), ("kind", 1),
        ("name", ""), ("name", "Ada"), ("name", "-a"), ("name", "a-"), ("name", "a" * 33), ("name", "a\n"), ("name", 1),
        ("mark", "0" * 63), ("mark", "0" * 65), ("mark", "A" * 64), ("mark", "0" * 64 + "\n"),
        ("count", 0), ("count", -1), ("count", True), ("count", "1"), ("count", None), ("count", [1]),
        ("yes", 1), ("yes", "true"), ("yes", None),
        ("blob", "a"), ("blob", "%%%%"), ("blob", None), ("blob", 3), ("blob", "AA==\n"), ("blob", "\u00e9"),
        ("parts", {}), ("parts", None), ("parts", [1]), ("parts", [{"number": -1, "note": None}]),
        ("parts", [{"number": 1, "note": "a\x00"}]), ("parts", [{"number": 1, "note": "a" * 401}]),
        ("more", []), ("more", None), ("maybe", []), ("maybe", 0),
    ],
)  # fmt: skip
def test_wrong_value_is_refused(field: str, value: Any) -> None:
    with pytest.raises(MalformedMessage) as caught:
        decode(Whole, encode(GOOD) | {field: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, [], "text", 1, True])
def test_something_else_than_an_object_is_refused(value: Any) -> None:
    with pytest.raises(MalformedMessage, match="an object is needed"):
        decode(Whole, value)


def test_signed_message_of_one_kind_is_never_another() -> None:
    bodies: list[Any] = [value for value in vars(messages).values() if hasattr(value, "KIND")]
    bodies += list(records.BODIES.values())
    kinds = [body.KIND for body in bodies]
    assert len(set(kinds)) == len(kinds) >= 24


def test_record_of_unknown_kind_is_refused() -> None:
    for body in ({}, {"kind": "concordat/newer/v9"}, {"kind": None}, {"kind": ["concordat/plan/v1"]}):
        with pytest.raises(MalformedMessage, match="unknown kind"):
            records.body_class(body)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", pack(GOOD)[:-1], pack(GOOD) + b"\n", b"\xff"])
def test_bytes_of_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        unpack(Whole, data)


def test_name_of_a_check_is_one_of_the_known() -> None:
    refusal = encode(messages.Refusal("fed", "0" * 64, "tags"))
    assert decode(messages.Refusal, refusal).check == "tags"
    for check in ("", "tags ", "value 17", "wholeness", "tags|range"):
        with pytest.raises(MalformedMessage):
            decode(messages.Refusal, refusal | {"check": check})


@pytest.mark.parametrize("result", ["adopte", "voids", "adopted|void", ""])
def test_result_of_an_outcome_is_one_of_two(result: str) -> None:
    outcome = encode(records.Outcome(1, "void", "0" * 64, (), (), (), (), (), "none", ""))
    with pytest.raises(MalformedMessage):
        decode(records.Outcome, outcome | {"result": result})
    assert canonical.loads(canonical.dumps(outcome)) == outcome
