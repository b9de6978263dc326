"""The same round with plain float32, for comparison only: nothing is encrypted, noised, checked or logged.

`python -m tools.round_plain coordinator DIR --silos N` serves with a founded coordinator's certificates; `... silo DIR
--address HOST:PORT --seconds S --parameters D` is an enrolled silo. Transport is production's: TLS 1.3 with client
certificates, the same servicer, link and parts; bytes go to disk and are hashed on both sides, as in production.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np

from coordinator import home
from coordinator.authority import Authority
from coordinator.blobs import Blobs
from coordinator.errors import RejectedMessage
from coordinator.server import Server, serve
from crypto.quantise import model_view
from protos.transport import PART_BYTES, parts
from silo.runner import open_link
from silo.workspace import Workspace
from tools.round_model import noise

RESULT_FILE = "plain.json"


class Averaging:
    """A `RoundService` that averages the vectors of `silos` silos. Its records: "go", and the digest of the mean."""

    def __init__(self, directory: Path, silos: int) -> None:
        self._blobs, self._silos, self._result = Blobs(directory / "plain"), silos, directory / RESULT_FILE
        self._grown = threading.Condition()
        self._present: set[str] = set()
        self._sent: dict[str, str] = {}
        self._done: set[str] = set()
        self._records: list[bytes] = []
        self._began = 0.0

    def tail(self, peer: str, size: int) -> tuple[list[bytes], bytes]:
        """Training begins when everybody has asked."""
        with self._grown:
            self._present.add(peer)
            if len(self._present) == self._silos and not self._records:
                self._began = time.monotonic()
                self._append(b"go")
            return self._records[size:], b"-"

    def wait(self, size: int, seconds: float) -> None:
        """Until there are more than `size` records."""
        with self._grown:
            self._grown.wait_for(lambda: len(self._records) > size, timeout=seconds)

    def upload(self, peer: str, digest: str, chunks: Iterator[bytes]) -> None:
        """Keep a vector; the last one makes the mean."""
        self._blobs.write(digest, chunks, leaf=None, limit=1 << 30)
        with self._grown:
            self._sent[peer] = digest
            if len(self._sent) == self._silos:
                self._append(self._blobs.add(self._mean(), leaf=None, limit=1 << 30).encode())

    def download(self, peer: str, digest: str) -> Iterator[bytes]:
        """The mean."""
        return self._blobs.read(digest, PART_BYTES)

    def submit(self, peer: str, message: bytes) -> tuple[str, ...]:
        """A silo has the mean on its disk."""
        with self._grown:
            self._done.add(peer)
            if len(self._done) == self._silos:
                self._result.write_text(json.dumps({"seconds": time.monotonic() - self._began}))
        return ()

    def tick(self) -> None:
        """Nothing is due by the clock."""

    def _mean(self) -> Iterator[bytes]:
        streams = [self._blobs.read(digest, PART_BYTES) for digest in self._sent.values()]
        for pieces in zip(*streams, strict=True):
            total = sum(np.frombuffer(piece, dtype="<f4") for piece in pieces)
            yield (total / np.float32(self._silos)).astype("<f4").tobytes()

    def _append(self, record: bytes) -> None:
        self._records.append(record)
        self._grown.notify_all()


def coordinator(directory: Path, silos: int) -> None:
    """Serve until SIGTERM."""

    def refuse(request: object) -> NoReturn:
        raise RejectedMessage("nobody enrols here")

    service = Averaging(directory, silos)
    authority = Authority.load(directory, home.read_config(directory).federation)
    server = Server(service, authority, refuse, host="127.0.0.1", port=0, enrol_port=0)
    serve(directory, server, service, lambda facts: None, "127.0.0.1")


def silo(directory: Path, address: str, seconds: float, parameters: int) -> None:
    """One round."""
    link, workspace = open_link(directory, address), Workspace(directory)
    while not link.tail(0, 20.0)[0]:
        pass
    time.sleep(seconds)
    data = model_view(noise(parameters, 0.01))
    link.upload(hashlib.sha256(data).hexdigest(), list(parts(bytes(data))))
    records: list[bytes] = []
    while len(records) < 2:
        records = link.tail(0, 0.0)[0] if len(link.tail(1, 20.0)[0]) else []
    mean = records[1].decode()
    if not workspace.fetch_model(mean, link.download(mean), parameters):
        raise SystemExit("the coordinator handed out another mean")
    link.submit(b"done")
    link.close()


def main() -> None:
    """Be the coordinator or a silo."""
    parser = argparse.ArgumentParser(description="a round of plain averaging")
    parser.add_argument("role", choices=("coordinator", "silo"))
    parser.add_argument("directory", type=Path)
    parser.add_argument("--silos", type=int, default=0)
    parser.add_argument("--address", default="")
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--parameters", type=int, default=0)
    options = parser.parse_args()
    if options.role == "coordinator":
        coordinator(options.directory, options.silos)
    else:
        silo(options.directory, options.address, options.seconds, options.parameters)


if __name__ == "__main__":
    main()
