"""Start, watch and stop the parties of a federation as separate processes, for the demonstration and for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COORDINATOR, SILO, AUDIT = "concordat-coordinator", "concordat-silo", "concordat-audit"


class CommandFailed(Exception):
    """Raised when a command or a party fails; the message holds its last words."""


def call(program: str, *arguments: object, timeout_s: float = 120) -> str:
    """Run one command to its end and return what it printed.

    Raises:
        CommandFailed: with the command's own error line.
    """
    command = command_of(program, arguments)
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment(), check=False)
    if done.returncode != 0:
        raise CommandFailed(f"{program} {arguments[0]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def facts(program: str, *arguments: object) -> dict[str, Any]:
    """Run one command with `--json` and return its facts."""
    found: dict[str, Any] = json.loads(call(program, *arguments, "--json"))
    return found


def command_of(program: str, arguments: Sequence[object]) -> list[str]:
    """The command line of an installed program (`concordat-...`) of this environment, or of a module of ours."""
    script = Path(sys.executable).with_name(program)
    start = [str(script)] if program.startswith("concordat-") else [sys.executable, "-m", program]
    return [*start, *map(str, arguments)]


def environment() -> dict[str, str]:
    """One thread for each process: with several parties on one machine more only get into each other's way."""
    return os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


class Party:
    """One running party; what it prints goes to `log`."""

    def __init__(self, name: str, program: str, arguments: Sequence[object], log: Path) -> None:
        self.name, self.log = name, log
        self._command = command_of(program, arguments)
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as output:
            return subprocess.Popen(self._command, stdout=output, stderr=output, env=environment())

    def restart(self) -> None:
        """Start it again after `kill` or `stop`."""
        self.process = self._start()

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        self.process.kill()
        self.process.wait()

    def stop(self, timeout_s: float = 20) -> None:
        """SIGTERM, then SIGKILL where that is not heard."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()

    def require_alive(self) -> None:
        """Raises CommandFailed with the last lines it printed if it ended with an error."""
        code = self.process.poll()
        if code not in (None, 0):
            words = " | ".join(self.log.read_text(errors="replace").strip().splitlines()[-4:])
            raise CommandFailed(f"{self.name} ended with exit code {code}: {words}")


def wait_for(path: Path, party: Party, timeout_s: float = 60) -> None:
    """Wait until a party has written `path`."""
    end = time.monotonic() + timeout_s
    while not path.exists():
        party.require_alive()
        if time.monotonic() > end:
            raise CommandFailed(f"{party.name} did not write {path.name} in {timeout_s:.0f} s")
        time.sleep(0.05)


def log_kinds(log: Path) -> list[str]:
    """Kinds of the records in a log file, in order; a half-written last line is left out."""
    if not log.exists():
        return []
    lines = log.read_bytes().split(b"\n")[:-1]
    return [json.loads(line)["body"]["kind"].split("/")[1] for line in lines]
