"""The silo's command line: one line per error, exit codes as documented, approvals, tasks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crypto.scheme import BFV_SCHEME, SCHEME
from protos.codec import unpack
from protos.task import Task
from silo.cli import run
from silo.identity import Enrolled, make_keys, save_enrolment
from silo.link import BadSiloDirectory
from silo.runner import approved, locked
from tests.silo.examples import SPEC

FINGERPRINT = "ab" * 32


@pytest.fixture
def enrolled(tmp_path: Path) -> Path:
    directory = tmp_path / "a"
    make_keys(directory)
    save_enrolment(directory, Enrolled("a", "fed", "cd" * 32, "127.0.0.1:1"), b"", b"")
    return directory


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("concordat-silo: error: ")
    assert err.count("\n") == 1
    return err


def test_status_shows_the_own_fingerprint_before_anything_else_happened(
    enrolled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from silo.identity import load_identity

    assert run(["status", str(enrolled), "--sent", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["fingerprint"] == load_identity(enrolled).fingerprint
    assert (facts["phase"], facts["records"], facts["epsilon_micro"], facts["sent"]) == ("empty", 0, None, [])
    assert run(["status", str(enrolled)]) == 0
    assert facts["fingerprint"] in capsys.readouterr().out


@pytest.mark.parametrize(("name", "scheme"), [("ckks", SCHEME), ("bfv", BFV_SCHEME)])
def test_operator_chooses_the_encryption_of_the_sum(tmp_path: Path, name: str, scheme: str) -> None:
    from silo.cli import _parser, _work
    from silo.runner import _scheme

    options = _parser().parse_args(["run", str(tmp_path), "--data", "x.npz", "--sum", name])
    assert _scheme(_work(options).sums).name == scheme


def test_single_approvals_add_up_and_a_new_fingerprint_replaces_the_old(
    enrolled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spaced = " ".join(("AB" * 32)[start : start + 4] for start in range(0, 64, 4))
    assert run(["approve", str(enrolled), "b", spaced]) == 0
    assert run(["approve", str(enrolled), "c", FINGERPRINT]) == 0
    assert run(["approve", str(enrolled), "c", "12" * 32]) == 0
    assert approved(enrolled) == {"b": FINGERPRINT, "c": "12" * 32}


def test_roster_file_approves_all_in_it(enrolled: Path, tmp_path: Path) -> None:
    roster = tmp_path / "roster.json"
    roster.write_text(json.dumps({"b": FINGERPRINT, "c": "12" * 32}))
    assert run(["approve", str(enrolled), "--roster", str(roster)]) == 0
    assert approved(enrolled) == {"b": FINGERPRINT, "c": "12" * 32}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "either NAME and FINGERPRINT"),
        (["b"], "either NAME and FINGERPRINT"),
        (["b", "1234"], "no fingerprint"),
        (["Not A Name", FINGERPRINT], "no silo's name"),
        (["--roster", "/nonexistent"], "cannot be read"),
        (["b", FINGERPRINT, "--roster", "/nonexistent"], "either NAME and FINGERPRINT"),
    ],
)
def test_approval_that_makes_no_sense_is_one_line_and_approves_nobody(
    enrolled: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert run(["approve", str(enrolled), *arguments]) == 2
    assert words in _error(capsys)
    assert approved(enrolled) == {}


@pytest.mark.parametrize("text", ["[]", "{", '{"b": 5}', '{"B": "' + FINGERPRINT + '"}'])
def test_roster_that_is_none_approves_nobody(
    enrolled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "roster").write_text(text)
    assert run(["approve", str(enrolled), "--roster", str(tmp_path / "roster")]) == 2
    assert "no roster" in _error(capsys)
    assert approved(enrolled) == {}


def test_damaged_roster_is_never_taken_for_an_empty_one(enrolled: Path) -> None:
    (enrolled / "roster.json").write_text("{")
    with pytest.raises(BadSiloDirectory, match="approve again"):
        approved(enrolled)


@pytest.mark.parametrize(
    "command", [["status"], ["resume"], ["export", "--out", "m.npz"], ["approve", "b", FINGERPRINT]]
)
def test_directory_that_is_not_enrolled_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert run([command[0], str(tmp_path), *command[1:]]) == 2
    assert "no enrolled silo" in _error(capsys)
    assert list(tmp_path.iterdir()) == []


def test_data_that_cannot_be_read_are_refused_before_anything_is_sent(
    enrolled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in enrolled.iterdir())
    assert run(["run", str(enrolled), "--data", str(tmp_path / "missing.npz")]) == 2
    assert "missing.npz" in _error(capsys)
    assert sorted(path.name for path in enrolled.iterdir()) == before


def test_invitation_that_is_none_is_one_line_and_makes_no_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["init", str(tmp_path / "a"), "--token", "nonsense", "--yes"]) == 2
    assert "copy the whole line" in _error(capsys)
    assert not (tmp_path / "a").exists()


def test_second_process_on_a_directory_is_refused(enrolled: Path) -> None:
    with locked(enrolled), pytest.raises(BadSiloDirectory, match="another process"), locked(enrolled):
        pass
    with locked(enrolled):
        pass


def test_export_before_the_first_log_says_what_to_do(
    enrolled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", str(enrolled), "--out", str(tmp_path / "m.npz")]) == 2
    assert "use `run`" in _error(capsys)
    assert not (tmp_path / "m.npz").exists()


def test_task_pack_writes_task_and_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "spec.toml").write_text(SPEC)
    assert run(["task", "pack", str(tmp_path / "spec.toml"), str(tmp_path / "out"), "--json"]) == 0
    task = unpack(Task, (tmp_path / "out" / "task.json").read_bytes())
    assert json.loads(capsys.readouterr().out)["digest"] == task.digest
    assert (tmp_path / "out" / "model.f32").stat().st_size == 4 * task.layout.size


@pytest.mark.parametrize(
    ("classes", "words"),
    [(4, "classes as alike; to take 1 for 0 convicts nobody"), (2, "Of 2 classes searches find little and convict")],
)
def test_task_pack_says_what_convicts_nobody_and_who_judges(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], classes: int, words: str
) -> None:
    inputs = 16
    judged = SPEC.replace("[16, 4]", f"[{inputs}, {classes}]") + '[search]\nreferee = "judge"\n'
    (tmp_path / "spec.toml").write_text(judged)
    labels = np.repeat(np.arange(classes), 10)
    features = labels[:, None] * np.ones((1, inputs))
    features[labels == 1] = 0
    np.savez(tmp_path / "public.npz", x=features.astype(np.float32), y=labels)
    spec, out, public = (str(tmp_path / name) for name in ("spec.toml", "out", "public.npz"))
    assert run(["task", "pack", spec, out, "--root", public]) == 0
    out = capsys.readouterr().out
    assert words in out
    assert ("judge judges what searches find: enrol it" in out) is (classes > 2)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (("epsilon = 8.0", "epsilon = 0.001"), 1, "least possible"),
        (("rounds = 2", ""), 2, "rounds"),
        (("rounds = 2", "rounds = = 2"), 2, "no TOML"),
    ],
)
def test_task_that_cannot_be_packed_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], code: int, words: str
) -> None:
    (tmp_path / "spec.toml").write_text(SPEC.replace(*change))
    assert run(["task", "pack", str(tmp_path / "spec.toml"), str(tmp_path / "out")]) == code
    assert words in _error(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [[], ["task"], ["run", "x"], ["export", "x"]])
def test_wrong_usage_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(arguments)
    assert caught.value.code == 2
    assert "--help" in _error(capsys)


def test_help_needs_nothing_heavy_and_documents_exit_codes() -> None:
    code = (
        "import sys\n"
        "from silo.cli import run\n"
        "try:\n    run(['run', '--help'])\nexcept SystemExit as done:\n    assert done.code == 0\n"
        "heavy = {'torch', 'grpc', 'tenseal', 'numpy', 'cryptography', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "exit codes:" in done.stdout
