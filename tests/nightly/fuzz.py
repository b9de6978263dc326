"""Coverage-guided fuzzing of every parser of peer bytes with atheris (libFuzzer), from the committed corpus.

`python -m tests.nightly.fuzz all --seconds 600` shares the time among all targets; `... fuzz message --seconds 60` runs
one. What it finds new stays below build/fuzz, and so does an input that breaks a target, to be tried again by
`python -m tests.nightly.fuzz message FILE`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
BUILD = Path("build/fuzz")
MOST_BYTES = 16_384
TARGET_NAMES = (
    "canonical", "message", "record", "chunk", "sketch", "tags", "invitation", "head", "roster", "model", "secret",
    "sealed",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=("all", *TARGET_NAMES))
    parser.add_argument("file", nargs="?", type=Path, help="one input instead of fuzzing")
    parser.add_argument("--seconds", type=int, default=600)
    options = parser.parse_args()
    if options.target != "all":
        return _one(options.target, options.seconds, options.file)
    share = max(1, options.seconds // len(TARGET_NAMES))
    # A process for each: libFuzzer ends its own.
    failed = [name for name in TARGET_NAMES if _run(name, share) != 0]
    print(f"fuzzed {len(TARGET_NAMES)} parsers for {share} s each; broken: {failed or 'none'}")
    return 1 if failed else 0


def _run(name: str, seconds: int) -> int:
    command = [sys.executable, "-m", "tests.nightly.fuzz", name, "--seconds", str(seconds)]
    return subprocess.run(command, check=False).returncode


def _one(name: str, seconds: int, file: Path | None) -> int:
    import atheris

    # Atheris 3.0 keeps the result of every traced comparison of arrays: `ring` has nothing else, and would fill memory.
    traced = ["protos", "crypto", "audit", "silo", "rfc8785", "json"]
    with atheris.instrument_imports(include=traced, exclude=["crypto.ring"]):
        from tests.nightly.targets import TARGETS
    assert tuple(TARGETS) == TARGET_NAMES
    if file is not None:
        TARGETS[name](file.read_bytes())
        return 0
    found = BUILD / name
    found.mkdir(parents=True, exist_ok=True)
    arguments = [
        sys.argv[0], f"-max_total_time={seconds}", f"-max_len={MOST_BYTES}", "-print_final_stats=1", "-verbosity=0",
        "-timeout=20", f"-artifact_prefix={found}/crash-", str(found), str(CORPUS / name),
    ]  # fmt: skip
    atheris.Setup(arguments, TARGETS[name])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
