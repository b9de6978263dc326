"""The committed seeds and a few thousand small changes of them raise nothing but our own errors; fuzzing does more."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from protos.codec import unpack
from tests.nightly.fuzz import CORPUS, TARGET_NAMES
from tests.nightly.targets import TARGETS, classes

CHANGES = {"secret": 60, "sealed": 100, "chunk": 100}


def changed(data: bytes, random_: random.Random) -> bytes:
    """Some bytes flipped, cut, doubled or exchanged for a telling one."""
    made = bytearray(data)
    for _ in range(random_.randint(1, 4)):
        place = random_.randrange(len(made) + 1)
        kind = random_.randrange(4)
        if kind == 0 and place < len(made):
            made[place] ^= 1 << random_.randrange(8)
        elif kind == 1:
            del made[place : place + random_.randint(1, 20)]
        elif kind == 2:
            made[place:place] = made[place : place + random_.randint(1, 40)]
        else:
            made[place : place + 1] = random_.choice(
                [b'"', b"{", b"[", b"-", b"1e9", b"null", b"\\ud800", b"\xff", b"="]
            )
    return bytes(made)


def test_every_parser_has_seeds_and_every_class_of_message_one() -> None:
    assert tuple(TARGETS) == TARGET_NAMES
    assert sorted(path.name for path in CORPUS.iterdir()) == sorted(TARGETS)
    seen = set()
    for path in (CORPUS / "message").iterdir():
        data = path.read_bytes()
        cls = classes()[data[0]]
        unpack(cls, data[1:])
        seen.add(cls.__name__)
    assert seen == {cls.__name__ for cls in classes()}


@pytest.mark.parametrize("name", TARGET_NAMES)
def test_seeds_and_small_changes_of_them_raise_nothing_of_others(name: str) -> None:
    seeds = sorted((CORPUS / name).iterdir(), key=lambda path: path.name)
    each = CHANGES.get(name, 800) // len(seeds) + 1
    for path in [*seeds, Path()]:
        data = path.read_bytes() if path.is_file() else b""
        random_ = random.Random(f"{name}/{path.name}")
        for mutant in [data, *(changed(data, random_) for _ in range(each))]:
            TARGETS[name](mutant)
