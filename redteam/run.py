"""One scenario through the machines of production, and what came of it: a row of plain numbers."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from audit.history import History, RoundView
from audit.searches import newest_clean
from redteam import arguments
from redteam.errors import BadScenario, Endless
from redteam.measured import Row, SiloRow, mean_of, skews
from redteam.meter import Meter
from redteam.scenario import Scenario
from redteam.shared import Reader
from redteam.shared_search import shared_searcher
from redteam.simulator import Simulation
from redteam.world import World, build
from silo.data import Records
from silo.trainer import Trainer, trainer_for

MEMORY = Path("/dev/shm")  # noqa: S108 (a private directory is made in it)
"""Where there is a file system in memory, stores lie on it: every fsync of production is made and costs nothing."""
_TURNS_A_ROUND = 40


def run(scenario: Scenario, data: Path, on_round: Callable[[int, int], None] | None = None) -> Row:
    """Run a scenario to its end.

    Args:
        scenario: what to run.
        data: directory with the data sets.
        on_round: called with closed and all rounds.

    Raises:
        RedTeamError, SiloError: it cannot be run; the message says what to change.
    """
    # One core for each run: a sweep has a process for each core.
    _use_one_core(scenario)
    if scenario.mode == "personal":
        from redteam.personal import run as run_personal  # torch, which linear models do without

        return run_personal(scenario, data, on_round)
    world = build(scenario, data)
    runners: list[_Runner] = []
    rule = arguments.registered(world, lambda: runners[0] if runners else None)
    with tempfile.TemporaryDirectory(dir=_memory(), prefix=_prefix()) as directory, rule:
        runners.append(_Runner(world, Path(directory), on_round))
        return runners[0].run()


class _Runner:
    def __init__(self, world: World, directory: Path, on_round: Callable[[int, int], None] | None) -> None:
        self._world, self._on_round = world, on_round
        self._meter = Meter()
        searcher = shared_searcher()
        seats = {
            name: dataclasses.replace(seat, link=self._meter.link, searcher=seat.searcher or searcher)
            for name, seat in world.seats.items()
        }
        self._simulation = Simulation(
            directory,
            world.task,
            world.model,
            world.policy,
            seats,
            world.entropy,
            root=world.root,
            new_history=Reader(),
            aggregation=world.aggregation,
        )
        self._tests = [_tester(world, part) for part in (world.test, world.triggered) if part is not None]
        labels = {name: own.labels for name, own in world.records.items()}
        self._skews = skews(labels, world.task.layout.classes)
        self._digest = ""
        self._measured: tuple[float, ...] = ()
        self._course: list[tuple[float, ...]] = []
        self._convictions: dict[str, int] = {}

    @property
    def history(self) -> History:
        """The coordinator's."""
        return self._simulation.history

    def run(self) -> Row:
        started = time.perf_counter()
        try:
            try:
                self._simulation.run(self._watch, turns=_TURNS_A_ROUND * (self._world.task.rounds + 5))
            except Endless:
                # Too few silos are left for a quorum: what was reached until then is the result.
                if not self._course:
                    raise
            row = self._row(self.history, time.perf_counter() - started)
        finally:
            self._simulation.close()
        return row

    def _watch(self, history: History) -> bool:
        closed = sum(view.outcome is not None for view in history.rounds)
        while len(self._course) < closed:
            self._course.append(self._measure(history))
            if self._on_round is not None:
                self._on_round(closed, self._world.task.rounds)
        for name in history.convicted:
            self._convictions.setdefault(name, len(history.rounds))
        return False

    def _measure(self, history: History) -> tuple[float, ...]:
        if history.model != self._digest:
            model = self.model(history.model)
            self._measured = tuple(_share_right(test, model) for test in self._tests)
            self._digest = history.model
        return self._measured

    def model(self, digest: str) -> NDArray[np.float32]:
        """The global model of that digest, which is the current one or that of the round before, float32[d]."""
        for session in self._simulation.sessions.values():
            model = session.workspace.load_model(self._world.task.layout.size, digest)
            if model is not None:
                return model
        raise RuntimeError("no silo holds the model")

    def _row(self, history: History, seconds: float) -> Row:
        views = [view for view in history.rounds if view.outcome is not None]
        _require_decisions(views)
        model = self.model(history.model)
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
            released=_released(history),
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
            convicted=self._convictions.get(name),
            effective=mean_of(weights),
            accuracy=_share_right(_tester(self._world, self._world.records[name]), model),
            records=len(self._world.records[name].labels),
            skew=self._skews[name],
        )


def _require_decisions(views: list[RoundView]) -> None:
    """A defence that cannot judge this model makes every round void, which is no measurement of anything."""
    reasons = {view.outcome.reason for view in views if view.outcome is not None and view.decision is None}
    if reasons and all(view.decision is None for view in views):
        raise BadScenario(f"scenario: every round is void, the first one for this: {sorted(reasons)[0]}")


def _released(history: History) -> int | None:
    if history.genesis.task.search is None:
        return None
    clean = newest_clean(history)
    return clean.search.round if clean else 0


def _rounds(views: list[RoundView], name: str, verdict: str) -> tuple[int, ...]:
    return tuple(
        view.plan.round
        for view in views
        if view.decision is not None
        and any(one.silo == name and one.verdict == verdict for one in view.decision.judgements)
    )


def _tester(world: World, records: Records) -> Trainer:
    return trainer_for(world.task, records, world.entropy)


def _share_right(tester: Trainer, model: NDArray[np.float32]) -> float:
    correct, total = tester.evaluate(model)
    return correct / total


def remove_files() -> None:
    """Remove what this process's run keeps, for a process that ends in the middle of it."""
    above = Path(_memory() or tempfile.gettempdir())
    # More than once, as the run may write meanwhile.
    for _ in range(100):
        for directory in (found := list(above.glob(f"{_prefix()}*"))):
            shutil.rmtree(directory, ignore_errors=True)
        if not found:
            break


def _prefix() -> str:
    return f"concordat-redteam-{os.getpid()}-"


def _memory() -> Path | None:
    return MEMORY if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) else None


def _use_one_core(scenario: Scenario) -> None:
    if scenario.model.kind != "linear":
        import torch

        torch.set_num_threads(1)
