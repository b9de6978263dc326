"""Table I has a row for every attack at every ε, from whatever data it is given."""

from __future__ import annotations

import pytest

from redteam.datasets import Dataset
from redteam.privacy.auditing import Plan
from redteam.privacy.settings import Design
from redteam.privacy.table import EPSILONS, KINDS, Sizes, table_i
from tests.redteam.privacy.digits import digits

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:Full backward hook")]

TINY = Sizes(
    overfitted=Design((64, 10), rounds=2, steps=10, learning_rate=2.0),
    round=Design((64, 10), learning_rate=1.0, folds=2),
    step=Design((64, 16, 10)),
    pool=40,
    models=4,
    silos=(10, 10),
    images=1,
    public=700,
    audit=Plan(canaries=50, runs=4),
)


def test_every_attack_has_a_row_at_every_epsilon_and_goals_only_with_privacy() -> None:
    features, labels = digits()
    rows = list(table_i(Dataset(features, labels, features, labels, 10), (0,), TINY))
    assert len(rows) == 3 * 2 + 2 + 3 * 4 + 3 * len(KINDS) * 2 + 1
    for epsilon in EPSILONS[1:]:
        own = [row for row in rows if row.row.endswith(f"epsilon {epsilon:g}")]
        assert {row.goal != "" for row in own if row.metric == "PSNR in dB"} == {True}
    assert {row.goal for row in rows if row.metric == "PSNR in dB" and row.row.endswith("no DP")} == {""}
    assert all(row.low <= row.measured <= row.high for row in rows)
