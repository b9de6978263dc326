"""The frame of the command lines: exit codes, one line on stderr, and defects that keep their trace."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from protos.program import INTERRUPTED, OK, REFUSED, UNUSABLE, Program, say


class Known(Exception):
    pass


def code_of(error: Exception) -> int | None:
    return UNUSABLE if isinstance(error, OSError) else REFUSED if isinstance(error, Known) else None


PROGRAM = Program("concordat-toy", "Toys.", "exit codes: few\n", code_of, interrupted="stopped; start it again")


def run(command: Callable[[argparse.Namespace], int | None], *arguments: str) -> int:
    parser = PROGRAM.parser()
    commands = PROGRAM.commands(parser)
    PROGRAM.command(commands, "go", command, "go there").add_argument("--json", action="store_true")
    deeper = PROGRAM.commands(commands.add_parser("task"))
    PROGRAM.command(deeper, "pack", command, "pack it")
    return PROGRAM.run(parser, arguments or ("go",))


def raising(error: BaseException) -> Callable[[argparse.Namespace], int | None]:
    def command(options: argparse.Namespace) -> int | None:
        raise error

    return command


@pytest.mark.parametrize(("given", "code"), [(None, OK), (0, OK), (1, REFUSED), (7, 7)])
def test_command_gives_the_exit_code(given: int | None, code: int) -> None:
    assert run(lambda options: given) == code


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (Known("say\n this   instead"), REFUSED, "say this instead"),
        (FileNotFoundError(2, "No such file", "there.toml"), UNUSABLE, "there.toml: No such file"),
        (OSError("disk is gone"), UNUSABLE, "a file: disk is gone"),
        (KeyboardInterrupt(), INTERRUPTED, "stopped; start it again"),
    ],
)
def test_known_error_is_one_line(error: BaseException, code: int, text: str, capsys: Any) -> None:
    assert run(raising(error)) == code
    assert capsys.readouterr() == ("", f"concordat-toy: error: {text}\n")


def test_defect_keeps_its_trace() -> None:
    with pytest.raises(ZeroDivisionError):
        run(raising(ZeroDivisionError()))


@pytest.mark.parametrize(
    ("arguments", "where"), [(("fly",), ""), (("go", "--far"), " go"), (("task", "pack", "x"), " task pack")]
)
def test_wrong_usage_is_one_line_that_names_the_help(arguments: tuple[str, ...], where: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        run(lambda options: OK, *arguments)
    error = capsys.readouterr().err
    assert caught.value.code == UNUSABLE
    assert error.startswith("concordat-toy: error: ")
    assert error.count("\n") == 1
    assert f"concordat-toy{where} --help" in error or "concordat-toy --help" in error


def test_every_help_ends_with_the_exit_codes(capsys: Any) -> None:
    for arguments in (("--help",), ("go", "--help"), ("task", "pack", "--help")):
        with pytest.raises(SystemExit):
            run(lambda options: OK, *arguments)
        assert capsys.readouterr().out.endswith("exit codes: few\n")


def test_reader_that_goes_away_is_no_error() -> None:
    code = (
        "import sys; from protos.program import Program\n"
        "program = Program('toy', '', '', lambda error: None)\n"
        "parser = program.parser()\n"
        "program.command(program.commands(parser), 'go', lambda options: print('x' * 2**20), '')\n"
        "sys.exit(program.run(parser, ['go']))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


@pytest.mark.parametrize(("as_json", "line"), [(True, '{"a": 1, "b": 2}\n'), (False, "words\n")])
def test_facts_are_said_as_asked(as_json: bool, line: str, capsys: Any) -> None:
    say(argparse.Namespace(json=as_json), {"b": 2, "a": 1}, "words")
    assert capsys.readouterr().out == line
