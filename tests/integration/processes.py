"""A federation of real processes on loopback for crash tests: linear models, so that no process needs torch."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np

from audit.files import LogFile
from audit.history import History
from audit.verify import verify_log
from tests.integration.federation import CLASSES, INPUTS, SILOS, records
from tools.processes import COORDINATOR, SILO, Party, call, facts, log_kinds, wait_for

SPEC = f"""
name = "toy"
rounds = {{rounds}}
sample_rate = 0.5
steps = 1
learning_rate = 1.0
clip = 1.0
evaluation_noise = 20.0
counts_noise = 5.0
epsilon = 8.0
delta = 0.0001
range = 1.6
folds = 2

[model]
kind = "linear"
sizes = [{INPUTS}, {CLASSES}]
activation = "none"

[prototypes]
clip = 1.0
noise = 6.8
every = 1
"""

POLICY = """
[deadlines]
commit_s = 60
open_s = 60
check_s = 60
verify_s = 60
"""


class Processes:
    """A coordinator and five silos below a directory; everything that is started is stopped by `close`.

    With `root` the task has a public root set, and silos search the model (in torch).
    """

    def __init__(self, directory: Path, rounds: int, root: bool = False) -> None:
        self.directory = directory
        self.coordinator_directory = directory / "coordinator"
        self.log = self.coordinator_directory / "log.jsonl"
        self.parties: dict[str, Party] = {}
        (directory / "task.toml").write_text(SPEC.format(rounds=rounds))
        (directory / "policy.toml").write_text(POLICY)
        public = records(99)
        np.savez(directory / "public.npz", x=public.features, y=public.labels)
        options = ("--root", directory / "public.npz") if root else ()
        call(SILO, "task", "pack", directory / "task.toml", directory / "task", *options)
        policy = directory / "policy.toml"
        call(
            COORDINATOR,
            "init",
            self.coordinator_directory,
            "--task",
            directory / "task",
            "--name",
            "toy",
            "--policy",
            policy,
        )
        self._start("coordinator", COORDINATOR, "serve", self.coordinator_directory, "--port", 0, "--enrol-port", 0)
        wait_for(self.coordinator_directory / "serve.json", self.parties["coordinator"])
        self._fix_ports()
        self._enrol()

    def start(self, slow: str = "") -> None:
        """Run every silo and begin training; the one named `slow` waits in the middle of its first training."""
        for name in SILOS:
            own = (self.directory / name, "--data", self.directory / f"{name}.npz")
            if name == slow:
                self._start(name, "tests.integration.slow_silo", *own)
            else:
                self._start(name, SILO, "run", *own)
        call(COORDINATOR, "start", self.coordinator_directory)

    def kill_and_restart(self, name: str) -> None:
        """SIGKILL a party and start it again at once."""
        self.parties[name].kill()
        self.parties[name].restart()

    def wait(self, condition: Callable[[list[str]], bool], timeout_s: float = 120) -> list[str]:
        """Wait until the kinds of the log's records fulfil `condition`; every party must be alive meanwhile."""
        end = time.monotonic() + timeout_s
        while True:
            kinds = log_kinds(self.log)
            if condition(kinds):
                return kinds
            for party in self.parties.values():
                party.require_alive()
            assert time.monotonic() < end, f"the log stands at {kinds[-3:]} after {timeout_s} s"
            time.sleep(0.02)

    def finish(self) -> History:
        """Wait for the last round and for all silos to end; the verified history."""
        self.wait(lambda kinds: "finish" in kinds)
        for name in SILOS:
            self.parties[name].process.wait(60)
            self.parties[name].require_alive()
        return verify_log(LogFile(self.log).path, (self.coordinator_directory / "log.pub").read_text().strip())

    def ledger_entries(self, name: str) -> list[str]:
        """Keys of the entries in a silo's privacy ledger, in order."""
        with closing(sqlite3.connect(self.directory / f"{name}.npz.ledger")) as database:
            return [key for (key,) in database.execute("SELECT key FROM entries ORDER BY entry")]

    def close(self) -> None:
        """Stop everything."""
        for party in self.parties.values():
            party.stop()

    def _fix_ports(self) -> None:
        """Restart on the ports that port 0 gave, so that a restarted coordinator is found again."""
        served = json.loads((self.coordinator_directory / "serve.json").read_text())
        self.parties["coordinator"].stop()
        ports = ("--port", served["port"], "--enrol-port", served["enrol_port"])
        self._start("coordinator", COORDINATOR, "serve", self.coordinator_directory, *ports)
        wait_for(self.coordinator_directory / "serve.json", self.parties["coordinator"])

    def _enrol(self) -> None:
        roster = {}
        for index, name in enumerate(SILOS):
            own = records(index)
            holdout = {"holdout_x": own.holdout_features, "holdout_y": own.holdout_labels}
            np.savez(self.directory / f"{name}.npz", x=own.features, y=own.labels, **holdout)
            token = facts(COORDINATOR, "invite", self.coordinator_directory, name)["token"]
            roster[name] = facts(SILO, "init", self.directory / name, "--token", token, "--yes")["fingerprint"]
        (self.directory / "roster.json").write_text(json.dumps(roster))
        for name in SILOS:
            call(SILO, "approve", self.directory / name, "--roster", self.directory / "roster.json")

    def _start(self, name: str, program: str, *arguments: object) -> None:
        self.parties[name] = Party(name, program, arguments, self.directory / f"{name}.out")
