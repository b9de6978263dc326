"""`make demo`: a coordinator and six silo processes on loopback train on handwritten digits; one silo poisons.

Everything that an operator would type is run as the command that he would run. Then the same engine runs the same
silos in the simulator with plain averaging, for comparison. All directories stay in `build/demo`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from protos.codec import unpack
from protos.task import Task
from redteam.attacks.catalogue import demo as demo_attack
from redteam.digits import POISONED, SIZES, Digits, digits
from tools import demo_report
from tools.demo_settings import POLICY, policy, public_and_test, spec
from tools.processes import AUDIT, COORDINATOR, SILO, CommandFailed, Party, call, facts, log_kinds, wait_for

LOG_POLL_S = 0.5
TOO_LONG_S = 900


class Demo:
    """The parties below one directory."""

    def __init__(self, directory: Path, rounds: int, console: Console) -> None:
        self.directory, self.rounds, self.console = directory, rounds, console
        self.coordinator = directory / "coordinator"
        self.parties: list[Party] = []
        self.data: Digits = digits()

    def prepare(self) -> None:
        """Write data, task and policy; found the federation; serve."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        for name, records in self.data.silos.items():
            np.savez(
                self.directory / f"{name}.npz",
                x=records.features,
                y=records.labels,
                holdout_x=records.holdout_features,
                holdout_y=records.holdout_labels,
            )
        (features, labels), _ = public_and_test(self.data)
        np.savez(self._file("public.npz"), x=features, y=labels)
        (self.directory / "task.toml").write_text(spec(self.rounds))
        (self.directory / "policy.toml").write_text(POLICY)
        task = self.directory / "task"
        call(SILO, "task", "pack", self.directory / "task.toml", task, "--root", self._file("public.npz"))
        call(
            COORDINATOR,
            "init",
            self.coordinator,
            "--task",
            task,
            "--name",
            "demo",
            "--policy",
            self._file("policy.toml"),
        )
        self._start("coordinator", COORDINATOR, "serve", self.coordinator, "--port", 0, "--enrol-port", 0)
        wait_for(self.coordinator / "serve.json", self.parties[0])

    def enrol(self) -> None:
        """Invite and enrol every silo, exchange fingerprints in a roster file, approve."""
        roster = {}
        for name in SIZES:
            token = facts(COORDINATOR, "invite", self.coordinator, name)["token"]
            roster[name] = facts(SILO, "init", self.directory / name, "--token", token, "--yes")["fingerprint"]
        self._file("roster.json").write_text(json.dumps(roster))
        for name in SIZES:
            call(SILO, "approve", self.directory / name, "--roster", self._file("roster.json"))

    def train(self) -> None:
        """Run six silos until the last round is done, showing progress."""
        for name in SIZES:
            data = ("--data", self._file(f"{name}.npz"))
            if name == POISONED:
                self._start(name, "redteam.poisoned_silo", self.directory / name, *data)
            else:
                self._start(name, SILO, "run", self.directory / name, *data)
        call(COORDINATOR, "start", self.coordinator)
        with self._progress() as progress:
            bar = progress.add_task("training", total=self.rounds, phase="waiting for six silos")
            end = time.monotonic() + TOO_LONG_S
            while any(party.process.poll() is None for party in self.parties[1:]):
                self._show(progress, bar)
                if time.monotonic() > end:
                    raise CommandFailed("training does not end; see the files *.out in build/demo")
                time.sleep(LOG_POLL_S)
            self._show(progress, bar)

    def audit(self) -> int:
        """Verify the log, make the certificate, export the model and check both, each by its own command.

        Where no search left a model to release, the last one is exported, and the certificate is checked by itself.
        Returns the number of records that the auditor verified.
        """
        log, key = self.coordinator / "log.jsonl", self.coordinator / "log.pub"
        heads = [part for name in SIZES for part in ("--head", self.directory / name / "log.head")]
        verified = facts(AUDIT, "verify", log, "--log-key", key, *heads)
        certificate, report = self._file("certificate.json"), self._file("report.html")
        call(AUDIT, "certify", log, "--log-key", key, "--out", certificate, "--report", report)
        out, released = self._file("model.npz"), json.loads(certificate.read_bytes())["released"] is not None
        how, against = ((), ("--model", out)) if released else (("--unsearched",), ())
        call(SILO, "export", self.directory / next(iter(SIZES)), "--out", out, *how)
        call(AUDIT, "check-certificate", certificate, "--log", log, "--log-key", key, *against)
        return int(verified["records"])

    def stop(self) -> None:
        """End every process that this demonstration started."""
        for party in reversed(self.parties):
            party.stop()

    def model(self) -> NDArray[np.float32]:
        """The exported model, float32[d]."""
        with np.load(self._file("model.npz"), allow_pickle=False) as arrays:
            flat: NDArray[np.float32] = arrays["flat"]
            return flat

    def task(self) -> Task:
        """The task that genesis pins."""
        return unpack(Task, self._file("task/task.json").read_bytes())

    def plain(self) -> NDArray[np.float32]:
        """The model that plain averaging gives: same engine, simulator, weights by count, no search, all retained."""
        from redteam.simulator import Seat, Simulation

        attack = demo_attack()
        seats = {
            name: Seat(records, trainer=attack) if name == POISONED else Seat(records)
            for name, records in self.data.silos.items()
        }
        initial = self._file("task/model.f32").read_bytes()
        with tempfile.TemporaryDirectory() as directory, self._progress() as progress:
            task = replace(self.task(), search=None)
            simulation = Simulation(Path(directory), task, initial, policy("plain"), seats)
            bar = progress.add_task("plain averaging", total=self.rounds, phase="simulator")

            def show(history: Any) -> bool:
                progress.update(bar, completed=sum(view.outcome is not None for view in history.rounds))
                return False

            history = simulation.run(show)
            session = next(iter(simulation.sessions.values()))
            model = session.workspace.load_model(history.genesis.task.layout.size, history.model)
            simulation.close()
        assert model is not None
        return model

    def _file(self, name: str) -> Path:
        return self.directory / name

    def _start(self, name: str, program: str, *arguments: object) -> None:
        self.parties.append(Party(name, program, arguments, self._file(f"{name}.out")))

    def _progress(self) -> Progress:
        columns = (TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        return Progress(*columns, TextColumn("{task.fields[phase]}"), console=self.console)

    def _show(self, progress: Progress, bar: Any) -> None:
        for party in self.parties:
            party.require_alive()
        kinds = log_kinds(self.coordinator / "log.jsonl")
        progress.update(bar, completed=kinds.count("outcome"), phase=f"last record: {kinds[-1]}" if kinds else "")


def run(directory: Path, rounds: int, console: Console) -> dict[str, Any]:
    """The whole demonstration; returns what `summary.json` holds."""
    started = time.monotonic()
    demo = Demo(directory, rounds, console)
    try:
        console.print("Founding the federation and enrolling six silos ...")
        demo.prepare()
        demo.enrol()
        demo.train()
    finally:
        demo.stop()
    console.print("Verifying the log, making and checking the certificate ...")
    records = demo.audit()
    plain = demo.plain()
    summary = demo_report.summarise(demo, plain)
    summary["records_verified"] = records
    summary["seconds"] = round(time.monotonic() - started, 1)
    (directory / "summary.json").write_text(json.dumps(summary, indent=1))
    demo_report.show(console, summary)
    return summary


def main() -> None:
    """Entry point of `make demo`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("build/demo"))
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    # A pipe has no width of its own, and the closing table needs some.
    console = Console() if sys.stdout.isatty() else Console(width=120)
    try:
        run(options.directory, options.rounds, console)
    except (CommandFailed, KeyboardInterrupt) as error:
        sys.exit(f"demo: error: {error or 'interrupted'}")


if __name__ == "__main__":
    main()
