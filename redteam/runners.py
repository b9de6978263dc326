"""Where the cells of a sweep run: in this process, in worker processes, or on a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from redteam.errors import SweepFailed
from redteam.scenario import Scenario
from redteam.sweep import Cell, Result, Runner

_MOST_DEATHS = 5


def run_cell(scenario: Scenario, data: Path) -> dict[str, Any]:
    """One scenario as plain values; what a worker does."""
    from redteam.run import run

    return run(scenario, data).to_json()


def here(cells: Sequence[Cell], data: Path) -> Iterator[Result]:
    """`Runner` of this process."""
    for cell in cells:
        try:
            yield cell, run_cell(cell.scenario, data)
        except Exception as error:
            yield cell, error


def processes(workers: int) -> Runner:
    """`Runner` of that many worker processes; cells of a worker that dies are run by another one.

    Raises (from the runner):
        SweepFailed: workers die again and again.
    """

    def runner(cells: Sequence[Cell], data: Path) -> Iterator[Result]:
        left, deaths = list(cells), 0
        while left:
            done: set[str] = set()
            try:
                for cell, result in _pooled(left, data, workers):
                    done.add(cell.scenario.digest)
                    yield cell, result
            except BrokenProcessPool:
                deaths += 1
                if deaths >= _MOST_DEATHS:
                    raise SweepFailed("worker processes die again and again: is memory short? use fewer") from None
            left = [cell for cell in left if cell.scenario.digest not in done]

    return runner


def _pooled(cells: Sequence[Cell], data: Path, workers: int) -> Iterator[Result]:
    # Never forked: torch has threads. The environment makes each worker use one core.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_the_sweep) as pool:
        waiting: dict[Future[dict[str, Any]], Cell] = {pool.submit(run_cell, c.scenario, data): c for c in cells}
        try:
            while waiting:
                finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    error = future.exception()
                    if isinstance(error, BrokenProcessPool):
                        raise error
                    cell = waiting.pop(future)
                    yield cell, error if isinstance(error, Exception) else future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _end_with_the_sweep() -> None:
    """In a worker: end when the process that started it does, however that ends; a cell may take ten minutes.

    What its run keeps in memory, up to a gigabyte, goes too.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        from redteam.run import remove_files  # not before a cell needs it: torch takes seconds

        remove_files()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def ray_cluster(address: str) -> Runner:
    """`Runner` of a Ray cluster; `local` starts one on this machine.

    Its workers need this package, and the data at the same absolute path: each machine has its own working directory.

    Raises (from the runner):
        SweepFailed: Ray is not installed or does not answer.
    """

    def runner(cells: Sequence[Cell], data: Path) -> Iterator[Result]:
        try:
            import ray
        except ImportError as error:
            raise SweepFailed("--ray needs Ray: install concordat[ray]") from error
        try:
            ray.init(address=None if address == "local" else address, log_to_driver=False, include_dashboard=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise SweepFailed(f"no Ray cluster answers at {address}: {error}") from error
        try:
            remote = ray.remote(num_cpus=1, max_retries=3)(run_cell)
            waiting = {remote.remote(cell.scenario, data.absolute()): cell for cell in cells}
            while waiting:
                finished, _ = ray.wait(list(waiting), num_returns=1)
                cell = waiting.pop(finished[0])
                try:
                    yield cell, ray.get(finished[0])
                except Exception as error:
                    yield cell, error
        finally:
            ray.shutdown()

    return runner
