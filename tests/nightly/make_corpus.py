"""Writes the seed corpus: what a small federation with a liar and a false sum says, and small values of each form.

`python -m tests.nightly.make_corpus` replaces tests/nightly/corpus; one seed for each kind of message and record.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from audit import plans
from audit.history import History
from crypto import quantise, ring, sealing, secure_sum, tags
from protos import canonical
from protos.codec import decode, encode, pack, unpack
from protos.invitation import Invitation, write_token
from protos.messages import Adoption, Evaluation, Signed
from protos.records import Finish, Record, SignedHead, body_class
from tests.integration.bench import Bench, bench, closed
from tests.integration.finds import BOOST, searching, seat_changes
from tests.integration.liars import false_tag, protecting
from tests.integration.test_lying_coordinator import FalseSum, doubles_one
from tests.nightly.fuzz import CORPUS
from tests.nightly.targets import CHUNKS, FOLDS, LOG_KEY, _packing, classes

MOST_BYTES = 12_000


def federation(directory: Path) -> Bench:
    """A federation whose log holds most kinds of record."""
    service = type("False_", (FalseSum,), {"lie": staticmethod(doubles_one)})
    made = bench(directory, {"bob": protecting(false_tag)}, rounds=1, service=service)
    made.until(closed(1))
    return made


def searched(directory: Path) -> Bench:
    """A federation whose log holds the records of a clean search and of one that found something.

    Its rounds keep the task's step: one that follows the first, honest round would cut what the liar sends.
    """
    made = searching(directory, {"bob": seat_changes(BOOST, first=2)}, rounds=2, alike=True)
    with mock.patch.object(plans, "step_of", lambda history, training: history.genesis.task.step_log2):
        made.run()
    return made


def parts(value: Any) -> list[Any]:
    """A message and all messages within it."""
    found = [value]
    for item in vars(value).values() if hasattr(value, "__dict__") else ():
        for inner in item if isinstance(item, tuple) else (item,):
            if hasattr(inner, "__dataclass_fields__"):
                found += parts(inner)
    return found


def messages(history: History, log: list[bytes]) -> dict[str, bytes]:
    """Class names to the smallest packed message of the class in a log."""
    smallest: dict[str, bytes] = {}
    kinds = {cls.KIND: cls for cls in classes() if hasattr(cls, "KIND")}
    for data in log:
        record = unpack(Record, data)
        everything = [record, *parts(decode(body_class(record.body), record.body))]
        everything += [decode(kinds[m.body["kind"]], m.body) for m in everything if isinstance(m, Signed)]
        for message in [inner for one in everything for inner in parts(one)]:
            name, packed = type(message).__name__, pack(message)
            if len(packed) < len(smallest.get(name, b"x" * MOST_BYTES)):
                smallest[name] = packed
    return smallest


def write(target: str, name: str, data: bytes) -> None:
    """One seed."""
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def main() -> None:
    shutil.rmtree(CORPUS, ignore_errors=True)
    with tempfile.TemporaryDirectory() as directory:
        made = federation(Path(directory))
        log, (_, head) = made.service._records, made.service.tail("ada", 0)
        names = [cls.__name__ for cls in classes()]
        both = [*log, *searched(Path(directory) / "searched").service._records]
        found = messages(made.history, both)
        signed = unpack(SignedHead, head)
        adoption = Adoption("simulated", "a" * 64, "b" * 64, "c" * 64, Evaluation(30, 40))
        for extra in (signed, signed.head, adoption, Evaluation(3, 4), Finish("d" * 64, 9)):
            found[type(extra).__name__] = pack(extra)
        for name, packed in sorted(found.items()):
            write("message", name.lower(), bytes([names.index(name)]) + packed)
            if len(packed) < 1000:
                write("canonical", name.lower(), packed)
        write("record", "genesis", log[0])
        write("record", "second", log[1])
    write("head", "signed", head)
    write("canonical", "kinds", canonical.dumps([None, True, -1, 2**53 - 1, "\u20ac\n", {"a": {}, "b": []}]))
    invitation = Invitation("ada", "ab" * 32, "127.0.0.1:5000", b"\x30\x00", LOG_KEY, "simulated", 10**12)
    write("invitation", "token", write_token(invitation).encode())
    write("message", "invitation", bytes([names.index("Invitation")]) + canonical.dumps(encode(invitation)))
    write("roster", "two", json.dumps({"ada": "ab" * 32, "bob": "CD " * 31 + "CD"}).encode())
    write("model", "five", quantise.model_bytes(np.array([0, 1, -1, 1e-30, 3e38], np.float32)))
    write("secret", "dealt", secure_sum.deal("simulated", 1))
    write("sealed", "model", sealing.seal_model(b"model", b"s" * 32, round=1, digest=canonical.digest(b"model")))
    write("tags", "seventeen", b"s" * tags.SALT_BYTES + np.arange(CHUNKS, dtype="<u8").tobytes())
    write("sketch", "small", bytes(4 * (FOLDS * _packing().width + _packing().output_size)))
    write("chunk", "zero", bytes(64))
    write("chunk", "modulus", ring.Q.to_bytes(8, "little"))


if __name__ == "__main__":
    main()
