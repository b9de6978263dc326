"""A search between real processes: the root set travels, torch searches, the commands show and certify it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.federation import SILOS
from tests.integration.processes import Processes
from tools.processes import AUDIT, COORDINATOR, SILO, CommandFailed, call, facts

pytestmark = [pytest.mark.processes, pytest.mark.torch, pytest.mark.timeout(300)]


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Processes]:
    parties = Processes(tmp_path, rounds=1, root=True)
    yield parties
    parties.close()


def test_processes_search_the_model_and_release_it_only_if_the_search_allows(federation: Processes) -> None:
    federation.start()
    history = federation.finish()
    (search,) = history.searches
    assert set(search.reports) == set(SILOS)
    directory, coordinator = federation.directory, federation.coordinator_directory
    (shown,) = facts(COORDINATOR, "show", coordinator, "1")["searches"]
    assert shown["reports"] == 5
    assert (shown["result"] == "clean") == search.clean
    certificate = directory / "certificate.json"
    call(AUDIT, "certify", coordinator, "--log-key", coordinator / "log.pub", "--out", certificate)
    certified = json.loads(certificate.read_bytes())
    assert certified["released"] == (history.model if search.clean else None)
    export = (SILO, "export", directory / "ada", "--out", directory / "model.npz")
    if search.clean:
        assert facts(*export)["searched"]
    else:
        with pytest.raises(CommandFailed, match="no model may be released"):
            call(*export)
        assert not facts(*export, "--unsearched")["searched"]
