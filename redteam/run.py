"""One scenario through the machines of production, and what came of it: a row of plain numbers."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audit.history import History, RoundView
from coordinator.service import Service
from redteam import arguments
from redteam.errors import BadScenario
from redteam.scenario import Scenario
from redteam.shared import Reader
from redteam.simulator import DirectLink, Simulation
from redteam.world import World, build
from silo.data import Records
from silo.trainer import Trainer, trainer_for

MEMORY = Path("/dev/shm")  # noqa: S108 (a private directory is made in it)
"""Where there is a file system in memory, stores lie on it: every fsync of production is made and costs nothing."""
_TURNS_A_ROUND = 40


@dataclass(frozen=True)
class SiloRow:
    """One silo's part.

    Attributes:
        count: its noised record count.
        weights: in units of the total weight, one for each round; 0 where it had none.
        excluded, suspected: rounds with that verdict, from 1.
        convicted: the round that convicted it, or None.
        effective: mean of `weights`.
        accuracy: of the final model on its hold-out.
    """

    name: str
    attacks: bool
    count: int
    weights: tuple[float, ...]
    excluded: tuple[int, ...]
    suspected: tuple[int, ...]
    convicted: int | None
    effective: float
    accuracy: float


@dataclass(frozen=True)
class Row:
    """What a scenario came to. Shares are within 0 and 1; success is None for an untargeted attack or none.

    Attributes:
        accuracy, success: of the final model on test records; success leaves out records of the target class.
        accuracies, successes: after each round.
        silos: sorted by name.
        rounds, void: closed rounds, and how many of them left the old model.
        seconds: of the whole run, on whatever machine it ran.
        carried: bytes between silos and coordinator.
    """

    scenario: dict[str, Any]
    accuracy: float
    success: float | None
    accuracies: tuple[float, ...]
    successes: tuple[float, ...]
    silos: tuple[SiloRow, ...]
    rounds: int
    void: int
    seconds: float
    carried: int

    @property
    def metrics(self) -> dict[str, float]:
        """Single numbers for tables; those that make no sense for this run are absent."""
        honest = [one for one in self.silos if not one.attacks]
        bad = [one for one in self.silos if one.attacks]
        local = np.array([one.accuracy for one in honest])
        found = {
            "accuracy": self.accuracy,
            "worst_silo": float(local.min()),
            "gap": float(local.max() - local.min()),
            "variance": float(local.var()),
            "void": self.void / max(1, self.rounds),
            "honest_excluded": _share(len(one.excluded) for one in honest) / max(1, self.rounds),
            "honest_suspected": _share(len(one.suspected) for one in honest) / max(1, self.rounds),
            "honest_convicted": _share(one.convicted is not None for one in honest),
            "seconds_a_round": self.seconds / max(1, self.rounds),
            "bytes_a_round": self.carried / max(1, self.rounds),
        }
        if bad:
            found["attackers_weight"] = sum(one.effective for one in bad)
            found["attackers_excluded"] = _share(len(one.excluded) for one in bad) / max(1, self.rounds)
            found["attackers_convicted"] = _share(one.convicted is not None for one in bad)
        rounds = sorted(one.convicted for one in bad if one.convicted is not None)
        if rounds:
            found["first_conviction"] = rounds[0]
        if self.success is not None:
            found |= {
                "success": self.success,
                "success_max": max(self.successes),
                "success_mean": _late(self.successes),
            }
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the metrics."""
        return {**dataclasses.asdict(self), "metrics": self.metrics}


def _share(values: Iterable[float]) -> float:
    numbers = [float(value) for value in values]
    return sum(numbers) / len(numbers) if numbers else 0.0


def _late(values: tuple[float, ...]) -> float:
    """Mean over the second half of the rounds, when the model works: the papers' mean over rounds."""
    return _share(values[len(values) // 2 :])


def run(scenario: Scenario, data: Path, on_round: Callable[[int, int], None] | None = None) -> Row:
    """Run a scenario to its end.

    Raises:
        RedTeamError, SiloError: it cannot be run; the message says what to change.

    Args:
        scenario: what to run.
        data: directory with the data sets.
        on_round: called with closed and all rounds.
    """
    # One core for each run: a sweep has a process for each core.
    _use_one_core(scenario)
    world = build(scenario, data)
    runners: list[_Runner] = []
    rule = arguments.registered(scenario.federation.defense, lambda: runners[0].history if runners else None)
    with tempfile.TemporaryDirectory(dir=_memory(), prefix="concordat-redteam-") as directory, rule:
        runners.append(_Runner(world, Path(directory), on_round))
        return runners[0].run()


class _Runner:
    def __init__(self, world: World, directory: Path, on_round: Callable[[int, int], None] | None) -> None:
        self._world, self._on_round = world, on_round
        self._meter = Meter()
        seats = {name: dataclasses.replace(seat, link=self._meter.link) for name, seat in world.seats.items()}
        self._simulation = Simulation(directory, world.task, world.model, world.policy, seats, world.entropy, Reader())
        self._tests = [_tester(world, part) for part in (world.test, world.triggered) if part is not None]
        self._digest = ""
        self._measured: tuple[float, ...] = ()
        self._course: list[tuple[float, ...]] = []

    @property
    def history(self) -> History:
        """The coordinator's."""
        return self._simulation.history

    def run(self) -> Row:
        started = time.perf_counter()
        try:
            history = self._simulation.run(self._watch, turns=_TURNS_A_ROUND * (self._world.task.rounds + 5))
            row = self._row(history, time.perf_counter() - started)
        finally:
            self._simulation.close()
        return row

    def _watch(self, history: History) -> bool:
        closed = sum(view.outcome is not None for view in history.rounds)
        while len(self._course) < closed:
            self._course.append(self._measure(history))
            if self._on_round is not None:
                self._on_round(closed, self._world.task.rounds)
        # The last record ends the run; what follows only tells the silos.
        return closed == self._world.task.rounds

    def _measure(self, history: History) -> tuple[float, ...]:
        if history.model != self._digest:
            model = self._model(history)
            self._measured = tuple(_share_right(test, model) for test in self._tests)
            self._digest = history.model
        return self._measured

    def _model(self, history: History) -> NDArray[np.float32]:
        for session in self._simulation.sessions.values():
            model = session.workspace.load_model(self._world.task.layout.size, history.model)
            if model is not None:
                return model
        raise RuntimeError("no silo holds the current model")

    def _row(self, history: History, seconds: float) -> Row:
        views = [view for view in history.rounds if view.outcome is not None]
        _require_decisions(views)
        model = self._model(history)
        accuracies = tuple(one[0] for one in self._course)
        successes = tuple(one[1] for one in self._course if len(one) > 1)
        return Row(
            scenario=dataclasses.asdict(self._world.scenario),
            accuracy=accuracies[-1],
            success=successes[-1] if successes else None,
            accuracies=accuracies,
            successes=successes,
            silos=tuple(self._silo(name, history, views, model) for name in sorted(self._world.records)),
            rounds=len(views),
            void=sum(view.outcome is not None and view.outcome.result == "void" for view in views),
            seconds=seconds,
            carried=self._meter.carried,
        )

    def _silo(self, name: str, history: History, views: list[RoundView], model: NDArray[np.float32]) -> SiloRow:
        total = self._world.policy.total_weight
        weights = tuple(view.weights.get(name, 0) / total for view in views)
        rounds = {verdict: _rounds(views, name, verdict) for verdict in ("excluded", "suspected")}
        return SiloRow(
            name=name,
            attacks=name in self._world.crew,
            count=history.counts[name].total,
            weights=weights,
            excluded=rounds["excluded"],
            suspected=rounds["suspected"],
            convicted=_conviction(views, name),
            effective=_share(weights),
            accuracy=_share_right(_tester(self._world, self._world.records[name]), model),
        )


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


def _require_decisions(views: list[RoundView]) -> None:
    """A defence that cannot judge this model makes every round void, which is no measurement of anything."""
    reasons = {view.outcome.reason for view in views if view.outcome is not None and view.decision is None}
    if reasons and all(view.decision is None for view in views):
        raise BadScenario(f"scenario: every round is void, the first one for this: {sorted(reasons)[0]}")


def _rounds(views: list[RoundView], name: str, verdict: str) -> tuple[int, ...]:
    return tuple(
        view.plan.round
        for view in views
        if view.decision is not None
        and any(one.silo == name and one.verdict == verdict for one in view.decision.judgements)
    )


def _conviction(views: list[RoundView], name: str) -> int | None:
    for view in views:
        parts = [view.decision.convicted if view.decision else (), view.outcome.convicted if view.outcome else ()]
        if any(one.silo == name for part in parts for one in part):
            return view.plan.round
    return None


def _tester(world: World, records: Records) -> Trainer:
    return trainer_for(world.task, records, world.entropy)


def _share_right(tester: Trainer, model: NDArray[np.float32]) -> float:
    correct, total = tester.evaluate(model)
    return correct / total


def _memory() -> Path | None:
    return MEMORY if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) else None


def _use_one_core(scenario: Scenario) -> None:
    if scenario.model.kind != "linear":
        import torch

        torch.set_num_threads(1)
