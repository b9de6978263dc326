"""The task's own searcher in a whole federation: every silo finds, measures and attributes alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.service import Service
from protos.rounds import Phase
from redteam.simulator import Seat
from silo import rootset
from tests.integration.bench import Bench, OneKey, WatchedLink, replay
from tests.integration.federation import SILOS
from tests.integration.finds import INPUTS, TARGET, records, root, seat_changes, task

pytestmark = pytest.mark.torch

LIAR = "bob"
FEATURES = slice(INPUTS - 3, INPUTS)


def test_silos_with_torch_find_the_same_trigger_and_make_the_same_tables(tmp_path: Path) -> None:
    """Three input values to one class, boosted: the cheapest mask by far."""
    import torch

    torch.set_num_threads(1)
    poisoner = seat_changes(0.0)["trainer"]

    def poison(toy, own, entropy):  # type: ignore[no-untyped-def]
        made = poisoner(toy, own, entropy)
        honest = made.train

        def train(model, training, count, *guidance):  # type: ignore[no-untyped-def]
            update = honest(model, training, count, *guidance)
            weights = update[: 3 * INPUTS].reshape(3, INPUTS)
            weights[TARGET, FEATURES] += 1.5
            return update

        made.train = train
        return made

    seats = {
        name: Seat(records(index), scheme=OneKey, link=WatchedLink, **({"trainer": poison} if name == LIAR else {}))
        for index, name in enumerate(SILOS)
    }
    federation = Bench(tmp_path, seats, Service, task(rounds=1), {"defense": "plain"}, rootset.to_bytes(root()))
    history = federation.run()
    assert history.phase is Phase.FINISHED
    assert federation.errors == {}
    search = history.search
    assert set(search.reports) == set(SILOS)
    assert len({report.finds for report in search.reports.values()}) == 1
    assert all(len(set(search.measured(find).values())) == 1 for find in search.triggers)
    cases = search.attributed.cases if search.attributed else ()
    assert all(case.agreeing == case.tables == 5 for case in cases)
    assert replay(federation).chain.digest == history.chain.digest
