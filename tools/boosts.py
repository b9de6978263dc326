"""How the demonstration's defence fares against weaker boosts of the same attack: `python -m tools.boosts`.

Each row is one run of the demonstration's federation in the simulator, with the poisoning silo's update multiplied by
another factor. Runs take about a minute each. With `--search` the silos search the model for triggers; the first
hundred test images are the public root set then and are not tested on.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from audit.history import History
from redteam.attacks.catalogue import demo as demo_attack
from redteam.digits import POISONED, digits
from redteam.simulator import Seat, Simulation
from silo import rootset
from silo.data import Records
from silo.entropy import OsEntropy
from silo.pack import pack_task
from silo.searcher import Root
from silo.trainer import trainer_for
from tools.demo_settings import policy, public_and_test, spec

BOOSTS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 8.0)


def run(boost: float, rounds: int, search: bool) -> dict[str, Any]:
    """One federation against one boost: verdicts on the poisoning silo, honest exclusions, and the final model."""
    data, attack = digits(), demo_attack(boost)
    public, untouched = public_and_test(data)
    root = Root(*public) if search else None
    test = Records(*untouched, *untouched)
    task, model = pack_task(tomllib.loads(spec(rounds)), root)
    seats = {name: Seat(own, trainer=attack if name == POISONED else trainer_for) for name, own in data.silos.items()}
    with tempfile.TemporaryDirectory() as directory:
        packed = None if root is None else rootset.to_bytes(root)
        simulation = Simulation(Path(directory), task, model, policy("guard"), seats, root=packed)
        convicted: dict[str, int] = {}

        def note(history: History) -> bool:
            for silo in history.convicted:
                convicted.setdefault(silo, len(history.rounds))
            return False

        history = simulation.run(note)
        final = next(iter(simulation.sessions.values())).workspace.load_model(task.layout.size, history.model)
        simulation.close()
    assert final is not None
    judged = [one for view in history.rounds if view.decision for one in view.decision.judgements]
    mine = [one for one in judged if one.silo == POISONED]

    def accuracy(records: Records) -> float:
        correct, total = trainer_for(task, records, OsEntropy()).evaluate(final)
        return correct / total

    return {
        "boost": boost,
        "excluded": sum(one.verdict == "excluded" for one in mine) / len(mine),
        "suspected": sum(one.verdict == "suspected" for one in mine) / len(mine),
        "mean_weight": sum(one.weight for one in mine) / len(mine),
        "honest_excluded": sum(one.weight == 0 for one in judged if one.silo != POISONED),
        "convicted_in": convicted.pop(POISONED, 0),
        "honest_convicted": len(convicted),
        "finds": sum(bool(view.blocking) for view in history.searches),
        "attack_success": accuracy(attack.triggered(test.features, test.labels)),
        "main_accuracy": accuracy(test),
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boosts", type=float, nargs="+", default=BOOSTS)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--search", action="store_true", help="search the model for triggers in every second round")
    options = parser.parse_args()
    console = Console() if sys.stdout.isatty() else Console(width=120)
    with console.status("simulating"):
        rows = [run(boost, options.rounds, options.search) for boost in options.boosts]
    table = Table(*rows[0], title=f"BadNets at {POISONED}, {options.rounds} rounds, one run each")
    for row in rows:
        table.add_row(*(f"{value:.3g}" for value in row.values()))
    console.print(table)
    Path("build").mkdir(exist_ok=True)
    Path(f"build/boosts{'-search' if options.search else ''}.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
