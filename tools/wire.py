"""Generate `protos/wire` from `protos/concordat`: `python -m tools.wire`, or `--check` that what is there is fresh."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from importlib import resources
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "protos"
TARGET = SOURCES / "wire"
PACKAGE = "concordat/v1"
_IMPORT = re.compile(r"^from concordat\.v1 import (\w+)_pb2 as", re.MULTILINE)
_SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")


def generate() -> dict[str, str]:
    """Name and text of every generated file.

    Raises:
        RuntimeError: if the compiler refuses a source; its message is on standard error.
    """
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        _compile(out)
        files = sorted(path for path in (out / PACKAGE).iterdir() if path.name.endswith(_SUFFIXES))
        return {path.name: _adapted(path.read_text(encoding="utf-8")) for path in files}


def stale(generated: dict[str, str]) -> list[str]:
    """Names of files in `protos/wire` that differ from what the sources give, are missing, or have no source."""
    present = {
        path.name: path.read_text(encoding="utf-8") for path in TARGET.iterdir() if path.name.endswith(_SUFFIXES)
    }
    return sorted(name for name in present.keys() | generated.keys() if present.get(name) != generated.get(name))


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0 if fresh or written, 1 if stale or the compiler fails."""
    parser = argparse.ArgumentParser(prog="python -m tools.wire", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the generated code is stale")
    options = parser.parse_args(arguments)
    try:
        generated = generate()
    except RuntimeError as error:
        print(f"tools.wire: error: {error}", file=sys.stderr)
        return 1
    wrong = stale(generated)
    if options.check:
        for name in wrong:
            print(f"tools.wire: error: protos/wire/{name} is stale: run `make wire`", file=sys.stderr)
        return 1 if wrong else 0
    for name in wrong:
        (TARGET / name).unlink(missing_ok=True)
    for name, text in generated.items():
        (TARGET / name).write_text(text, encoding="utf-8")
    return 0


def _compile(out: Path) -> None:
    from grpc_tools import protoc  # type: ignore[import-untyped]  # has no types

    includes = resources.files("grpc_tools") / "_proto"
    names = sorted(f"{PACKAGE}/{path.name}" for path in (SOURCES / PACKAGE).glob("*.proto"))
    options = [f"-I{SOURCES}", f"-I{includes}", f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}"]
    if protoc.main(["protoc", *options, *names]) != 0:
        raise RuntimeError("protoc refuses the sources in protos/concordat: correct them as it says above")


def _adapted(text: str) -> str:
    """Generated modules live in `protos.wire`, not where the protobuf package says."""
    return _IMPORT.sub(r"from protos.wire import \1_pb2 as", text)


if __name__ == "__main__":
    sys.exit(main())
