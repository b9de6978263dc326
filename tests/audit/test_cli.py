"""The command on logs on disk: exit codes, one-line errors, JSON; and on the log of one whole simulated run."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from audit.cli import run
from audit.errors import AuditError
from audit.files import LogFile
from audit.log import Chain
from audit.show import entries
from audit.verify import verify_log
from crypto.identity import SigningKey
from protos.codec import decode, pack, unpack
from protos.records import Decision, Record, SignedHead, body_class
from tests.audit.builders import LOG_KEY, OTHER_KEY, bodies, chain_of, write_log

Capture = Callable[..., tuple[int, str, str]]
LINES, CHAINS = chain_of(bodies())


@pytest.fixture
def log(tmp_path: Path) -> LogFile:
    return write_log(tmp_path / "log.jsonl", LINES, CHAINS[-1].sign_head(LOG_KEY))


@pytest.fixture
def capture(capsys: pytest.CaptureFixture[str]) -> Capture:
    def call(*arguments: object) -> tuple[int, str, str]:
        try:
            code = run([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_good_log_verifies_with_exit_code_0(log: LogFile, capture: Capture) -> None:
    code, out, err = capture("verify", log.path, "--log-key", LOG_KEY.public, "--head", log.head_path, "--json")
    facts = json.loads(out)
    assert (code, err) == (0, "")
    assert facts["verified"] is True
    assert facts["records"] == len(LINES)
    assert facts["digest"] == CHAINS[-1].digest
    assert "The log holds" in capture("verify", log.path.parent, "--log-key", LOG_KEY.public)[1]


def test_log_that_does_not_verify_is_one_line_and_exit_code_1(log: LogFile, capture: Capture) -> None:
    log.path.write_bytes(log.path.read_bytes().replace(b'"ada"', b'"abe"', 1))
    code, out, err = capture("verify", log.path, "--log-key", LOG_KEY.public, "--json")
    assert (code, out) == (1, "")
    assert err.startswith("concordat-audit: error: record 2 does not follow record 1")
    assert err.count("\n") == 1


def test_wrong_key_is_exit_code_1(log: LogFile, capture: Capture) -> None:
    code, _, err = capture("verify", log.path, "--log-key", OTHER_KEY.public)
    assert code == 1
    assert "another log key" in err


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("verify",),
        ("verify", "LOG"),
        ("verify", "missing.jsonl", "--log-key", "ab" * 32),
        ("verify", "LOG", "--log-key", "missing.key"),
        ("verify", "LOG", "--log-key", "ab" * 32, "--head", "missing.head"),
        ("show", "LOG", "--round", "1"),
        ("show", "LOG", "--silo", "zoe"),
        ("show", "LOG", "--record", "99"),
        ("show", "LOG", "--record", "x"),
        ("show", "LOG", "--record", "1", "--silo", "ada"),
        ("certify", "LOG", "--log-key", "KEY", "--out", "/nowhere/at/all.json"),
        ("check-certificate", "missing.json", "--log", "LOG", "--log-key", "KEY"),
    ],
)
def test_wrong_usage_and_unreadable_files_are_one_line_and_exit_code_2(
    log: LogFile,
    capture: Capture,
    arguments: tuple[str, ...],
) -> None:
    replaced = {"LOG": str(log.path), "KEY": LOG_KEY.public}
    code, out, err = capture(*(replaced.get(argument, argument) for argument in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("concordat-audit: error: ")
    assert err.count("\n") == 1


def test_show_reads_each_part_of_a_log(log: LogFile, capture: Capture) -> None:
    records = json.loads(capture("show", log.path, "--json")[1])["records"]
    assert [row["kind"] for row in records] == ["genesis", *["member"] * 6, "roster"]
    assert json.loads(capture("show", log.path, "--record", 3, "--json")[1])["record"]["body"]["name"] == "cyd"
    assert json.loads(capture("show", log.path, "--silo", "cyd", "--json")[1])["rounds"] == []
    for words in ((), ("--record", 3), ("--silo", "cyd")):
        code, out, err = capture("show", log.path, *words)
        assert (code, err) == (0, "")
        assert "cyd" in out


def test_every_command_tells_its_exit_codes(capture: Capture) -> None:
    for words in ((), ("verify",), ("show",), ("certify",), ("check-certificate",)):
        code, out, _ = capture(*words, "--help")
        assert code == 0
        assert "exit codes:" in out


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from audit.cli import run\n"
        "try: run(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('numpy', 'scipy', 'sklearn', 'dp_accounting', 'rich', 'cryptography') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


class Finished:
    """The files of one whole run."""

    def __init__(self, directory: Path, key: SigningKey) -> None:
        self.directory, self.key = directory, key
        self.log = LogFile(directory / "log.jsonl")

    def words(self) -> tuple[str, ...]:
        return str(self.log.path), "--log-key", self.key.public


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    from tests.integration.federation import federation

    directory = tmp_path_factory.mktemp("run")
    simulation = federation(directory, rounds=2)
    simulation.run()
    simulation.close()
    return Finished(directory, simulation.log_key)


def test_whole_run_verifies_against_the_head_of_every_silo(finished: Finished, capture: Capture) -> None:
    heads = [word for path in finished.directory.glob("*/log.head") for word in ("--head", path)]
    assert len(heads) == 10
    code, out, err = capture("verify", *finished.words(), *heads, "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["phase"] == "finished"
    assert set(facts["cosigned"].values()) == {facts["records"] - 2}


def test_certificate_and_report_of_a_whole_run(finished: Finished, tmp_path: Path, capture: Capture) -> None:
    certificate, report = tmp_path / "certificate.json", tmp_path / "report.html"
    code, out, _ = capture("certify", *finished.words(), "--out", certificate, "--report", report, "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["met"] is True
    assert {silo["silo"]: silo["taken_part"] for silo in facts["silos"]} == dict.fromkeys(
        ("ada", "bob", "cyd", "dan", "eve"), 2
    )
    assert all(0 < silo["epsilon_micro"] <= 8_000_000 for silo in facts["silos"])
    assert report.read_text().startswith("<!DOCTYPE html>")

    *_, finish = entries(finished.log)
    model = next(finished.directory.glob(f"ada/**/{finish.body.model}*"))
    words = ("--log", *finished.words())
    code, out, _ = capture("check-certificate", certificate, *words, "--model", model, "--json")
    assert code == 0
    assert json.loads(out)["model_checked"] is True
    data = bytearray(model.read_bytes())
    data[0] ^= 1
    (tmp_path / "model").write_bytes(data)
    code, _, err = capture("check-certificate", certificate, *words, "--model", tmp_path / "model")
    assert code == 1
    assert "not the certified model" in err
    certificate.write_bytes(certificate.read_bytes().replace(b'"met":true', b'"met":false', 1))
    code, _, err = capture("check-certificate", certificate, *words)
    assert code == 1
    assert "does not follow from the log" in err


def test_certificate_of_an_earlier_head_still_checks(finished: Finished, tmp_path: Path, capture: Capture) -> None:
    lines = list(finished.log.records())[:-3]
    chain = Chain()
    for line in lines:
        chain.extend(line)
    earlier = write_log(tmp_path / "log.jsonl", lines, chain.sign_head(finished.key))
    certificate = tmp_path / "certificate.json"
    assert capture("certify", earlier.path, "--log-key", finished.key.public, "--out", certificate)[0] == 0
    code, out, _ = capture("check-certificate", certificate, "--log", *finished.words(), "--json")
    assert code == 0
    assert json.loads(out)["records"] == len(lines)


def test_show_tells_rounds_and_silos_of_a_whole_run(finished: Finished, capture: Capture) -> None:
    path = finished.log.path
    facts = json.loads(capture("show", path, "--round", 2, "--json")[1])
    assert facts["result"] == "adopted"
    assert sum(silo["weight"] for silo in facts["silos"]) == 1024
    assert {silo["state"] for silo in facts["silos"]} == {"took part"}
    silo = json.loads(capture("show", path, "--silo", "eve", "--json")[1])
    assert [row["round"] for row in silo["rounds"]] == [1, 2]
    assert silo["rounds"][0]["epsilon_micro"] < silo["rounds"][1]["epsilon_micro"]
    for words in ((), ("--round", 1), ("--silo", "eve")):
        assert capture("show", path, *words)[0] == 0


def _rewritten(finished: Finished, index: int, body: object) -> tuple[list[bytes], SignedHead]:
    """The log as its owner, who has the log key, could rewrite it from one record on, and a head for it."""
    lines, chain = [], Chain()
    for number, line in enumerate(finished.log.records()):
        old = unpack(Record, line)
        new = body if number == index else decode(body_class(old.body), old.body)
        lines.append(chain.next_record(new, old.time_ms))
        chain.extend(lines[-1])
    return lines, chain.sign_head(finished.key)


def test_weights_rewritten_by_the_owner_of_the_log_key_are_found(finished: Finished, tmp_path: Path) -> None:
    index, decision = next((e.sequence, e.body) for e in entries(finished.log) if isinstance(e.body, Decision))
    first, second, *rest = decision.judgements
    up, down = replace(first, weight=first.weight + 1), replace(second, weight=second.weight - 1)
    moved = (up, down, *rest)
    body = Decision(decision.round, decision.defense, decision.checks, moved, decision.convicted)
    lines, head = _rewritten(finished, index, body)
    log = write_log(tmp_path / "log.jsonl", lines, head)
    with pytest.raises(AuditError, match=f"record {index}"):
        verify_log(log.path, finished.key.public)
    same, head = _rewritten(finished, -1, None)
    assert same == list(finished.log.records())
    assert pack(head) == pack(finished.log.head())
