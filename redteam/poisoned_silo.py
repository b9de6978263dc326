"""A silo of production that poisons: same session, keys and messages, another trainer. For demonstrations and tests."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from redteam.badnets import BadNets
from silo.desk import LocalPolicy
from silo.errors import SiloError
from silo.runner import Work, run


def main() -> None:
    """`python -m redteam.poisoned_silo DIR --data FILE`: run an enrolled silo with the BadNets trainer."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--boost", type=float, default=BadNets.boost)
    options = parser.parse_args()
    ledger = options.data.with_name(options.data.name + ".ledger")
    work = Work(options.directory, options.data, ledger, LocalPolicy(), trainer=BadNets(boost=options.boost))
    try:
        run(work, lambda session, progress: print(progress, flush=True))
    except SiloError as error:
        sys.exit(f"poisoned silo: error: {error}")


if __name__ == "__main__":
    main()
