"""Facts for the operator, read from the database beside a coordinator that may be serving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from audit import turns
from audit.findings import described
from audit.history import History
from coordinator import lock
from coordinator.errors import NotReady
from coordinator.home import Config
from coordinator.server_file import SERVE_FILE
from coordinator.store import Store
from crypto.identity import fingerprint


def replayed(store: Store) -> History:
    """The federation's state as its log says, every record checked."""
    history = History()
    for record in store.records():
        history.apply(record)
    return history


def status(directory: Path, config: Config, store: Store, history: History) -> dict[str, Any]:
    """Where the federation stands and whether it is served."""
    answered = {silo for silo, _ in store.submissions()}
    searched = {} if history.genesis.task.search is None else {"triggers": [described(one) for one in history.triggers]}
    return searched | {
        "federation": config.federation,
        "serving": serving(directory),
        "phase": history.phase.value,
        "records": history.chain.size,
        "round": len(history.rounds),
        "rounds": history.genesis.task.rounds,
        "epoch": history.epoch,
        "members": len(history.members),
        "active": list(history.active),
        "convicted": dict(history.convicted),
        "awaited": [silo for silo in turns.awaited(history) if silo not in answered],
        "halted": history.halted,
        "model": history.model,
        "log_key": history.genesis.log_key,
    }


def silos(history: History) -> list[dict[str, Any]]:
    """Every member with its fingerprint, which operators compare."""
    return [
        {
            "name": member.name,
            "fingerprint": fingerprint(member.name, member.signing_key, member.exchange_key),
            "active": member.name in history.active,
            "convicted": history.convicted.get(member.name),
            "records": history.counts[member.name].total if member.name in history.counts else None,
        }
        for _, member in sorted(history.members.items())
    ]


def require_referee(history: History) -> None:
    """Before the first key epoch: a task's referee that is no member would leave searches to ballots unnoticed.

    Raises:
        NotReady: it has not enrolled.
    """
    rule = history.genesis.task.search
    if rule is not None and rule.referee is not None and not history.epoch and rule.referee not in history.members:
        raise NotReady(
            f"{rule.referee!r} is the task's referee and has not enrolled: `invite` it, or pack the task with another "
            "`search.referee` and make the federation anew"
        )


def serving(directory: Path) -> dict[str, Any] | None:
    """What `serve.json` says while a process holds the directory's lock, else None."""
    pid = lock.holder(directory)
    if pid is None:
        return None
    try:
        facts: dict[str, Any] = json.loads((directory / SERVE_FILE).read_bytes())
    except (OSError, ValueError):
        return {"pid": pid}
    return facts if facts.get("pid") == pid else {"pid": pid}
