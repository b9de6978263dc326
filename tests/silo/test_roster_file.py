"""The file of names and fingerprints that operators exchange outside the system."""

from __future__ import annotations

import json

import pytest

from silo.runner import parse_roster

MARK = "ab" * 32


def test_names_and_fingerprints_are_read_in_any_usual_writing() -> None:
    spaced = " ".join(MARK[i : i + 4] for i in range(0, 64, 4)).upper()
    assert parse_roster(json.dumps({"north": MARK, "south": spaced}).encode()) == {"north": MARK, "south": MARK}


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xfe", b"[]", b'{"North":"' + MARK.encode() + b'"}', b'{"north":"ab"}', b'{"north":null}',
     b"[" * 100_000, b'{"a":' * 100_000],
)  # fmt: skip
def test_anything_else_is_one_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\A[^\n]{1,300}\Z"):
        parse_roster(data)
