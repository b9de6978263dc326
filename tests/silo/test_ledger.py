import os
import signal
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from audit.accounting import epsilon
from protos.messages import Charge
from protos.task import Budget
from silo.errors import BudgetExhausted, LedgerBehind, LedgerConflict, LedgerUnusable
from silo.ledger import Ledger

TASK, OTHER_TASK = "a" * 64, "b" * 64
BUDGET = Budget(2_000_000, 100_000)
SMALL = (Charge("training", 8_000_000, 1_000_000, 1), Charge("evaluation", 50_000_000, 1_000_000, 1))


def opened(path: Path, task: str = TASK, budget: Budget = BUDGET) -> Ledger:
    return Ledger(path / "ledger.sqlite", task, budget)


def spend_all(ledger: Ledger) -> int:
    """Charge rounds until the budget refuses; how many it allowed."""
    for number in range(1, 100):
        try:
            ledger.charge(f"round-{number}", SMALL)
        except BudgetExhausted:
            return number - 1
    raise AssertionError("the budget never ended")


def test_receipt_counts_all_entries_so_far(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    first, second = ledger.charge("counts", SMALL[:1]), ledger.charge("round-1", SMALL)
    assert (first.entry, second.entry) == (1, 2)
    assert first.epsilon_micro == epsilon(SMALL[:1], 100_000)
    assert second.epsilon_micro == epsilon((SMALL[0], *SMALL), 100_000) == ledger.spent()
    assert [(entry.key, entry.receipt) for entry in ledger.entries()] == [("counts", first), ("round-1", second)]


def test_same_key_again_returns_the_first_receipt_and_spends_nothing(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    first = ledger.charge("round-1", SMALL)
    ledger.charge("round-2", SMALL)
    spent = ledger.spent()
    assert ledger.charge("round-1", SMALL) == first
    assert ledger.spent() == spent
    assert len(ledger.entries()) == 2


def test_same_key_with_other_charges_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    ledger.charge("round-1", SMALL)
    before = ledger.entries()
    with pytest.raises(LedgerConflict, match="round-1"):
        ledger.charge("round-1", SMALL[:1])
    assert ledger.entries() == before


def test_exhausted_budget_refuses_before_writing_and_survives_reopening(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    allowed = spend_all(ledger)
    assert allowed > 2
    before = ledger.entries()
    ledger.close()
    reopened = opened(tmp_path)
    with pytest.raises(BudgetExhausted, match=r"epsilon \d\.\d{3} of 2 at delta 0\.0001 is spent"):
        reopened.charge("round-next", SMALL)
    assert reopened.entries() == before
    assert reopened.spent() <= BUDGET.epsilon_micro
    assert reopened.charge("round-1", SMALL).entry == 1


def test_budget_ends_exactly_where_the_accountant_says(tmp_path: Path) -> None:
    allowed = spend_all(opened(tmp_path))
    assert epsilon(SMALL * allowed, 100_000) <= BUDGET.epsilon_micro < epsilon(SMALL * (allowed + 1), 100_000)


def test_two_openers_cannot_both_spend_the_last_of_the_budget(tmp_path: Path) -> None:
    allowed = spend_all(opened(tmp_path, budget=Budget(2_000_000, 100_000)))
    other = tmp_path / "shared"
    other.mkdir()

    def spend(name: str) -> int:
        ledger, paid = opened(other), 0
        for number in range(allowed):
            try:
                ledger.charge(f"{name}-{number}", SMALL)
                paid += 1
            except BudgetExhausted:
                break
        return paid

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(spend, ("left", "right"))) == allowed
    assert [entry.receipt.entry for entry in opened(other).entries()] == list(range(1, allowed + 1))


def test_many_may_open_a_new_ledger_at_once(tmp_path: Path) -> None:
    for number in range(50):
        place = tmp_path / str(number)
        place.mkdir()
        with ThreadPoolExecutor(4) as pool:
            ledgers = list(pool.map(opened, [place] * 4))
        assert [len(ledger.entries()) for ledger in ledgers] == [0] * 4


def test_another_task_on_the_same_data_starts_from_what_is_spent(tmp_path: Path) -> None:
    spend_all(opened(tmp_path))
    other = opened(tmp_path, OTHER_TASK)
    with pytest.raises(BudgetExhausted):
        other.charge("round-1", SMALL)
    larger = opened(tmp_path, OTHER_TASK, Budget(4_000_000, 100_000))
    assert larger.charge("round-1", SMALL).epsilon_micro > 1_900_000


def test_files_are_for_the_owner_only(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").touch(mode=0o644)
    opened(tmp_path).charge("counts", SMALL)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert set(modes.values()) == {0o600}, modes


def test_every_commit_reaches_the_disk(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    assert ledger._database.execute("PRAGMA synchronous").fetchone() == (2,)
    assert ledger._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_release_is_kept_byte_for_byte_over_reopening(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    ledger.charge("round-1", SMALL)
    sent = os.urandom(3_000_000)
    assert ledger.release("round-1/opening") is None
    ledger.store_release("round-1/opening", sent)
    ledger.close()
    reopened = opened(tmp_path)
    assert reopened.release("round-1/opening") == sent
    assert reopened.release("round-1") is None
    reopened.store_release("round-1/opening", sent)


def test_second_different_release_is_refused_even_after_erasure(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    ledger.charge("round-1", SMALL)
    ledger.store_release("round-1", b"first")
    with pytest.raises(LedgerConflict, match="other bytes"):
        ledger.store_release("round-1", b"second")
    assert ledger.release("round-1") == b"first"
    ledger.erase_release("round-1")
    with pytest.raises(LedgerConflict, match="other bytes"):
        ledger.store_release("round-1", b"second")
    with pytest.raises(LedgerConflict, match="erased"):
        ledger.release("round-1")


def test_release_without_a_charge_is_refused(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    with pytest.raises(LedgerConflict, match="charged before"):
        ledger.store_release("round-1/opening", b"sent")
    assert ledger.release("round-1/opening") is None


def test_restored_backup_is_noticed_from_the_log(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    ledger.require_not_behind(0)
    ledger.charge("counts", SMALL)
    backup = sqlite3.connect(tmp_path / "backup")
    ledger._database.backup(backup)
    backup.close()
    ledger.charge("round-1", SMALL)
    ledger.require_not_behind(2)
    restored = Ledger(tmp_path / "backup", TASK, BUDGET)
    restored.require_not_behind(1)
    with pytest.raises(LedgerBehind, match=r"ledger entry 2, .* ends at 1"):
        restored.require_not_behind(2)


def test_full_disk_is_one_clear_error_and_changes_nothing(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    ledger.charge("round-1", SMALL)
    ledger._database.execute("PRAGMA max_page_count = 1")
    with pytest.raises(LedgerUnusable, match=r"full.*nothing was released"):
        ledger.store_release("round-1", os.urandom(100_000))
    assert ledger.release("round-1") is None
    ledger._database.execute("PRAGMA max_page_count = 100000")
    ledger.store_release("round-1", b"later")


def test_failure_before_commit_charges_nothing(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    ledger._database.set_authorizer(
        lambda action, name, *_: sqlite3.SQLITE_DENY if (action, name) == (22, "COMMIT") else sqlite3.SQLITE_OK
    )
    with pytest.raises(LedgerUnusable):
        ledger.charge("round-1", SMALL)
    ledger._database.set_authorizer(None)
    assert ledger.entries() == ()
    assert ledger.charge("round-1", SMALL).entry == 1


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"\x00" * 8192])
def test_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(content)
    with pytest.raises(LedgerUnusable, match=r"ledger\.sqlite"):
        opened(tmp_path).charge("counts", SMALL)


def test_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnusable, match="No such file"):
        opened(tmp_path / "nowhere")


def test_charge_needs_a_channel_and_a_plain_key(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    for key, charges in (("round-1", ()), ("round/1", SMALL)):
        with pytest.raises(ValueError, match="key without a slash"):
            ledger.charge(key, charges)


CHILD = """
import os, signal, sys
from pathlib import Path
from protos.messages import Charge
from protos.task import Budget
from silo.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]), "a" * 64, Budget(2_000_000, 100_000))
charges = (Charge("training", 8_000_000, 1_000_000, 1), Charge("evaluation", 50_000_000, 1_000_000, 1))
ledger.charge("round-1", charges)
if sys.argv[2] == "charge":
    os.kill(os.getpid(), signal.SIGKILL)
assert ledger.release("round-1") is None
ledger.store_release("round-1", os.urandom(1000))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.processes
def test_killed_between_charge_and_release_pays_once(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"

    def run_until_killed(after: str) -> None:
        child = subprocess.run([sys.executable, "-c", CHILD, str(file), after], cwd=Path(__file__).parents[2])
        assert child.returncode == -signal.SIGKILL

    run_until_killed("charge")
    after_charge = opened(tmp_path).entries()
    assert len(after_charge) == 1
    run_until_killed("release")
    ledger = opened(tmp_path)
    assert ledger.entries() == after_charge
    assert ledger.charge("round-1", SMALL) == after_charge[0].receipt
    sent = ledger.release("round-1")
    assert sent is not None
    assert len(sent) == 1000
    with pytest.raises(LedgerConflict):
        ledger.store_release("round-1", b"other noise")
