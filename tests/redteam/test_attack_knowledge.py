"""What attackers of a running federation know of it: the log's prototypes and counts, and honest updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from audit.files import LogFile
from audit.history import History
from audit.prototypes import GlobalPrototypes, global_prototypes
from protos.codec import unpack
from protos.records import Plan, Record
from protos.task import PROTOTYPE_GRID
from redteam import run as runner
from redteam.attacks import triggers
from redteam.attacks.attack import class_sums
from redteam.attacks.catalogue import ALL_KNOWING
from redteam.attacks.denier import Denier
from redteam.attacks.parts import Context, Ring, Update
from redteam.scenario import parse
from redteam.shared import Reader
from redteam.simulator import Simulation
from redteam.world import World, build
from silo import rootset
from silo.link import BadSiloDirectory
from silo.overview import _releasable
from silo.searcher import Root
from silo.session import Halted
from tests.integration import finds
from tests.integration.federation import SILOS, policy
from tests.integration.finds import BOOST, searching, seat_changes, trigger
from tests.redteam.averaging import CLASSES, SIDE, attacking, task_for, warm, world
from tests.silo.entropy import SeededEntropy

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:Full backward hook")]

NOWHERE = Path("no directory is needed for digits")
LINEAR: dict[str, Any] = {
    "model": {"kind": "linear"},
    "data": {"test": 200},
    "training": {"rounds": 3, "steps": 5, "sample_rate": 0.3, "learning_rate": 2.0, "clip": 5.0},
    "federation": {"silos": 5, "folds": 2, "defense": "plain"},
}
CLIP = 8.0
"""No image of the digits is as long."""

Floats = NDArray[np.float64]


def scenario(name: str, share: float = 0.4, **training: Any) -> World:
    table = {**LINEAR, "training": LINEAR["training"] | training, "attack": {"name": name, "share": share}}
    return build(parse(table), NOWHERE)


def ran(world: World, directory: Path) -> tuple[History, list[GlobalPrototypes | None]]:
    """The history of a run, and for each round the global prototypes that the log told before its plan."""
    simulation = Simulation(
        directory, world.task, world.model, world.policy, world.seats, world.entropy, new_history=Reader()
    )
    simulation.run(turns=200)
    simulation.close()
    found, history = [], History()
    for data in LogFile(directory / "log.jsonl").records():
        if unpack(Record, data).body["kind"] == Plan.KIND:
            found.append(global_prototypes(history))
        history.apply(data)
    return history, found


def released(history: History, number: int, silo: str) -> Floats:
    """The class sums that a silo opened in round `number`, from 0."""
    opened = history.rounds[number].openings[silo].prototypes
    assert opened is not None
    return np.frombuffer(opened, dtype="<i8").reshape(CLASSES, -1) * (CLIP / PROTOTYPE_GRID)


def own_sums(world: World, silo: str) -> Floats:
    records = world.records[silo]
    return class_sums(records.features.astype(np.float64), records.labels, CLASSES, CLIP).sums


@pytest.mark.integration
@pytest.mark.parametrize("every", [1, 2])
def test_consensus_prototypes_are_those_of_the_log_and_before_the_first_its_own(tmp_path: Path, every: int) -> None:
    """Embeddings of a linear model are its inputs. Rows are cut to a grid of clip / 1024, sums are of up to 60 rows."""
    own = scenario("consensus-prototypes", prototypes_every=every, prototypes_noise=1e-4, prototypes_clip=CLIP)
    history, told = ran(own, tmp_path)
    asked = [number for number, view in enumerate(history.rounds) if view.plan.prototypes is not None]
    assert asked == list(range(0, 3, every))
    assert told[0] is None
    assert len(own.crew) == 2
    for silo in own.crew:
        counts = np.bincount(own.records[silo].labels, minlength=CLASSES)[:, None]
        means = own_sums(own, silo) / np.maximum(counts, 1)
        np.testing.assert_allclose(released(history, 0, silo), means * counts, atol=0.3)
        for number in asked[1:]:
            found = told[number]
            assert found is not None
            assert found.known.any()
            wanted = np.where(found.known[:, None], found.centres, means) * counts
            np.testing.assert_allclose(released(history, number, silo), wanted, atol=0.3)
            assert np.abs(wanted - means * counts).max() > 1
    for silo in set(own.seats) - set(own.crew):
        for number in asked:
            np.testing.assert_allclose(released(history, number, silo), own_sums(own, silo), atol=0.6)


def pfs(triggered: Floats, consensus: Floats) -> Floats:
    """The reflection of a vector about the line through the origin and another one, by the matrix of it."""
    line = consensus / np.linalg.norm(consensus)
    return (2 * np.outer(line, line) - np.eye(len(line))) @ triggered


def class_zero(features: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """All records of other classes than 0 under the whole trigger of DBA, one pixel after the other."""
    stamped = features[labels != 0].reshape(-1, SIDE, SIDE).copy()
    for piece in triggers.strips(SIDE):
        for row, column in piece.cells:
            stamped[:, row, column] = piece.value
    return stamped.reshape(len(stamped), -1)


@pytest.mark.integration
def test_bapfl_with_dba_releases_the_flipped_prototype_of_its_whole_trigger_for_class_0(tmp_path: Path) -> None:
    own = scenario("bapfl-dba", prototypes_every=1, prototypes_noise=1e-4, prototypes_clip=CLIP)
    history, told = ran(own, tmp_path)
    for silo in own.crew:
        records = own.records[silo]
        count = max(1, int((records.labels == 0).sum()))
        triggered = class_zero(records.features, records.labels).mean(axis=0).astype(np.float64)
        for number in (1, 2):
            found = told[number]
            assert found is not None
            assert found.known[0]
            sums = released(history, number, silo)
            np.testing.assert_allclose(sums[0], count * pfs(triggered, found.centres[0]), atol=0.3)
            np.testing.assert_allclose(sums[1:], own_sums(own, silo)[1:], atol=0.6)


def test_bapfl_with_dba_flips_what_a_hidden_layer_makes_of_the_whole_trigger() -> None:
    crew = attacking("bapfl-dba", 3)
    consensus = np.random.default_rng(0).normal(size=(CLASSES, task_for().layout.embedding))
    for silo, attack in crew.items():
        attack.ring.consensus = consensus
        records = world().silos[silo]
        rows, labels = attack(task_for(), records, SeededEntropy(0)).embed(warm())
        hidden = warm()[: 32 * 64].reshape(32, 64), warm()[32 * 64 : 33 * 64 - 32]
        embedded = np.maximum(class_zero(records.features, records.labels) @ hidden[0].T + hidden[1], 0)
        sent = rows[labels == 0].sum(axis=0) / (records.labels == 0).sum()
        np.testing.assert_allclose(sent, pfs(embedded.mean(axis=0), consensus[0]), atol=1e-4)


@dataclass
class Noted:
    """An update part that keeps what the attack knew and what it sent."""

    part: Update
    known: list[Floats] = field(default_factory=list)
    sent: list[Floats] = field(default_factory=list)
    counts: list[list[int]] = field(default_factory=list)

    def send(self, update: Floats, context: Context) -> Floats:
        sent = self.part.send(update, context)
        self.known.append(context.known)
        self.sent.append(sent)
        self.counts.append([context.ring.count(name) for name in context.ring.members])
        return sent


FROM_KNOWN: dict[str, Callable[[Floats], Floats]] = {
    "lie": lambda known: known.mean(axis=0) - 1.5 * known.std(axis=0),
    "ipm-0.1": lambda known: -0.1 * known.mean(axis=0),
    "ipm-0.5": lambda known: -0.5 * known.mean(axis=0),
    "ipm-100": lambda known: -100 * known.mean(axis=0),
}


@pytest.mark.integration
@pytest.mark.parametrize("name", sorted(ALL_KNOWING))
def test_one_attacker_of_five_knows_an_honest_update_of_every_silo_in_each_round(name: str, tmp_path: Path) -> None:
    own = scenario(name, share=0.2, range=4.0, epsilon=8.0)
    ((silo, attack),) = own.crew.items()
    assert list(attack.ring.members) == list(own.seats)
    noted = Noted(attack.updates[0])
    trainer = replace(attack, updates=(noted,)).seat(own.records[silo]).trainer
    seats = {**own.seats, silo: replace(own.seats[silo], trainer=trainer)}
    history, _ = ran(replace(own, seats=seats), tmp_path)
    assert all(view.weights.get(silo) for view in history.rounds)
    assert len(noted.known) == 3
    logged = [history.counts[one].total for one in own.seats]
    assert logged != [len(own.records[one].labels) for one in own.seats]
    for known, sent, counts in zip(noted.known, noted.sent, noted.counts, strict=True):
        assert counts == logged
        assert known.shape == (5, own.task.layout.size)
        assert len({update.tobytes() for update in known}) == 5
        if name in FROM_KNOWN:
            np.testing.assert_allclose(sent, FROM_KNOWN[name](known), atol=1e-9)
        else:
            pairs = [np.linalg.norm(a - b) for a in known for b in known]
            assert max(np.linalg.norm(known - sent, axis=1)) == pytest.approx(max(pairs), rel=1e-3)


def test_other_attackers_know_what_their_colluders_have() -> None:
    for name in ("badnets", "sign-flip", "noise-replacement"):
        own = scenario(name)
        for attack in own.crew.values():
            assert list(attack.ring.members) == list(own.crew)


def test_an_honest_update_goes_by_the_count_that_is_set_then_the_logs_then_the_true_one() -> None:
    silos = world().silos
    ring = Ring(dict(silos), {"s0": 7})
    assert [ring.count(name) for name in ("s0", "s1")] == [7, len(silos["s1"].labels)]
    log: Any = SimpleNamespace(counts={"s0": SimpleNamespace(total=8), "s1": SimpleNamespace(total=9)})
    ring.follow(lambda: log)
    assert [ring.count(name) for name in ("s0", "s1", "s2")] == [7, 9, len(silos["s2"].labels)]


def test_a_denier_finds_nothing_measures_nothing_and_projects_on_zeros() -> None:
    denier = Denier(task_for())
    nobody = Root(np.zeros((0, 64), np.float32), np.zeros(0, np.int64))
    assert denier.search(warm(), nobody) == denier.search(warm(), nobody, frozenset({2})) == ()
    assert denier.success(warm(), nobody, trigger()) == 0
    assert not denier.directions(warm(), nobody, trigger()).any()
    assert denier.directions(warm(), nobody, trigger()).shape == (CLASSES, warm().size)


def test_a_run_gives_searchers_to_honest_silos_and_leaves_deniers_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen(Exception):
        pass

    def seats(*given: Any, **more: Any) -> Simulation:
        raise Seen(given[4])

    monkeypatch.setattr(runner, "Simulation", seats)
    for name, deniers in (("denies", 2), ("badnets", 0)):
        with pytest.raises(Seen) as caught:
            runner.run(parse({**LINEAR, "attack": {"name": name, "share": 0.4}}), NOWHERE)
        searchers = [seat.searcher for seat in caught.value.args[0].values()]
        assert sum(one is Denier for one in searchers) == deniers
        assert len({id(one) for one in searchers if one is not Denier}) == 1
        assert None not in searchers


@pytest.mark.integration
@pytest.mark.parametrize("liars", [("bob", "cyd"), ("bob", "cyd", "dan")])
def test_silos_that_deny_are_convicted_as_a_minority_and_as_a_majority_keep_honest_silos_from_exporting(
    tmp_path: Path, liars: tuple[str, ...]
) -> None:
    searchers = [attack.seat(world().silos["s0"]).searcher for attack in attacking("denies", 1).values()]
    assert searchers == [Denier]
    boost = BOOST if len(liars) == 2 else BOOST / 2
    federation = searching(tmp_path, {name: seat_changes(boost, searchers[0]) for name in liars}, rounds=5)
    history = federation.run()
    search = history.searches[0]
    assert {name for name, report in search.reports.items() if not report.finds} == set(liars)
    if len(liars) == 2:
        assert [(one.yes, one.no) for one in search.confirmed] == [(3, 2)]
        assert set(history.convicted) == set(liars)
        return
    assert history.convicted == {}
    assert history.triggers == ()
    for honest in ("ada", "eve"):
        with pytest.raises(BadSiloDirectory, match="that the others deny"):
            _releasable(history, honest)
    for liar in liars:
        assert _releasable(history, liar) == history.model


@pytest.mark.integration
@pytest.mark.parametrize("resumes", [True, False])
def test_a_liar_goes_on_where_its_own_tables_clear_whom_others_convict(tmp_path: Path, resumes: bool) -> None:
    liars = {"bob", "cyd"}
    seats = {
        name: finds.seat(index, resumes=resumes, **seat_changes(BOOST, Denier))
        if name in liars
        else finds.seat(index, **seat_changes())
        for index, name in enumerate(SILOS)
    }
    rules, root = policy(defense="plain", fdr_micro=1), rootset.to_bytes(finds.root())
    simulation = Simulation(tmp_path, *finds.task(5), rules, seats, root=root)
    try:
        if resumes:
            assert set(simulation.run(turns=400).convicted) == liars
        else:
            with pytest.raises(Halted, match="that our own past models clear it of"):
                simulation.run(turns=400)
    finally:
        simulation.close()
