"""A silo of production in the benchmark of a round: the same session, keys and messages, another trainer.

`python -m tools.round_silo DIR --data FILE --seconds S --out FILE`. Its link is production's and is counted; when it
ends, `FILE` holds its idle memory and every transfer.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from silo.desk import LocalPolicy
from silo.errors import SiloError
from silo.link import Link
from silo.runner import Work, run
from tools.round_model import SleepingTrainer


class CountedLink:
    """A `Link` that notes when how many bytes were sent and received."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.transfers: list[tuple[int, int, int]] = []
        """Milliseconds since 1970, bytes sent, bytes received."""

    def tail(self, size: int, wait_s: float) -> tuple[list[bytes], bytes]:
        """See `Link.tail`."""
        records, head = self._link.tail(size, wait_s)
        self._note(0, sum(map(len, records)) + len(head))
        return records, head

    def submit(self, message: bytes) -> tuple[str, ...]:
        """See `Link.submit`."""
        wanted = self._link.submit(message)
        self._note(len(message), 0)
        return wanted

    def upload(self, digest: str, chunks: Iterable[bytes]) -> None:
        """See `Link.upload`."""
        self._note(sum(map(len, chunks)), 0)
        self._link.upload(digest, chunks)

    def download(self, digest: str) -> Iterator[bytes]:
        """See `Link.download`."""
        for piece in self._link.download(digest):
            self._note(0, len(piece))
            yield piece

    def _note(self, sent: int, received: int) -> None:
        self.transfers.append((time.time_ns() // 1_000_000, sent, received))


def memory_kb(name: str, process: int | str = "self") -> int:
    """A line of /proc/PID/status, such as VmRSS or VmHWM, in kB; 0 where the process has gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def main() -> None:
    """Run an enrolled silo until training is done."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("directory", type=Path)
    for name, kind in (("--data", Path), ("--seconds", float), ("--out", Path)):
        parser.add_argument(name, type=kind, required=True)
    options = parser.parse_args()
    links: list[CountedLink] = []
    facts: dict[str, Any] = {}

    def counted(link: Link) -> Link:
        links.append(CountedLink(link))
        return links[0]

    def report(session: Any, progress: Any) -> None:
        print(progress, f"{memory_kb('VmRSS') // 1024} MB now, {memory_kb('VmHWM') // 1024} MB at most", flush=True)
        if progress.done == "counting":
            # Everything is imported, keys are dealt, and no model has been touched: this is what idling costs.
            facts["idle_kb"] = memory_kb("VmRSS")

    ledger = options.data.with_name(options.data.name + ".ledger")
    work = Work(
        options.directory, options.data, ledger, LocalPolicy(), link=counted,
        trainer=lambda task, records, entropy: SleepingTrainer(options.seconds, task.layout.embedding),
    )  # fmt: skip
    try:
        run(work, report)
    except SiloError as error:
        sys.exit(f"silo: error: {error}")
    facts |= {"peak_kb": memory_kb("VmHWM"), "transfers": links[0].transfers}
    options.out.write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
