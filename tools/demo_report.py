"""What the demonstration found: facts for `summary.json`, and the table at its end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from audit.files import LogFile
from audit.history import History
from protos.records import Judgement
from protos.task import MICRO, NANO, Task
from redteam.attacks.catalogue import demo as demo_attack
from redteam.digits import POISONED, SIZES, UNUSUAL
from silo.data import Records
from silo.entropy import OsEntropy
from silo.trainer import trainer_for
from tools.demo_settings import public_and_test

if TYPE_CHECKING:
    from tools.demo import Demo


def summarise(demo: Demo, plain: NDArray[np.float32]) -> dict[str, Any]:
    """Facts of the run: measured on the exported model and on the log, not on what any party claims."""
    task, model, (_, test) = demo.task(), demo.model(), public_and_test(demo.data)
    attack = demo_attack()
    test_records, triggered = Records(*test, *test), attack.triggered(*test)
    history = _history(demo.coordinator / "log.jsonl")
    return {
        "main_accuracy": _accuracy(task, test_records, model),
        "attack_success": _accuracy(task, triggered, model),
        "plain_main_accuracy": _accuracy(task, test_records, plain),
        "plain_attack_success": _accuracy(task, triggered, plain),
        "rounds": len(history.rounds),
        "searches": len(history.searches),
        "finds": sum(len(view.confirmed) for view in history.searches),
        "released_round": next((one.search.round for one in reversed(history.searches) if one.clean), None),
        "convicted": dict(sorted(history.convicted.items())),
        "rounds_adopted": sum(view.adopted for view in history.rounds),
        "log": str(demo.coordinator / "log.jsonl"),
        "log_key": str(demo.coordinator / "log.pub"),
        "certificate": str(demo.directory / "certificate.json"),
        "report": str(demo.directory / "report.html"),
        "model": str(demo.directory / "model.npz"),
        "silos": [_silo(demo, history, task, model, name) for name in SIZES],
    }


def show(console: Console, summary: dict[str, Any]) -> None:
    """The closing table and where to look further."""
    table = Table(title="Six silos, one of them poisoning")
    for name in ("silo", "records", "ε spent", "weight", "excluded", "verdict of the last round, and why", "accuracy"):
        table.add_column(name, justify="left" if name.startswith(("silo", "verdict")) else "right")
    for silo in summary["silos"]:
        table.add_row(
            silo["name"] + ("*" if silo["poisons"] else ""),
            str(silo["records"]),
            "none honest" if silo["poisons"] else f"{silo['epsilon']:.2f}",
            f"{silo['weight_min']}-{silo['weight_max']}",
            f"{silo['excluded_rounds']}/{silo['rounds']}",
            f"{silo['verdict']}: {silo['why']}",
            f"{silo['accuracy']:.3f}",
        )
    console.print(table)
    console.print(f"* poisons: it adds no noise, so its ε means nothing. {UNUSUAL} holds 90 % of one digit.")
    outcome = Table(title="Measured on a test set that no silo has")
    for name in ("federation", "main accuracy", "attack success"):
        outcome.add_column(name)
    outcome.add_row("Concordat", f"{summary['main_accuracy']:.3f}", f"{summary['attack_success']:.3f}")
    outcome.add_row(
        "plain averaging", f"{summary['plain_main_accuracy']:.3f}", f"{summary['plain_attack_success']:.3f}"
    )
    console.print(outcome)
    number = summary["released_round"]
    released = f"the model of round {number}" if number else "none, the last one was exported unsearched"
    console.print(
        f"{summary['searches']} searches of the model with {summary['finds']} confirmed finds; convicted: "
        f"{', '.join(summary['convicted']) or 'nobody'}; released: {released}"
    )
    console.print(
        f"log verified, {summary['records_verified']} records, against the heads of all silos: {summary['log']}"
    )
    for name in ("certificate", "report", "model"):
        console.print(f"{name}: {summary[name]}")
    console.print(f"{summary['seconds']:.0f} s")


def _history(log: Path) -> History:
    history = History()
    for record in LogFile(log).records():
        history.apply(record)
    return history


def _accuracy(task: Task, records: Records, model: NDArray[np.float32]) -> float:
    """Share of the records' hold-out that the model classifies as labelled."""
    correct, total = trainer_for(task, records, OsEntropy()).evaluate(model)
    return correct / total


def _silo(demo: Demo, history: History, task: Task, model: NDArray[np.float32], name: str) -> dict[str, Any]:
    judged = [_judgement(view.decision.judgements, name) for view in history.rounds if view.decision is not None]
    mine = [judgement for judgement in judged if judgement is not None]
    weights = [judgement.weight for judgement in mine if judgement.weight > 0] or [0]
    receipts = [view.openings[name].receipt for view in history.rounds if name in view.openings]
    last = mine[-1] if mine else None
    return {
        "name": name,
        "records": len(demo.data.silos[name].labels),
        "epsilon": receipts[-1].epsilon_micro / MICRO if receipts else 0.0,
        "delta": task.budget.delta_nano / NANO,
        "rounds": len(mine),
        "excluded_rounds": sum(judgement.weight == 0 for judgement in mine),
        "weight_min": min(weights),
        "weight_max": max(weights),
        "accuracy": _accuracy(task, demo.data.silos[name], model),
        "poisons": name == POISONED,
        "verdict": last.verdict if last else "absent",
        "why": last.reason if last else "took no part",
    }


def _judgement(judgements: tuple[Judgement, ...], name: str) -> Judgement | None:
    return next((judgement for judgement in judgements if judgement.silo == name), None)
