"""`concordat-coordinator`: what the coordinator's operator runs. It parses, wires, prints and exits.

What is heavy (gRPC, SQL, numpy) is imported by the command that needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from audit.faults import is_ours
from coordinator.errors import BadDirectory, BadPolicy, BadTask, CoordinatorError, NotRunning
from protos.program import REFUSED, UNUSABLE, Program, say

_STOP_S = 30.0


def main() -> None:
    """Entry point of the command."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and give its exit code; errors go to stderr in one line."""
    return _PROGRAM.run(_parser(), arguments)


def _code_of(error: Exception) -> int | None:
    if isinstance(error, BadDirectory | BadPolicy | BadTask):
        return UNUSABLE
    return REFUSED if isinstance(error, CoordinatorError) or is_ours(error) else None


_PROGRAM = Program(
    "concordat-coordinator",
    "Found a federation, invite silos, serve its rounds and look after it.",
    """exit codes:
  0  done
  1  refused or failed; one line on stderr says what to do
  2  wrong usage, or input that cannot be read
""",
    _code_of,
)


def _parser() -> argparse.ArgumentParser:
    parser = _PROGRAM.parser()
    commands = _PROGRAM.commands(parser)
    _add_init(commands)
    _add_invite(commands)
    _add_serve(commands)
    _add(commands, "start", _start, "begin or resume training with everybody enrolled (a new key epoch)")
    stop = _add(commands, "stop", _stop, "stop the serving process; it ends the calls under way first")
    stop.add_argument("--wait", type=float, default=_STOP_S, metavar="SECONDS", help="wait this long (default 30)")
    _add(commands, "status", _status, "say where the federation stands")
    _add(commands, "silos", _silos, "list the members with their fingerprints")
    show = _add(commands, "show", _show, "show one round: verdicts, weights and reasons")
    show.add_argument("round", type=int, metavar="ROUND")
    return parser


def _add(commands: Any, name: str, command: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
    parser = _PROGRAM.command(commands, name, command, text)
    parser.add_argument("directory", type=Path, metavar="DIR", help="the coordinator's directory")
    parser.add_argument("--json", action="store_true", help="print the facts as one JSON object")
    return parser


def _add_init(commands: Any) -> None:
    parser = _add(commands, "init", _init, "found a federation: make CA, log key and the first record")
    parser.add_argument(
        "--task", type=Path, required=True, metavar="TASKDIR", help="what `concordat-silo task pack` wrote"
    )
    parser.add_argument("--name", required=True, help="the federation's name: lower case, digits and hyphens")
    parser.add_argument("--policy", type=Path, metavar="FILE", help="the policy (TOML); the default one if left out")
    parser.add_argument("--host", default="127.0.0.1", help="host name or address by which silos reach the coordinator")
    parser.add_argument("--database", metavar="URL", help="SQLAlchemy URL; SQLite in DIR if left out")


def _add_invite(commands: Any) -> None:
    parser = _add(commands, "invite", _invite, "print a single-use invitation for one silo")
    parser.add_argument("name", metavar="NAME", help="the silo's name: lower case, digits and hyphens")
    parser.add_argument("--valid-hours", type=float, default=72.0, metavar="HOURS", help="it expires then (default 72)")
    parser.add_argument("--address", metavar="HOST:PORT", help="of the enrolment service; the serving one if left out")


def _add_serve(commands: Any) -> None:
    parser = _add(commands, "serve", _serve, "serve rounds and enrolment until SIGTERM or Ctrl-C")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=_port, default=8443, help="round port, 0 for any (default 8443)")
    parser.add_argument("--enrol-port", type=_port, default=8444, help="enrolment port, 0 for any (default 8444)")


def _init(options: argparse.Namespace) -> None:
    from coordinator import home
    from coordinator.policy import read_policy

    task, model = home.read_task(options.task)
    policy = read_policy(options.policy)
    root = home.read_root(options.task, task)
    genesis = home.found(
        options.directory, task, model, policy, options.name, host=options.host, database=options.database, root=root
    )
    facts = {"federation": genesis.federation, "log_key": genesis.log_key, "authority": genesis.authority}
    facts |= {"task": task.digest, "directory": str(options.directory)}
    say(options, facts, f"Founded {genesis.federation}. Log key: {genesis.log_key} (in log.pub too).")


def _invite(options: argparse.Namespace) -> None:
    from coordinator import home
    from coordinator.authority import Authority
    from coordinator.facts import serving
    from coordinator.invitation import invite
    from protos.invitation import write_token

    config = home.read_config(options.directory)
    served = serving(options.directory)
    address = options.address or (
        f"{config.host}:{served['enrol_port']}" if served and "enrol_port" in served else None
    )
    if address is None:
        raise NotRunning("nobody serves: start `serve` first, or say --address HOST:PORT of the enrolment service")
    authority = Authority.load(options.directory, config.federation)
    expires_ms = home.clock_ms() + int(options.valid_hours * 3_600_000)
    with home.opened_store(config) as store:
        log_key = home.read_log_key(options.directory).public
        made = invite(store, authority, options.name, address=address, log_key=log_key, expires_ms=expires_ms)
    facts = {"name": made.name, "token": write_token(made), "expires_ms": made.expires_ms, "address": made.address}
    say(options, facts, write_token(made))


def _serve(options: argparse.Namespace) -> None:
    import logging

    from coordinator import home
    from coordinator.authority import Authority
    from coordinator.invitation import Registrar
    from coordinator.lock import Lock
    from coordinator.server import Server, serve

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    # A silo that goes away in the middle of a call is no event; grpc would print a trace of it.
    logging.getLogger("grpc").setLevel(logging.CRITICAL)
    config = home.read_config(options.directory)
    authority = Authority.load(options.directory, config.federation)
    with Lock(options.directory), home.opened_store(config) as store:
        service = home.open_service(options.directory, store)
        registrar = Registrar(
            store,
            authority,
            service,
            log_key=home.read_log_key(options.directory).public,
            round_address=lambda: f"{config.host}:{server.port}",
            clock=home.clock_ms,
        )
        server = Server(
            service,
            authority,
            registrar.enrol,
            host=options.host,
            port=options.port,
            enrol_port=options.enrol_port,
            names=(config.host,),
        )
        serve(options.directory, server, service, lambda facts: _ready(options, facts), options.host)


def _start(options: argparse.Namespace) -> None:
    from coordinator import facts, home

    config = home.read_config(options.directory)
    with home.opened_store(config) as store:
        facts.require_referee(facts.replayed(store))
        # What `Service.start` notes: the serving process looks at every tick, and after a restart too.
        store.set_note("start", str(len(store.records())).encode())
    served = facts.serving(options.directory) is not None
    text = "Training starts with everybody enrolled." + ("" if served else " Nobody serves yet: run `serve`.")
    say(options, {"started": True, "serving": served}, text)


def _stop(options: argparse.Namespace) -> None:
    from coordinator import home, lock

    home.read_config(options.directory)
    pid = lock.holder(options.directory)
    if not pid:
        raise NotRunning(f"nobody serves {options.directory}")
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError as error:
        raise CoordinatorError(f"process {pid} is another user's: stop it as that user") from error
    except ProcessLookupError:
        pass
    end = time.monotonic() + options.wait
    while lock.holder(options.directory) == pid:
        if time.monotonic() > end:
            raise CoordinatorError(
                f"process {pid} has not ended after {options.wait:g} s: it may be summing; wait or kill it"
            )
        time.sleep(0.05)
    say(options, {"stopped": pid}, f"Stopped process {pid}.")


def _status(options: argparse.Namespace) -> None:
    from coordinator import facts, home

    config = home.read_config(options.directory)
    with home.opened_store(config) as store:
        found = facts.status(options.directory, config, store, facts.replayed(store))
    lines = [f"{name:<11}{_shown(value)}" for name, value in found.items()]
    say(options, found, "\n".join(lines))


def _silos(options: argparse.Namespace) -> None:
    from coordinator import facts, home

    config = home.read_config(options.directory)
    with home.opened_store(config) as store:
        found = facts.silos(facts.replayed(store))
    lines = [f"{silo['name']:<33}{silo['fingerprint']}  {_state(silo)}" for silo in found]
    say(options, {"silos": found}, "\n".join(lines) or "Nobody is enrolled yet: `invite` silos.")


def _show(options: argparse.Namespace) -> None:
    from audit import display, show
    from audit.files import LogFile
    from coordinator import home

    home.read_config(options.directory)
    found = show.round_of(LogFile(options.directory), options.round)
    if options.json:
        say(options, found, "")
    else:
        display.round_of(found)


def _ready(options: argparse.Namespace, facts: dict[str, Any]) -> None:
    say(options, facts, f"Serving rounds on {facts['host']}:{facts['port']}, enrolment on port {facts['enrol_port']}.")
    sys.stdout.flush()


def _state(silo: dict[str, Any]) -> str:
    if silo["convicted"]:
        return f"convicted: {silo['convicted']}"
    return "active" if silo["active"] else "enrolled"


def _shown(value: Any) -> str:
    if value is None or value in ([], {}):
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to 65535")
    return int(text)


if __name__ == "__main__":
    main()
