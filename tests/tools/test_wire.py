"""The generated code is fresh, and staleness of every kind is noticed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tools import wire


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(wire.SOURCES, tmp_path / "protos", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(wire, "SOURCES", tmp_path / "protos")
    monkeypatch.setattr(wire, "TARGET", tmp_path / "protos" / "wire")
    return tmp_path / "protos"


def test_committed_code_is_fresh() -> None:
    assert wire.main(["--check"]) == 0


def test_changed_source_changed_code_and_missing_or_left_over_code_are_stale(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = copied / "wire"
    source = copied / wire.PACKAGE / "round.proto"
    original = source.read_text()
    source.write_text(original.replace("wait_ms", "wait_seconds"))
    assert wire.main(["--check"]) == 1
    assert "round_pb2.py is stale" in capsys.readouterr().err
    source.write_text(original)
    (target / "round_pb2.py").write_text((target / "round_pb2.py").read_text() + "#")
    (target / "enrolment_pb2.pyi").unlink()
    (target / "old_pb2.py").write_text("")
    assert wire.main(["--check"]) == 1
    assert [line.split("/")[-1].split(" ")[0] for line in capsys.readouterr().err.splitlines()] == [
        "enrolment_pb2.pyi",
        "old_pb2.py",
        "round_pb2.py",
    ]
    assert wire.main([]) == 0
    assert wire.main(["--check"]) == 0
    assert not (target / "old_pb2.py").exists()


def test_source_that_does_not_compile_is_one_error(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / wire.PACKAGE / "round.proto").write_text("nonsense")
    assert wire.main(["--check"]) == 1
    assert "tools.wire: error: protoc refuses" in capsys.readouterr().err
