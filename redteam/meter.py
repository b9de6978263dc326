"""How much silos and coordinator say to each other in a simulation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from coordinator.service import Service
from redteam.simulator import DirectLink


@dataclass
class Meter:
    """Counts what links carry."""

    carried: int = field(default=0)

    def link(self, service: Service, peer: str) -> MeteredLink:
        """For `Seat.link`."""
        return MeteredLink(service, peer, self)


class MeteredLink(DirectLink):
    """A `DirectLink` whose bytes are counted."""

    def __init__(self, service: Service, peer: str, meter: Meter) -> None:
        super().__init__(service, peer)
        self._meter = meter

    def tail(self, size: int, wait_s: float) -> tuple[list[bytes], bytes]:
        """See `Link`."""
        records, head = super().tail(size, wait_s)
        self._meter.carried += sum(map(len, records)) + (len(head) if records else 0)
        return records, head

    def submit(self, message: bytes) -> tuple[str, ...]:
        """See `Link`."""
        self._meter.carried += len(message)
        return super().submit(message)

    def upload(self, digest: str, chunks: Iterable[bytes]) -> None:
        """See `Link`."""
        super().upload(digest, self._counted(chunks))

    def download(self, digest: str) -> Iterator[bytes]:
        """See `Link`."""
        return self._counted(super().download(digest))

    def _counted(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._meter.carried += len(chunk)
            yield chunk
