"""The frame of the command lines: a parser with exit codes in its help, and errors as one line on stderr.

The packages' `cli.py` say what they have commands for and what an error means; nothing but the standard library is
imported here, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

OK, REFUSED, UNUSABLE, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Program:
    """One command line.

    Attributes:
        name: as it is installed.
        description: one sentence of its help.
        epilog: what its exit codes mean, at the end of every help.
        code_of: the exit code of an error, or None for one that is a defect and shows its trace.
        interrupted: what to say after Ctrl-C.
    """

    name: str
    description: str
    epilog: str
    code_of: Callable[[Exception], int | None]
    interrupted: str = "interrupted"

    def parser(self) -> argparse.ArgumentParser:
        """The parser of the whole line, to which commands are added."""
        return _Parser(
            prog=self.name,
            description=self.description,
            epilog=self.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def commands(self, parser: argparse.ArgumentParser) -> Any:
        """Where a parser's commands go; one of them must be named."""
        return parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(
        self, commands: Any, name: str, function: Callable[[argparse.Namespace], int | None], text: str
    ) -> argparse.ArgumentParser:
        """Add a command: `function` gets the options and gives an exit code, or None for OK."""
        parser: argparse.ArgumentParser = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=self.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.set_defaults(command=function)
        return parser

    def run(self, parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
        """Run one command line and give its exit code; errors go to stderr in one line."""
        try:
            options = parser.parse_args(arguments)
            code: int | None = options.command(options)
            sys.stdout.flush()
        except KeyboardInterrupt:
            return self.fail(self.interrupted, INTERRUPTED)
        except Exception as error:
            code = self.code_of(error)
            if code is not None:
                return self.fail(error, code)
            if not isinstance(error, BrokenPipeError):
                raise
            # The reader has gone; what is still buffered must not raise again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or OK

    def fail(self, error: object, code: int) -> int:
        """Say the error in one line on stderr and give the code."""
        if isinstance(error, OSError):
            error = f"{error.filename or 'a file'}: {error.strerror or error}"
        _say_error(self.name, str(error))
        return code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _say_error(self.prog.split()[0], f"{message}; see {self.prog} --help")
        sys.exit(UNUSABLE)


def _say_error(name: str, text: str) -> None:
    sys.stderr.write(f"{name}: error: {' '.join(text.split())}\n")


def say(options: argparse.Namespace, facts: Mapping[str, Any], text: str) -> None:
    """Print the facts as one line of JSON where `--json` was said, else the text."""
    print(json.dumps(facts, sort_keys=True) if options.json else text)
