"""The coordinator's command line: one line per error, exit codes as documented, and a directory that serves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator import home
from coordinator.cli import run
from coordinator.errors import BadPolicy
from coordinator.policy import policy_from
from coordinator.store import Store
from protos.codec import pack
from protos.task import MICRO
from silo import rootset
from silo.pack import pack_task
from silo.searcher import Root

SPEC: dict[str, Any] = {
    "name": "toy",
    "rounds": 2,
    "sample_rate": 0.5,
    "steps": 1,
    "learning_rate": 0.5,
    "clip": 1.0,
    "evaluation_noise": 20.0,
    "counts_noise": 20.0,
    "epsilon": 8.0,
    "delta": 1e-4,
    "range": 1.6,
    "folds": 2,
    "seed": 1,
    "model": {"kind": "linear", "sizes": [16, 4], "activation": "identity"},
}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("task")
    task, model = pack_task(SPEC)
    (directory / "task.json").write_bytes(pack(task))
    (directory / "model.f32").write_bytes(model)
    return directory


@pytest.fixture
def founded(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert run(["init", str(tmp_path / "c"), "--task", str(packed), "--name", "fed"]) == 0
    capsys.readouterr()
    return tmp_path / "c"


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("concordat-coordinator: error: ")
    assert err.count("\n") == 1
    return err


def test_init_founds_a_federation_with_private_keys(founded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", str(founded), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["federation"], facts["phase"], facts["records"], facts["serving"]) == ("fed", "enrolling", 1, None)
    assert (founded / "log.pub").read_text().strip() == facts["log_key"]
    modes = {name: (founded / name).stat().st_mode & 0o777 for name in ("authority.key", "log.key")}
    assert modes == {"authority.key": 0o600, "log.key": 0o600}
    assert founded.stat().st_mode & 0o777 == 0o700


def test_init_of_a_directory_in_use_is_refused_and_changes_nothing(
    founded: Path, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in founded.iterdir() if path.is_file()}
    assert run(["init", str(founded), "--task", str(packed), "--name", "fed"]) == 2
    assert "already" in _error(capsys)
    assert {path.name: path.read_bytes() for path in founded.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--name", "Not A Name"), "no federation can be founded"),
        (("--task", "/nonexistent"), "cannot be read"),
        (("--policy", "/nonexistent.toml"), "cannot be read"),
    ],
)
def test_init_with_wrong_input_is_one_line_and_exit_code_2(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], words: str
) -> None:
    arguments = {"--task": str(packed), "--name": "fed"} | {change[0]: change[1]}
    assert run(["init", str(tmp_path / "c"), *[text for pair in arguments.items() for text in pair]]) == 2
    assert words in _error(capsys)
    assert not (tmp_path / "c").exists()


def test_init_with_a_model_that_the_task_does_not_pin_is_refused(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "task.json").write_bytes((packed / "task.json").read_bytes())
    model = bytearray((packed / "model.f32").read_bytes())
    model[0] ^= 1
    (tmp_path / "model.f32").write_bytes(model)
    assert run(["init", str(tmp_path / "c"), "--task", str(tmp_path), "--name", "fed"]) == 2
    assert "not the model that the task pins" in _error(capsys)


@pytest.mark.parametrize("command", ["status", "silos", "start", "stop", "serve"])
def test_directory_that_is_no_coordinators_is_refused_and_stays_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert run([command, str(tmp_path)]) == 2
    assert "no coordinator's directory" in _error(capsys)
    assert list(tmp_path.iterdir()) == []


def test_what_needs_a_serving_coordinator_says_so(founded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["stop", str(founded)], ["invite", str(founded), "a"]):
        assert run(arguments) == 1
        assert "nobody serves" in _error(capsys)


def test_invitation_for_a_name_that_no_silo_can_have_is_refused(
    founded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["invite", str(founded), "Not A Name", "--address", "x:1"]) == 1
    assert "no invitation can be made" in _error(capsys)


def test_start_is_noted_for_the_serving_process(founded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["start", str(founded), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"started": True, "serving": False}
    store = Store(home.read_config(founded).database)
    assert store.note("start") == b"1"
    store.close()


def test_start_without_the_tasks_referee_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    root = Root(random.random((40, 16)).astype(np.float32), np.arange(40, dtype=np.int64) % 4)
    task, model = pack_task(SPEC | {"search": {"referee": "judge"}}, root)
    packed, founded = tmp_path / "task", tmp_path / "c"
    packed.mkdir()
    for name, data in (("task.json", pack(task)), ("model.f32", model), ("root.bin", rootset.to_bytes(root))):
        (packed / name).write_bytes(data)
    assert run(["init", str(founded), "--task", str(packed), "--name", "fed"]) == 0
    capsys.readouterr()
    assert run(["start", str(founded)]) == 1
    assert "'judge' is the task's referee and has not enrolled: `invite` it" in _error(capsys)
    with closing(Store(home.read_config(founded).database)) as store:
        assert store.note("start") is None


def test_round_that_does_not_exist_is_one_line(founded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(founded), "7"]) == 1
    assert "7" in _error(capsys)


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["serve", "x", "--port", "65536"], ["show", "x", "one"]])
def test_wrong_usage_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(arguments)
    assert caught.value.code == 2
    assert "--help" in _error(capsys)


def test_help_needs_nothing_heavy_and_documents_exit_codes() -> None:
    code = (
        "import sys\n"
        "from coordinator.cli import run\n"
        "try:\n    run(['serve', '--help'])\nexcept SystemExit as done:\n    assert done.code == 0\n"
        "heavy = {'torch', 'grpc', 'sqlalchemy', 'numpy', 'cryptography', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "exit codes:" in done.stdout


def test_restored_backup_of_the_database_is_not_served(founded: Path) -> None:
    config = home.read_config(founded)
    database = Path(config.database.removeprefix("sqlite:///"))
    with home.opened_store(config) as store:
        home.open_service(founded, store)
    backup = database.read_bytes()
    with home.opened_store(config) as store:
        home.open_service(founded, store).enrol("a", "1" * 64, "2" * 64)
    database.write_bytes(backup)
    for suffix in ("-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    with home.opened_store(config) as store, pytest.raises(home.StoreError, match="1 records and 2 were signed"):
        home.open_service(founded, store)
    database.unlink()
    with home.opened_store(config) as store, pytest.raises(home.StoreError, match="0 records"):
        home.open_service(founded, store)


def test_policy_in_peoples_units_becomes_integers() -> None:
    policy = policy_from({"floor": 0.25, "cap": 3, "fdr": 0.05, "deadlines": {"open_s": 1.5}, "defense": "plain"})
    assert (policy.floor_micro, policy.cap_micro, policy.fdr_micro) == (MICRO // 4, 3 * MICRO, MICRO // 20)
    assert (policy.deadlines.open_ms, policy.deadlines.verify_ms, policy.defense) == (1500, 300_000, "plain")


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"flor": 0.5}, "unknown flor"),
        ({"deadlines": {"open": 1}}, "unknown deadlines.open"),
        ({"deadlines": 5}, "must be a table"),
        ({"floor": 1.5}, "floor_micro"),
        ({"cap": 0.5}, "cap_micro"),
        ({"floor": "half"}, "floor must be a number"),
        ({"floor": float("nan")}, "floor"),
        ({"fdr": 0.00000001}, "fdr is finer"),
        ({"privacy_minimum": 1}, "privacy_minimum"),
        ({"total_weight": 1025}, "total_weight"),
        ({"quorum_minimum": 3.5}, "quorum_minimum"),
        ({"defense": "magic"}, "choose one of"),
    ],
)
def test_policy_entry_that_makes_no_sense_is_named(entries: dict[str, Any], words: str) -> None:
    with pytest.raises(BadPolicy, match=words):
        policy_from(entries)


class Served:
    """A serving process on ports of the system's choice."""

    def __init__(self, directory: Path) -> None:
        command = [sys.executable, "-m", "coordinator.cli", "serve", str(directory), "--port", "0", "--enrol-port", "0"]
        self.process = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read() if self.process.stderr else ""
        self.facts: dict[str, Any] = json.loads(line)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        _, err = self.process.communicate(timeout=30)
        return self.process.returncode, err


@pytest.fixture
def served(founded: Path) -> Iterator[Served]:
    made = Served(founded)
    yield made
    made.end(signal.SIGKILL)


@pytest.mark.processes
def test_serving_process_says_where_it_listens_and_ends_at_sigterm(founded: Path, served: Served) -> None:
    assert json.loads((founded / "serve.json").read_text()) == served.facts
    assert served.facts["pid"] == served.process.pid
    assert served.end() == (0, "")
    assert not (founded / "serve.json").exists()


@pytest.mark.processes
def test_stop_ends_the_serving_process(founded: Path, served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", str(founded), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["serving"] == served.facts
    assert run(["stop", str(founded)]) == 0
    assert served.process.wait(10) == 0


@pytest.mark.processes
def test_second_coordinator_on_the_directory_is_refused_and_the_first_goes_on(
    founded: Path, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", str(founded), "--port", "0", "--enrol-port", "0"]) == 1
    assert f"process {served.process.pid} already serves" in _error(capsys)
    assert served.process.poll() is None
    assert json.loads((founded / "serve.json").read_text()) == served.facts


@pytest.mark.processes
def test_port_in_use_is_one_line_and_leaves_the_directory_free(
    founded: Path, served: Served, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    assert run(["init", str(other), "--task", str(packed), "--name", "other"]) == 0
    capsys.readouterr()
    port = str(served.facts["port"])
    assert run(["serve", str(other), "--port", port, "--enrol-port", "0"]) == 1
    assert f"port {port} on 127.0.0.1 is in use" in _error(capsys)
    assert run(["stop", str(other)]) == 1
    assert "nobody serves" in _error(capsys)


@pytest.mark.processes
def test_killed_coordinator_is_not_taken_for_a_serving_one_and_serves_again(
    founded: Path, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    served.end(signal.SIGKILL)
    assert run(["status", str(founded), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["serving"] is None
    again = Served(founded)
    assert again.end()[0] == 0


@pytest.mark.processes
def test_silo_joins_by_command_line_and_is_listed_with_its_fingerprint(
    founded: Path, served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from silo.cli import run as silo

    assert run(["invite", str(founded), "a", "--json"]) == 0
    token = json.loads(capsys.readouterr().out)["token"]
    assert silo(["init", str(tmp_path / "a"), "--token", token, "--yes", "--json"]) == 0
    fingerprint = json.loads(capsys.readouterr().out)["fingerprint"]
    assert run(["silos", str(founded), "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["silos"]
    assert (listed["name"], listed["fingerprint"]) == ("a", fingerprint)
    assert silo(["init", str(tmp_path / "b"), "--token", token, "--yes"]) == 1
    assert "has been used" in capsys.readouterr().err
    time.sleep(0.3)
    assert served.process.poll() is None
