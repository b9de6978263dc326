"""Benchmark of a round: `python -m tools.bench_round [--silos N] [--seconds S]` (`make bench-round`).

A coordinator and five silos, each a process of production over gRPC with mTLS on loopback, hold rounds of a model of
ResNet-18's layout; training sleeps (`tools.round_model`). Then the same processes hold a round of plain float32
(`tools.round_plain`), for comparison. All parties share this machine's cores; in a deployment each has its own.

- *seconds*: of the last round, between the records of its log; the first one starts helper processes and draws the
  permutation. A phase ends when the coordinator has written the record that ends it.
- *bytes*: what one silo sent and received in that round, counted at its link, the mean over silos.
- *memory*: the largest VmHWM of any silo, less what it has when it has joined and seen no model; the coordinator's
  VmHWM as it is. Over all rounds. A silo's helper process (one for each further core) has a row of its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from protos.codec import pack
from protos.task import Task
from tools.bench_crypto import machine
from tools.processes import COORDINATOR, SILO, CommandFailed, Party, call, facts, log_kinds, wait_for
from tools.round_model import CLASSES, INPUTS, RECORDS, make_task
from tools.round_plain import RESULT_FILE
from tools.round_silo import memory_kb

OUT = Path("build/bench/round.json")
GOAL_RATIO, GOAL_COORDINATOR_MB = 1.3, 400.0
GOAL_SILO_MODELS, GOAL_SILO_MB = 3.0, 64.0
MB = 1e6
_POLL_S = 0.2
_PHASES = (
    ("train, quantise, encrypt, commit", "plan", "challenge"),
    ("upload, sketch, fold", "challenge", "openings"),
    ("check folds, decide", "openings", "decision"),
    ("sum", "decision", "sum"),
    ("fetch and open the sum, adopt", "sum", "outcome"),
)
_POLICY = """\
quorum_minimum = 3
privacy_minimum = 3
floor = 0.5
cap = 2
fdr = 0.000001
defense = "guard"

[deadlines]
commit_s = 900
open_s = 900
check_s = 900
verify_s = 900
"""


@dataclass(frozen=True)
class Case:
    """What is measured. `width` 64 is ResNet-18; `seconds` of training in each round."""

    silos: int
    width: int
    rounds: int
    seconds: float


@dataclass(frozen=True)
class Row:
    """A line of the result."""

    metric: str
    measured: float
    goal: float | None
    unit: str

    @property
    def met(self) -> bool | None:
        """Whether the figure meets the goal; None without one."""
        return None if self.goal is None else self.measured <= self.goal


class Bench:
    """The parties below one directory."""

    def __init__(self, case: Case, directory: Path) -> None:
        self.case, self.directory = case, directory
        self.coordinator = directory / "coordinator"
        self.names = [f"silo-{number}" for number in range(case.silos)]
        self.parties: dict[str, Party] = {}
        self.peaks: dict[str, int] = {}
        """Largest VmHWM seen, in kB, by party; `NAME/helper` for its child processes together."""
        self.task: Task

    def rows(self) -> list[Row]:
        """Measure everything; every process has ended on return."""
        try:
            self._found()
            self._enrol()
            self._train()
            self._stop()
            plain = self._plain()
        finally:
            self._stop()
        return [*self._time_rows(plain), *self._byte_rows(), *self._memory_rows()]

    def _found(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        made = self.directory / "task"
        made.mkdir(parents=True)
        self.task, model = make_task(self.case.width, self.case.rounds)
        (made / "task.json").write_bytes(pack(self.task))
        (made / "model.f32").write_bytes(model)
        policy = self.directory / "policy.toml"
        policy.write_text(_POLICY)
        call(COORDINATOR, "init", self.coordinator, "--task", made, "--name", "bench", "--policy", policy)
        self._serve("coordinator", COORDINATOR, "serve", self.coordinator, "--port", 0, "--enrol-port", 0)

    def _enrol(self) -> None:
        random, roster = np.random.default_rng(1), {}
        x, y = random.normal(size=(RECORDS, INPUTS)), np.arange(RECORDS) % CLASSES
        for name in self.names:
            np.savez(self.directory / f"{name}.npz", x=x, y=y, holdout_x=x, holdout_y=y)
            token = facts(COORDINATOR, "invite", self.coordinator, name)["token"]
            roster[name] = facts(SILO, "init", self.directory / name, "--token", token, "--yes")["fingerprint"]
        path = self.directory / "roster.json"
        path.write_text(json.dumps(roster))
        for name in self.names:
            call(SILO, "approve", self.directory / name, "--roster", path)

    def _train(self) -> None:
        for name in self.names:
            data, out = self.directory / f"{name}.npz", self.directory / f"{name}.json"
            own = ("--data", data, "--seconds", self.case.seconds, "--out", out)
            self._start(name, "tools.round_silo", self.directory / name, *own)
        call(COORDINATOR, "start", self.coordinator)
        self._wait(lambda: all(self.parties[name].process.poll() is not None for name in self.names))
        kinds = log_kinds(self.coordinator / "log.jsonl")
        outcomes = [body["result"] for _, body in self._records() if body["kind"].startswith("concordat/outcome")]
        if kinds[-1] != "finish" or outcomes != ["adopted"] * self.case.rounds:
            raise CommandFailed(f"the rounds ended {outcomes}: these measurements say nothing")

    def _plain(self) -> float:
        """Seconds of a round of plain float32 by the same silos."""
        self._serve("plain", "tools.round_plain", "coordinator", self.coordinator, "--silos", self.case.silos)
        port = json.loads((self.coordinator / "serve.json").read_text())["port"]
        where = ("--address", f"127.0.0.1:{port}", "--parameters", self.task.layout.size)
        for name in self.names:
            own = (self.directory / name, *where, "--seconds", self.case.seconds)
            self._start(f"{name}-plain", "tools.round_plain", "silo", *own)
        result = self.coordinator / RESULT_FILE
        self._wait(result.exists)
        self._wait(lambda: all(self.parties[f"{name}-plain"].process.poll() is not None for name in self.names))
        return float(json.loads(result.read_text())["seconds"])

    def _time_rows(self, plain: float) -> list[Row]:
        times = self._times()
        whole = times["outcome"] - times["plan"]
        phases = [Row(f"seconds: {name}", times[to] - times[since], None, "s") for name, since, to in _PHASES]
        return [
            *phases,
            Row("seconds: the round", whole, None, "s"),
            Row("seconds: the round in plain float32", plain, None, "s"),
            Row("ratio of the two", whole / plain, GOAL_RATIO, "ratio"),
        ]

    def _byte_rows(self) -> list[Row]:
        times = self._times()
        transfers = [item for name in self.names for item in self._usage(name)["transfers"]]
        rows = []
        for name, since, to in _PHASES:
            within = [item for item in transfers if times[since] <= item[0] / 1000 < times[to]]
            for direction, column in (("sent", 1), ("received", 2)):
                amount = sum(item[column] for item in within) / self.case.silos / MB
                rows.append(Row(f"{direction} by a silo: {name}", amount, None, "MB"))
        return rows

    def _memory_rows(self) -> list[Row]:
        usage = {name: self._usage(name) for name in self.names}
        over = max(max(one["peak_kb"], self.peaks[name]) - one["idle_kb"] for name, one in usage.items())
        goal = GOAL_SILO_MODELS * 4 * self.task.layout.size / MB + GOAL_SILO_MB
        idle = max(one["idle_kb"] for one in usage.values())
        helpers = max((self.peaks.get(f"{name}/helper", 0) for name in self.names), default=0)
        return [
            Row("memory: silo, idle", idle * 1024 / MB, None, "MB"),
            Row("memory: silo, peak over idle", over * 1024 / MB, goal, "MB"),
            Row("memory: a silo's helper process, all of it", helpers * 1024 / MB, None, "MB"),
            Row("memory: coordinator, peak", self.peaks["coordinator"] * 1024 / MB, GOAL_COORDINATOR_MB, "MB"),
        ]

    def _times(self) -> dict[str, float]:
        """Seconds since 1970 of the last round's records, by kind."""
        return {body["kind"].split("/")[1]: time_ms / 1000 for time_ms, body in self._records()}

    def _records(self) -> list[tuple[int, dict[str, Any]]]:
        lines = map(json.loads, (self.coordinator / "log.jsonl").read_bytes().splitlines())
        return [(record["time_ms"], record["body"]) for record in lines]

    def _usage(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / f"{name}.json").read_text())
        return found

    def _serve(self, name: str, program: str, *arguments: object) -> None:
        self._start(name, program, *arguments)
        wait_for(self.coordinator / "serve.json", self.parties[name])

    def _start(self, name: str, program: str, *arguments: object) -> None:
        self.parties[name] = Party(name, program, arguments, self.directory / f"{name}.out")

    def _wait(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 300 + self.case.rounds * (self.case.seconds + 300)
        while not condition():
            for name, party in self.parties.items():
                party.require_alive()
                self._sample(name, party.process.pid)
            if time.monotonic() > end:
                raise CommandFailed(f"the round does not end; see the files *.out in {self.directory}")
            time.sleep(_POLL_S)

    def _sample(self, name: str, pid: int) -> None:
        self.peaks[name] = max(self.peaks.get(name, 0), memory_kb("VmHWM", pid))
        children = sum(memory_kb("VmHWM", child) for child in _helpers(pid))
        self.peaks[f"{name}/helper"] = max(self.peaks.get(f"{name}/helper", 0), children)

    def _stop(self) -> None:
        for party in reversed(self.parties.values()):
            party.stop()


def _helpers(pid: int) -> list[int]:
    """Child processes that encrypt; one that has only just been forked still has its parent's memory."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
        return [child for child in children if b"crypto.ckks_worker" in Path(f"/proc/{child}/cmdline").read_bytes()]
    except OSError:
        return []


def table(rows: list[Row], title: str) -> Table:
    """The result for a terminal."""
    made = Table(title=title, title_justify="left")
    for name in ("metric", "measured", "goal", "unit", ""):
        made.add_column(name, justify="right" if name in ("measured", "goal") else "left", no_wrap=True)
    for row in rows:
        goal = "" if row.goal is None else f"{row.goal:.2f}"
        verdict = {None: "", True: "met", False: "missed"}[row.met]
        made.add_row(row.metric, f"{row.measured:.2f}", goal, row.unit, verdict)
    return made


def run(case: Case, directory: Path, out: Path, console: Console) -> list[Row]:
    """Measure, print and write one case."""
    where = machine()
    bench = Bench(case, directory)
    rows = bench.rows()
    size = bench.task.layout.size
    title = f"{case.silos} silos, {size:,} parameters, {case.seconds:g} s of training; {where}"
    console.print(table(rows, title))
    shared = {"silos": case.silos, "parameters": size, "training_s": case.seconds, "machine": where}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps([asdict(row) | {"met": row.met} | shared for row in rows], indent=1) + "\n")
    return rows


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description="benchmark of a round over gRPC on loopback")
    parser.add_argument("--silos", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0, help="that training takes in each round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--width", type=int, default=64, help="of the network; 64 is ResNet-18")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    case = Case(options.silos, options.width, options.rounds, options.seconds)
    try:
        run(case, Path("build/bench/round"), options.out, Console(width=150))
    except (CommandFailed, KeyboardInterrupt) as error:
        sys.exit(f"bench-round: error: {error or 'interrupted'}")


if __name__ == "__main__":
    main()
