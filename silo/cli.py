"""`concordat-silo`: what a silo's operator runs. It parses, wires, prints and exits.

What is heavy (gRPC, torch, numpy) is imported by the command that needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.faults import is_ours
from protos.program import REFUSED, UNUSABLE, Program, say
from silo.errors import BadData, BadExtractor, BadTask, SiloError
from silo.link import BadInvitation, BadSiloDirectory

if TYPE_CHECKING:
    from protos.task import Task
    from silo.runner import Work
    from silo.searcher import Root
    from silo.session import Progress, Session


class _Usage(Exception):
    """Raised for arguments that parse and make no sense."""


def main() -> None:
    """Entry point of the command."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and give its exit code; errors go to stderr in one line."""
    return _PROGRAM.run(_parser(), arguments)


def _code_of(error: Exception) -> int | None:
    if isinstance(error, _Usage | BadData | BadExtractor | BadTask | BadSiloDirectory | BadInvitation):
        return UNUSABLE
    return REFUSED if isinstance(error, SiloError) or is_ours(error) else None


_PROGRAM = Program(
    "concordat-silo",
    "Enrol in a federation, train on data that stay here, and see what left the building.",
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
    init = _add(commands, "init", _init, "make keys here and enrol with an invitation")
    init.add_argument("--token", required=True, help="the line that the coordinator's `invite` printed; - reads stdin")
    init.add_argument(
        "--address", metavar="HOST:PORT", help="of the enrolment service, where the invitation's is wrong"
    )
    init.add_argument("--yes", action="store_true", help="do not ask whether federation and log key are the right ones")
    approve = _add(commands, "approve", _approve, "approve other silos' keys, compared outside the system")
    approve.add_argument("name", nargs="?", metavar="NAME")
    approve.add_argument("fingerprint", nargs="?", metavar="FINGERPRINT")
    approve.add_argument("--roster", type=Path, metavar="FILE", help="JSON object of names and fingerprints")
    _add_run(commands)
    status = _add(commands, "status", _status, "say who this silo is, where it stands and what it spent")
    status.add_argument("--sent", action="store_true", help="list everything that left the building")
    export = _add(commands, "export", _export, "write the trained model")
    export.add_argument("--out", type=Path, required=True, metavar="MODEL.npz")
    export.add_argument(
        "--unsearched", action="store_true", help="write the current model even where a search found a trigger in it"
    )
    _add(commands, "resume", _resume, "go on after a halt, once you have compared logs with the other silos")
    _add_task(commands)
    return parser


def _command(
    commands: Any, name: str, command: Callable[[argparse.Namespace], None], text: str
) -> argparse.ArgumentParser:
    parser = _PROGRAM.command(commands, name, command, text)
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")
    return parser


def _add(commands: Any, name: str, command: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
    parser = _command(commands, name, command, text)
    parser.add_argument("directory", type=Path, metavar="DIR", help="the silo's directory")
    return parser


def _add_run(commands: Any) -> None:
    parser = _add(commands, "run", _run, "take part until training is done; may be killed and started again")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="the records; they stay here")
    parser.add_argument("--adapter", default="numpy", help="how FILE is read (default numpy: .npz with x and y)")
    parser.add_argument("--features", type=Path, metavar="FEATURES.npz", help="fixed features, where the task has some")
    parser.add_argument(
        "--ledger", type=Path, metavar="FILE", help="privacy ledger of these data (default beside FILE)"
    )
    parser.add_argument("--address", metavar="HOST:PORT", help="of the round service, where enrolment's is wrong")
    parser.add_argument(
        "--sum", choices=("ckks", "bfv"), default="ckks", help="encryption of the secure sum, the same at every silo"
    )
    parser.add_argument("--quorum", type=int, metavar="N", help="least quorum that a plan may ask for")
    parser.add_argument("--privacy-minimum", type=int, metavar="N", help="least updates in a sum")


def _add_task(commands: Any) -> None:
    task = commands.add_parser("task", help="describe what is trained", description="describe what is trained")
    tasks = _PROGRAM.commands(task)
    pack = _command(tasks, "pack", _pack, "make a task and its first model from a description")
    pack.add_argument("spec", type=Path, metavar="SPEC.toml")
    pack.add_argument("out", type=Path, metavar="OUT", help="directory for task.json, model.f32 and root.bin")
    pack.add_argument(
        "--root",
        type=Path,
        metavar="FILE.npz",
        help="public examples (x and y, 30 a class suffice); without them nobody searches the model for triggers",
    )
    pack.add_argument(
        "--features",
        type=Path,
        metavar="FEATURES.npz",
        help="what the task names: turns images of --root into features",
    )
    features = _command(tasks, "features", _features, "learn fixed features on public images, which are no records")
    features.add_argument("images", type=Path, metavar="IMAGES.npz", help="array x [n, height, width], grey in [0, 1]")
    features.add_argument("out", type=Path, metavar="FEATURES.npz")
    features.add_argument("--keep", type=int, default=400, metavar="N", help="principal components (default 400)")
    features.add_argument("--groups", type=int, metavar="N", help="groups of channels (default: each channel its own)")
    features.add_argument("--whiten", type=float, default=0.5, metavar="P", help="0 none, 1 full (default 0.5)")


def _init(options: argparse.Namespace) -> None:
    from silo.enrol import enrol, open_invitation
    from silo.identity import load_identity

    token = sys.stdin.readline() if options.token == "-" else options.token  # noqa: S105 (a dash is no password)
    invitation = open_invitation(token, datetime.now(UTC))
    if not options.yes:
        _confirm(
            f"Enrol as {invitation.name} in {invitation.federation}, whose log key is\n  {invitation.log_key}\n"
            "Is that what the federation's operators told you? [y/N] "
        )
    enrolled = enrol(options.directory, invitation, options.address)
    identity = load_identity(options.directory)
    facts = {"name": enrolled.name, "federation": enrolled.federation, "fingerprint": identity.fingerprint}
    say(options, facts, f"Enrolled {enrolled.name} in {enrolled.federation}. Fingerprint: {identity.fingerprint}")


def _approve(options: argparse.Namespace) -> None:
    from silo.identity import load_enrolment
    from silo.runner import approve, parse_roster, require_fingerprint, require_name

    load_enrolment(options.directory)
    single = options.name is not None
    if single == (options.roster is not None) or single != (options.fingerprint is not None):
        raise _Usage("say either NAME and FINGERPRINT, or --roster FILE")
    try:
        if single:
            chosen = {require_name(options.name): require_fingerprint(options.fingerprint)}
        else:
            chosen = parse_roster(options.roster.read_bytes())
    except OSError as error:
        raise _Usage(f"{options.roster} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise _Usage(f"no roster: {error}") from error
    together = approve(options.directory, chosen)
    say(options, {"approved": together}, f"Approved: {', '.join(sorted(together))}")


def _run(options: argparse.Namespace) -> None:
    from silo.runner import run as run_silo

    report = _Report(as_json=options.json)
    if run_silo(_work(options), report):
        report.line({"finished": True}, "Training is done: `export` writes the model.")
    else:
        report.line({"finished": False}, "Stopped. Start `run` again to go on.")


def _work(options: argparse.Namespace) -> Work:
    from silo.desk import LocalPolicy
    from silo.runner import Work

    default = LocalPolicy()
    quorum = default.quorum if options.quorum is None else options.quorum
    minimum = default.privacy_minimum if options.privacy_minimum is None else options.privacy_minimum
    ledger = options.ledger or options.data.with_name(options.data.name + ".ledger")
    policy = LocalPolicy(quorum, minimum)
    return Work(
        options.directory,
        options.data,
        ledger,
        policy,
        options.adapter,
        options.address,
        options.sum,
        features=options.features,
    )


class _Report:
    """One line per turn that brought news; a note that says the same again is left out."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json, self._note = as_json, ""

    def __call__(self, session: Session, progress: Progress) -> None:
        history, note = session.history, progress.note or ""
        rounds = history.genesis.task.rounds if history.chain.genesis else 0
        facts: dict[str, Any] = {"round": len(history.rounds), "rounds": rounds, "phase": history.phase.value}
        facts |= {"done": progress.done, "note": progress.note}
        if progress.done or (note and note != self._note):
            what = note or f"{progress.done} answered"
            self.line(facts, f"round {facts['round']}/{rounds}  {what}")
        self._note = note if note else ("" if progress.done else self._note)

    def line(self, facts: dict[str, Any], text: str) -> None:
        """Print one line at once: somebody may be reading a pipe."""
        print(json.dumps(facts, sort_keys=True) if self._as_json else text, flush=True)


def _status(options: argparse.Namespace) -> None:
    from silo import overview

    facts = overview.status(options.directory)
    lines = [f"{name:<12}{_shown(value)}" for name, value in facts.items() if not name.endswith("_micro")]
    budget = overview.epsilon_text(facts.get("budget_micro"))
    lines.append(f"{'epsilon':<12}{overview.epsilon_text(facts['epsilon_micro'])} of {budget}")
    if options.sent:
        facts["sent"] = overview.sent(options.directory)
        lines += ["", "What left the building:", *(_sent_line(entry) for entry in facts["sent"])]
    say(options, facts, "\n".join(lines))


def _sent_line(entry: dict[str, Any]) -> str:
    parts = ", ".join(f"{name} {size}" for name, size in entry["parts"].items())
    return f"{entry['kind']:<14}{entry['bytes']:>9} bytes  ({parts})"


def _export(options: argparse.Namespace) -> None:
    from silo.overview import export

    facts = export(options.directory, options.out, options.unsearched)
    note = "" if facts["finished"] else f" Training is not done: this is the model of round {facts['round']}."
    say(options, facts, f"Wrote {facts['path']} (model {facts['model'][:16]}).{note}")


def _resume(options: argparse.Namespace) -> None:
    from silo.desk import LocalPolicy
    from silo.runner import Work, locked, open_link, open_session

    link = open_link(options.directory)
    work = Work(options.directory, Path(), Path(), LocalPolicy())
    with locked(options.directory):
        session = open_session(work, None, link)
        session.resume()
        session.close()
    link.close()
    say(options, {"resumed": True}, "The halt is cleared: start `run` again.")


def _pack(options: argparse.Namespace) -> None:
    import tomllib

    from protos.codec import pack
    from silo import rootset
    from silo.pack import pack_task

    if options.features is not None and options.root is None:
        raise _Usage("--features turns public images into features: say --root FILE.npz too, or leave it out")
    try:
        spec = tomllib.loads(options.spec.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadTask(f"{options.spec} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadTask(f"{options.spec} is no TOML: {error}") from error
    root = None if options.root is None else _public(options.root, options.features, spec)
    task, model = pack_task(spec, root)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "model.f32").write_bytes(model)
        if root is not None:
            (options.out / "root.bin").write_bytes(rootset.to_bytes(root))
        (options.out / "task.json").write_bytes(pack(task))
    except OSError as error:
        raise BadTask(f"{options.out} cannot be written: {error.strerror}") from error
    facts = {"name": task.name, "digest": task.digest, "parameters": task.layout.size, "rounds": task.rounds}
    facts |= {"noise_micro": task.training.noise_micro, "epsilon_micro": task.budget.epsilon_micro}
    facts |= {"search": task.search is not None}
    text = f"Packed {task.name}: {task.layout.size} parameters, {task.rounds} rounds, {task.digest}."
    say(options, facts, text + _said_of(task))


def _public(examples: Path, features: Path | None, spec: Mapping[str, Any]) -> Root:
    """The root set: public examples, through the fixed features that the description names where these are given."""
    from silo.data import NumpySource
    from silo.features import load
    from silo.searcher import Root

    x, y = NumpySource(examples).examples()
    if features is None:
        return Root(x, y)
    extractor, model = load(features), spec.get("model")
    if not isinstance(model, Mapping) or model.get("features") != extractor.digest:
        raise BadTask(f'task: {features} is not what the model names: say features = "{extractor.digest}" in [model]')
    return Root(extractor.features(x), y)


def _said_of(task: Task) -> str:
    from audit.searches import FEWEST_CLASSES

    rule, classes = task.search, task.layout.classes
    if rule is None:
        return " Without --root nobody will search the model for triggers."
    if classes < FEWEST_CLASSES:
        return f" Of {classes} classes searches find little and convict nobody: there is no third to compare with."
    pairs = ", ".join(f"{one.source} for {one.target}" for one in rule.alike)
    said = f" The public examples show classes as alike; to take {pairs} convicts nobody." if pairs else ""
    unseen = " Searches look among the fixed features: flipped labels are found there, patches on images are not."
    judge = f" Silo {rule.referee} judges what searches find: enrol it before the start." if rule.referee else ""
    return said + judge + (unseen if task.model.features else "")


def _features(options: argparse.Namespace) -> None:
    from silo.features import fit_file

    extractor = fit_file(options.images, options.out, options.keep, options.groups, options.whiten)
    facts = {"features": extractor.digest, "outputs": extractor.outputs}
    note = f'Wrote {options.out}: put features = "{extractor.digest}" and {extractor.outputs} inputs into the model.'
    say(options, facts, note)


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise _Usage("nobody is there to confirm the federation: compare the log key yourself and say --yes")
    if input(question).strip().lower() not in ("y", "yes"):
        raise _Usage("not confirmed; nothing was sent")


def _shown(value: Any) -> str:
    if value is None or value == []:
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    main()
