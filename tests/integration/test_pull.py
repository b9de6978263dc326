"""A federation whose silos are pulled towards global prototypes: every step of it follows from the log."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.files import LogFile
from audit.history import History
from audit.prototypes import global_prototypes
from audit.verify import verify_log
from protos.codec import unpack
from protos.records import Plan, Record
from redteam.plain import PlainSum
from redteam.simulator import Seat, Simulation
from silo.errors import UnsuitableModel
from silo.guidance import NONE, Guidance
from silo.pack import pack_task
from silo.trainer import trainer_for
from tests.integration.federation import CLASSES, INPUTS, SILOS, description, policy, records, task

pytestmark = [
    pytest.mark.integration,
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:Full backward hook"),
]

Ran = tuple[Path, str, dict[str, list[Guidance]]]
ROUNDS, WIDTH = 3, 5


def told(said: dict[str, list[Guidance]], name: str) -> Any:
    """A maker of the honest trainer that notes what it is guided by."""

    def make(task: Any, own: Any, entropy: Any) -> Any:
        real = trainer_for(task, own, entropy)

        class Noting:
            embed, evaluate = real.embed, real.evaluate

            def train(self, model: Any, training: Any, count: int, guidance: Guidance = NONE) -> Any:
                said.setdefault(name, []).append(guidance)
                return real.train(model, training, count, guidance)

        return Noting()

    return make


def federation(directory: Path, said: dict[str, list[Guidance]]) -> Simulation:
    model = {"kind": "mlp", "sizes": [INPUTS, WIDTH, CLASSES], "activation": "tanh"}
    prototypes = {"clip": 2.0, "noise": 6.8, "every": 2, "pull": 0.5}
    toy, first = pack_task(description(ROUNDS) | {"model": model, "prototypes": prototypes})
    seats = {
        name: Seat(records(index, 200), trainer=told(said, name), scheme=PlainSum) for index, name in enumerate(SILOS)
    }
    return Simulation(directory, toy, first, policy(fdr_micro=1), seats)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The directory of a finished run, its log key, and what each silo was guided by in each round."""
    directory: Path = tmp_path_factory.mktemp("pull")
    said: dict[str, list[Guidance]] = {}
    simulation = federation(directory, said)
    simulation.run()
    simulation.close()
    return directory, simulation.log_key.public, said


def test_every_round_is_adopted_and_the_log_verifies(ran: Ran) -> None:
    directory, log_key, _ = ran
    history = verify_log(directory / "log.jsonl", log_key)
    assert [view.outcome.result for view in history.rounds if view.outcome] == ["adopted"] * ROUNDS
    rules = [view.plan.prototypes for view in history.rounds]
    assert [None if rule is None else rule.pull_micro for rule in rules] == [500_000, None, 500_000]


def test_silos_are_pulled_towards_what_the_log_says_and_in_the_first_round_not_at_all(ran: Ran) -> None:
    directory, _, said = ran
    prefixes, history = [], History()
    for data in LogFile(directory / "log.jsonl").records():
        if unpack(Record, data).body["kind"] == Plan.KIND:
            prefixes.append(global_prototypes(history))
        history.apply(data)
    assert [None if found is None else found.round for found in prefixes] == [None, 1, 1]
    assert set(said) == set(SILOS)
    for silo in SILOS:
        assert said[silo][0] == NONE
        for guidance, found in zip(said[silo][1:], prefixes[1:], strict=True):
            assert guidance.pull is not None
            assert found is not None
            assert guidance.pull.strength == 0.5
            assert guidance.pull.prototypes.round == found.round
            assert np.array_equal(guidance.pull.prototypes.centres, found.centres)
            assert np.array_equal(guidance.pull.prototypes.known, found.known)
            assert found.known.all()


def test_task_with_a_pull_on_a_linear_model_is_trained_by_nobody(tmp_path: Path) -> None:
    """Such a task cannot be packed; a coordinator that writes one itself meets every silo's refusal."""
    toy, first = task()
    assert toy.prototypes is not None
    toy = replace(toy, prototypes=replace(toy.prototypes, pull_micro=1))
    seats = {name: Seat(records(index), scheme=PlainSum) for index, name in enumerate(SILOS)}
    simulation = Simulation(tmp_path, toy, first, policy(), seats)
    with pytest.raises(UnsuitableModel, match="nothing that prototypes could pull"):
        simulation.run()
    simulation.close()
