"""`python -m redteam.privacy`: makes table I from MNIST and writes it as CSV."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from redteam.datasets import load
from redteam.errors import RedTeamError
from redteam.privacy.table import table_i
from redteam.rows import shown, write

SEEDS = (1, 2, 3)
"""Seed 0 was for choosing sizes."""


def main() -> None:
    """Print each row as it is measured, then write all."""
    parser = argparse.ArgumentParser(prog="python -m redteam.privacy", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="directory with the data sets")
    parser.add_argument("--out", type=Path, default=Path("docs/results/table-i.csv"))
    options = parser.parse_args()
    try:
        data = load("mnist", options.data)
    except RedTeamError as error:
        sys.exit(f"redteam.privacy: error: {error}")
    rows = []
    for row in table_i(data, SEEDS):
        print(shown(row), flush=True)
        rows.append(row)
    write(rows, options.out)


if __name__ == "__main__":
    main()
