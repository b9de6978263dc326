"""A simulation that goes on when a party stops, so that tests can look at what the others do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from audit import turns
from audit.files import LogFile
from audit.history import History
from coordinator.blobs import Blobs
from coordinator.errors import CoordinatorError
from coordinator.service import Service
from coordinator.store import Store
from crypto.secure_sum import PackedCkks, SiloSum
from protos.codec import unpack
from protos.messages import Signed
from protos.records import Outcome
from protos.rounds import Phase
from redteam.simulator import DirectLink, Seat, Simulation
from silo.errors import SiloError
from silo.link import Unreachable
from silo.session import Progress
from tests.integration.federation import SILOS, policy, records, task

_join = lru_cache(maxsize=64)(SiloSum)


class OneKey(PackedCkks):
    """The real scheme; silos of one process that hold the same secrets share the key they make of them."""

    def join(self, secret: bytes) -> SiloSum:
        return _join(secret)


class WatchedLink(DirectLink):
    """Keeps what it carried, and fails while `down`."""

    def __init__(self, service: Service, peer: str) -> None:
        super().__init__(service, peer)
        self.down = False
        self.sent: list[bytes] = []

    def tail(self, size: int, wait_s: float) -> tuple[list[bytes], bytes]:
        self._require_up()
        return super().tail(size, wait_s)

    def submit(self, message: bytes) -> tuple[str, ...]:
        self._require_up()
        self.sent.append(message)
        return super().submit(message)

    def upload(self, digest: str, chunks: Iterable[bytes]) -> None:
        self._require_up()
        super().upload(digest, chunks)

    def download(self, digest: str) -> Iterator[bytes]:
        self._require_up()
        return super().download(digest)

    def kinds(self) -> list[str]:
        """Kinds of the messages sent, in order."""
        return [unpack(Signed, message).body["kind"].split("/")[1] for message in self.sent]

    def _require_up(self) -> None:
        if self.down:
            raise Unreachable("the cable is out")


class Bench(Simulation):
    """Five silos; `errors` collects what each party raised, under its name or `coordinator`."""

    def __init__(
        self,
        directory: Path,
        seats: Mapping[str, Seat],
        service: type[Service],
        toy: Any,
        rules: Any,
        root: bytes | None = None,
    ) -> None:
        self.errors: dict[str, list[str]] = {}
        self.progress: dict[str, list[Progress]] = {}
        self._service_type = service
        # At the usual 0.01 an honest silo may be excluded by chance, which is not what these tests are about.
        super().__init__(directory, *toy, policy(**({"fdr_micro": 1} | rules)), seats, root=root)

    def open_service(self) -> Service:
        store = Store(f"sqlite:///{self.directory / 'coordinator.db'}")
        blobs = Blobs(self.directory / "blobs")
        return self._service_type(store, blobs, self.log_key, self.clock, LogFile(self.directory / "log.jsonl"))

    def turn(self) -> dict[str, Progress]:
        size = self.history.chain.size
        self._tick()
        steps = {name: self._step(name) for name in list(self.sessions)}
        self._tick()
        moved = self.history.chain.size > size or any(one and (one.news or one.done) for one in steps.values())
        self.clock.advance(1 if moved else 10_000)
        return {name: step for name, step in steps.items() if step}

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.turn()

    def until(self, condition: Callable[[History], bool]) -> History:
        """Turn until the coordinator's log fulfils the condition."""
        return self.run(condition, turns=120)

    def restart_service(self) -> None:
        """kill -9 of the coordinator: only the disk stays."""
        self.service = self.open_service()
        for name, session in self.sessions.items():
            for link in (session.link, session._desk.link if session._desk else session.link):
                assert isinstance(link, DirectLink), name
                link.service = self.service

    def restart(self, name: str) -> None:
        """kill -9 of a silo: only the disk stays."""
        self.sessions[name].close()
        self.sessions[name] = self.open_session(name)

    def link(self, name: str) -> Any:
        return self.sessions[name].link

    def said(self, name: str) -> str:
        """All errors of a party in one text."""
        return " | ".join(self.errors.get(name, []))

    def _tick(self) -> None:
        try:
            self.service.tick()
        except CoordinatorError as error:
            self.errors.setdefault("coordinator", []).append(str(error))

    def _step(self, name: str) -> Progress | None:
        try:
            step = self.sessions[name].step(0.0)
        except SiloError as error:
            self.errors.setdefault(name, []).append(f"{type(error).__name__}: {error}")
            return None
        self.progress.setdefault(name, []).append(step)
        return step


def seat(index: int, **changes: Any) -> Seat:
    """An honest seat, but for `changes`."""
    return Seat(records(index), **({"scheme": OneKey, "link": WatchedLink} | changes))


def bench(
    directory: Path,
    liars: Mapping[str, dict[str, Any]] | None = None,
    *,
    service: type[Service] = Service,
    rounds: int = 2,
    folds: int = 2,
    toy: Any = None,
    silos: tuple[str, ...] = SILOS,
    root: bytes | None = None,
    **rules: Any,
) -> Bench:
    """Honest silos, but for what `liars` changes of their seats."""
    seats = {name: seat(index, **dict(liars or {}).get(name, {})) for index, name in enumerate(silos)}
    return Bench(directory, seats, service, toy or task(rounds, folds), rules, root)


def where_drawn(directory: Path, make: Callable[[Path], Bench], silo: str) -> Bench:
    """A federation in its first checking phase, in which `silo` was drawn as a checker (1 in 256 times it is not)."""
    for attempt in range(6):
        federation = make(directory / str(attempt))
        federation.until(lambda history: history.phase is Phase.CHECKING)
        if silo in turns.awaited(federation.history):
            return federation
    raise AssertionError(f"{silo} is never drawn")


def outcomes(history: History) -> list[Outcome]:
    """Outcomes of the closed rounds."""
    return [view.outcome for view in history.rounds if view.outcome is not None]


def in_phase(phase: Phase) -> Callable[[History], bool]:
    """The open step is of this phase."""
    return lambda history: history.phase is phase


def closed(count: int) -> Callable[[History], bool]:
    """That many rounds are closed."""
    return lambda history: len(outcomes(history)) >= count


def replay(simulation: Simulation) -> History:
    """A fresh history from the coordinator's log file."""
    history = History()
    for data in LogFile(simulation.directory / "log.jsonl").records():
        history.apply(data)
    return history
