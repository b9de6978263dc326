"""`serve.json`: where a serving coordinator listens. Apart from the server, so that reading it needs no gRPC."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

SERVE_FILE = "serve.json"


def write(directory: Path, facts: dict[str, Any]) -> None:
    """Write the file at once."""
    temporary = directory / f"{SERVE_FILE}.tmp"
    temporary.write_text(json.dumps(facts), encoding="utf-8")
    os.replace(temporary, directory / SERVE_FILE)


def remove(directory: Path) -> None:
    """Remove the file if it is there."""
    (directory / SERVE_FILE).unlink(missing_ok=True)
