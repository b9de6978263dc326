"""A whole federation in one process: the coordinator's service and the silos' sessions of production, joined by calls.

There is no second round here: the same machines, log, cryptography and decisions run as between processes; only gRPC
is left out, and the clock is a counter that jumps to the next deadline when nobody has anything to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from audit.files import LogFile
from audit.history import History
from coordinator.blobs import Blobs
from coordinator.errors import CoordinatorError, StoreError
from coordinator.service import Service
from coordinator.store import Store
from crypto.identity import ExchangeKey, SigningKey, fingerprint
from crypto.scheme import SumScheme
from crypto.secure_sum import PackedCkks
from protos.canonical import digest as sha256
from protos.records import Genesis, Outcome
from protos.rounds import Phase
from protos.task import Policy, Task
from redteam.aggregated import Aggregated
from redteam.errors import Endless
from silo.data import Records
from silo.desk import Desk, LocalPolicy
from silo.entropy import Entropy, OsEntropy
from silo.identity import SiloIdentity
from silo.ledger import Ledger
from silo.link import Link, Refused, Unreachable
from silo.searcher import Searcher
from silo.searching import searcher_of
from silo.session import Halted, Progress, Session
from silo.trainer import Trainer, trainer_for
from silo.workspace import Workspace

FEDERATION = "simulated"
START_MS = 1_700_000_000_000


class Clock:
    """Milliseconds that pass only when told to."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, milliseconds: int) -> None:
        """Let time pass."""
        self.now_ms += milliseconds


class DirectLink:
    """`Link` to a service in the same process."""

    def __init__(self, service: Service, peer: str) -> None:
        self.service, self.peer = service, peer

    def tail(self, size: int, wait_s: float) -> tuple[list[bytes], bytes]:
        """See `Link`; never waits."""
        with _translated():
            return self.service.tail(self.peer, size)

    def submit(self, message: bytes) -> tuple[str, ...]:
        """See `Link`."""
        with _translated():
            return self.service.submit(self.peer, message)

    def upload(self, digest: str, chunks: Iterable[bytes]) -> None:
        """See `Link`."""
        with _translated():
            self.service.upload(self.peer, digest, iter(chunks))

    def download(self, digest: str) -> Iterator[bytes]:
        """See `Link`."""
        with _translated():
            return self.service.download(self.peer, digest)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        raise Unreachable(str(error)) from error
    except CoordinatorError as error:
        raise Refused(str(error)) from error


@dataclass(frozen=True)
class Seat:
    """One silo of a simulation; what is given replaces the honest part where it attacks or fails.

    `searcher` None means the task's own, and is asked for nothing where the task has no search. `follow` is given the
    log as it stands at each call: for a trainer that reads it, as an honest silo does in its duties. `resumes`: what
    halts the silo halts it for no longer than a turn, as with a liar whose own tables clear whom all others' convict.
    """

    records: Records
    trainer: Callable[[Task, Records, Entropy], Trainer] = trainer_for
    scheme: Callable[[], SumScheme] = PackedCkks
    link: Callable[[Service, str], Link] = DirectLink
    local: LocalPolicy = field(default_factory=LocalPolicy)
    searcher: Callable[[Task], Searcher] | None = None
    follow: Callable[[Callable[[], History]], None] | None = None
    resumes: bool = False


class Simulation:
    """A coordinator and its silos below `directory`; `new_history` makes what each silo reads the log into.

    `aggregation` makes what silos apply in the place of a checked sum, if it is given.
    """

    def __init__(
        self,
        directory: Path,
        task: Task,
        initial_model: bytes,
        policy: Policy,
        seats: Mapping[str, Seat],
        entropy: Entropy | None = None,
        *,
        root: bytes | None = None,
        new_history: Callable[[], History] = History,
        aggregation: Aggregated | None = None,
    ) -> None:
        self._new_history, self._aggregation = new_history, aggregation
        self.directory, self.task, self.seats = directory, task, dict(seats)
        self.clock = Clock()
        self.entropy: Entropy = entropy or OsEntropy()
        directory.mkdir(parents=True, exist_ok=True)
        self.log_key = SigningKey.generate()
        self._stores: list[Store] = []
        self.service = self.open_service()
        genesis = Genesis(FEDERATION, self.log_key.public, sha256(b"no certificates here"), task, policy)
        self.service.found(genesis, initial_model, root)
        self.identities = {name: self._identity(name) for name in self.seats}
        for name, identity in self.identities.items():
            self.service.enrol(name, identity.signing.public, identity.exchange.public)
        self.sessions = {name: self.open_session(name) for name in self.seats}

    def open_service(self) -> Service:
        """The coordinator as it starts (again) from its directory."""
        store = Store(f"sqlite:///{self.directory / 'coordinator.db'}")
        self._stores.append(store)
        mirror = LogFile(self.directory / "log.jsonl")
        return Service(store, Blobs(self.directory / "blobs"), self.log_key, self.clock, mirror)

    def open_session(self, name: str) -> Session:
        """A silo as it starts (again) from its directory."""
        seat = self.seats[name]
        if seat.follow is not None:
            seat.follow(lambda: self.history)
        directory = self.directory / name
        directory.mkdir(parents=True, exist_ok=True)
        link = seat.link(self.service, name)
        return Session(directory, self.identities[name], link, self._desk_for(name, seat), self._new_history)

    @property
    def history(self) -> History:
        """The coordinator's view of the log."""
        return self.service.history

    def turn(self) -> dict[str, Progress]:
        """One step of the coordinator and of every silo; time jumps past the deadline where nobody moved."""
        self.service.tick()
        size = self.history.chain.size
        progress = {name: self._step(name) for name in self.sessions}
        self.service.tick()
        moved = self.history.chain.size > size or any(one.news or one.done for one in progress.values())
        self.clock.advance(1 if moved else 10_000)
        return progress

    def run(self, until: Callable[[History], bool] | None = None, turns: int = 10_000) -> History:
        """Start training and turn until the last round is done, or `until` says so.

        Raises:
            Endless: that does not happen within `turns`.
        """
        if self.history.phase is Phase.ENROLLING:
            self.service.start()
        for _ in range(turns):
            self.turn()
            if until is not None and until(self.history):
                return self.history
            if self.history.phase is Phase.FINISHED:
                self.turn()
                return self.history
        raise Endless(
            f"the simulation does not end: after {turns} turns its phase is {self.history.phase.value}; take more "
            "silos, or a lower privacy minimum, so that a quorum is left"
        )

    def run_rounds(self, count: int) -> list[Outcome]:
        """Run until `count` rounds are closed; their outcomes."""
        history = self.run(lambda state: sum(view.outcome is not None for view in state.rounds) >= count)
        return [view.outcome for view in history.rounds if view.outcome is not None]

    def close(self) -> None:
        """Close all files."""
        for session in self.sessions.values():
            session.close()
        for store in self._stores:
            store.close()

    def _step(self, name: str) -> Progress:
        session = self.sessions[name]
        try:
            return session.step(0.0)
        except Halted:
            if not self.seats[name].resumes:
                raise
        session.resume()
        return session.step(0.0)

    def _identity(self, name: str) -> SiloIdentity:
        return SiloIdentity(name, FEDERATION, self.log_key.public, SigningKey.generate(), ExchangeKey.generate())

    def _approved(self) -> dict[str, str]:
        return {
            name: fingerprint(name, identity.signing.public, identity.exchange.public)
            for name, identity in self.identities.items()
        }

    def _desk_for(self, name: str, seat: Seat) -> Callable[[History, Workspace], Desk]:
        rule = self._aggregation

        def make(history: History, workspace: Workspace) -> Desk:
            ledger = Ledger(workspace.directory / "ledger.db", history.genesis_digest, self.task.budget)
            return Desk(
                identity=self.identities[name],
                link=seat.link(self.service, name),
                workspace=workspace,
                ledger=ledger,
                trainer=seat.trainer(self.task, seat.records, self.entropy),
                labels=seat.records.labels,
                scheme=seat.scheme(),
                entropy=self.entropy,
                approved=self._approved,
                policy=seat.local,
                searcher=searcher_of(self.task, seat.searcher),
                combine=None if rule is None else lambda view, _: rule.of(self.sessions, view),
            )

        return make
