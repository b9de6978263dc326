"""`concordat-audit`: what a regulator runs on a log. It parses, wires, prints and exits; the work is elsewhere.

Modules that compute are imported by the command that needs them, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.errors import AuditError, UnreadableInput, UnwritableLog
from protos.program import OK, REFUSED, UNUSABLE, Program

if TYPE_CHECKING:
    from audit.history import History

_LARGEST_INPUT = 4 * 1024**3


def main() -> None:
    """Entry point of the command."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and give its exit code; errors go to stderr in one line."""
    return _PROGRAM.run(_parser(), arguments)


def _code_of(error: Exception) -> int | None:
    if isinstance(error, UnreadableInput | UnwritableLog):
        return UNUSABLE
    return REFUSED if isinstance(error, AuditError) else None


_PROGRAM = Program(
    "concordat-audit",
    "Verify a federation's log, look into it, and make or check its fairness certificate.",
    """exit codes:
  0  everything asked for holds
  1  the log, a head or the certificate does not verify
  2  wrong usage, or a file that cannot be read or written
""",
    _code_of,
)


def _parser() -> argparse.ArgumentParser:
    parser = _PROGRAM.parser()
    commands = _PROGRAM.commands(parser)
    _add_verify(commands)
    _add_show(commands)
    _add_certify(commands)
    _add_check(commands)
    return parser


def _command(commands: Any, name: str, function: Any, text: str) -> argparse.ArgumentParser:
    parser = _PROGRAM.command(commands, name, function, text)
    parser.add_argument("--json", action="store_true", help="print the facts as one JSON object")
    return parser


def _add_key_and_heads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--log-key", required=True, metavar="KEY", help="the log key: 64 hex digits, or a file of them")
    parser.add_argument(
        "--head",
        action="append",
        default=[],
        metavar="FILE",
        help="a signed head that somebody else kept, such as a silo's log.head (may be repeated)",
    )


def _add_verify(commands: Any) -> None:
    parser = _command(commands, "verify", _verify, "replay the whole log and check every head")
    parser.add_argument("log", metavar="LOG", help="log.jsonl, or the directory that holds it")
    _add_key_and_heads(parser)


def _add_show(commands: Any) -> None:
    parser = _command(commands, "show", _show, "say what a log says (its chain is checked, nothing else)")
    parser.add_argument("log", metavar="LOG", help="log.jsonl, or the directory that holds it")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--round", type=int, metavar="N", help="one round: each silo's verdict, weight and reason")
    what.add_argument("--silo", metavar="NAME", help="one silo: its fate in every round")
    what.add_argument("--record", type=int, metavar="N", help="one record, whole")


def _add_certify(commands: Any) -> None:
    parser = _command(commands, "certify", _certify, "verify the log and write its fairness certificate")
    parser.add_argument("log", metavar="LOG", help="log.jsonl, or the directory that holds it")
    _add_key_and_heads(parser)
    parser.add_argument("--out", required=True, metavar="FILE", help="the certificate to write (JSON)")
    parser.add_argument("--report", metavar="FILE", help="a report for people to write as well (HTML)")


def _add_check(commands: Any) -> None:
    text = "make a certificate again from the log and compare it byte for byte"
    parser = _command(commands, "check-certificate", _check, text)
    parser.add_argument("certificate", metavar="CERT", help="the certificate (JSON)")
    parser.add_argument("--log", required=True, metavar="LOG", help="log.jsonl, or the directory that holds it")
    _add_key_and_heads(parser)
    parser.add_argument(
        "--model", metavar="FILE", help="the released model: flat float32, or .npz with an array 'flat'"
    )


def _verify(options: argparse.Namespace) -> int:
    from audit import display, tally

    history = _replayed(options, options.log)
    facts = {
        "verified": True,
        "federation": history.genesis.federation,
        "records": history.chain.size,
        "digest": history.chain.digest,
        "phase": history.phase.value,
        "rounds": len(history.rounds),
        "model": history.model,
        "heads_checked": 1 + len(options.head),
        "cosigned": tally.cosigned(history),
    }
    return _print(options, facts, display.verified)


def _show(options: argparse.Namespace) -> int:
    from audit import display, show
    from audit.files import LogFile

    log = LogFile(options.log)
    if options.record is not None:
        return _print(options, show.record(log, options.record), display.record)
    if options.round is not None:
        return _print(options, show.round_of(log, options.round), display.round_of)
    if options.silo is not None:
        return _print(options, show.silo_of(log, options.silo), display.silo_of)
    return _print(options, show.overview(log), display.overview)


def _certify(options: argparse.Namespace) -> int:
    from audit import display
    from audit.certificate import certify
    from audit.files import LogFile
    from audit.report import render
    from protos.codec import encode, pack

    history = _replayed(options, options.log)
    head = LogFile(options.log).head()
    assert head is not None, "verify_log demands a head"
    certificate = certify(history, head)
    _write(options.out, pack(certificate))
    if options.report:
        _write(options.report, render(certificate).encode())
    facts = {
        "certificate": options.out,
        "report": options.report,
        "met": certificate.met,
        "clauses": [encode(clause) for clause in certificate.clauses],
        "silos": [encode(silo) for silo in certificate.silos],
        "gap": encode(certificate.gap) if certificate.gap else None,
    }
    return _print(options, facts, display.certified)


def _check(options: argparse.Namespace) -> int:
    from audit import display
    from audit.certificate import check_certificate, parse_certificate
    from audit.files import read_at_most
    from audit.verify import history_at

    data = read_at_most(options.certificate, _LARGEST_INPUT, "any certificate")
    certificate = parse_certificate(data)
    model = read_at_most(options.model, _LARGEST_INPUT, "any model") if options.model else None
    history = _replayed(options, options.log, certificate.head)
    size = certificate.head.head.size
    if size < history.chain.size:
        history = history_at(options.log, size)
    check_certificate(data, history, model)
    facts = {
        "certificate": options.certificate,
        "holds": True,
        "records": size,
        "model": certificate.model,
        "model_checked": model is not None,
        "met": certificate.met,
    }
    return _print(options, facts, display.checked)


def _replayed(options: argparse.Namespace, log: str, *more: Any) -> History:
    from audit import display
    from audit.files import read_head, read_key
    from audit.verify import verify_log

    log_key = read_key(options.log_key)
    heads = [*map(read_head, options.head), *more]
    with display.progress("replaying the log") as update:
        return verify_log(log, log_key, heads, update)


def _print(options: argparse.Namespace, facts: dict[str, Any], show: Any) -> int:
    if options.json:
        print(json.dumps(facts, indent=2, sort_keys=True))
    else:
        show(facts)
    return OK


def _write(path: str, data: bytes) -> None:
    temporary = Path(f"{path}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except (OSError, ValueError) as error:
        temporary.unlink(missing_ok=True)
        raise UnwritableLog(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
