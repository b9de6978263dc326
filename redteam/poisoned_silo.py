"""A silo of production that poisons: same session, keys and messages, another trainer. For demonstrations and tests."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from redteam.attacks.catalogue import DEMO_BOOST, demo
from silo.desk import LocalPolicy
from silo.errors import SiloError
from silo.runner import Work, run


def main() -> None:
    """`python -m redteam.poisoned_silo DIR --data FILE`: run an enrolled silo with the demonstration's attack."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--boost", type=float, default=DEMO_BOOST)
    options = parser.parse_args()
    ledger = options.data.with_name(options.data.name + ".ledger")
    work = Work(options.directory, options.data, ledger, LocalPolicy(), trainer=demo(options.boost))
    try:
        run(work, lambda session, progress: print(progress, flush=True))
    except SiloError as error:
        sys.exit(f"poisoned silo: error: {error}")


if __name__ == "__main__":
    main()
