"""Triggers on tables: some features of a record get a fixed value. The loans' are DBA's (Xie et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from redteam.attacks.parts import Features, Given
from redteam.errors import BadAttack

LOANS = (
    ("acc_now_delinq", "delinq_amnt"),
    ("delinq_2yrs", "num_il_tl"),
    ("total_il_high_credit_limit", "annual_inc"),
)
"""Six features of the loan table, two for each of three attackers, that say least about the class.

DBA's own are `num_tl_120dpd_2m` and `num_tl_90g_dpd_24m`, `pub_rec_bankruptcies` and `pub_rec`, `acc_now_delinq` and
`tax_liens`, chosen for their low importance too; five of them are not in our cut of the table.
"""
RARE = 1
"""The label that loan triggers ask for: a bad loan, one in twenty. DBA's is a rare class too; the frequent one is what
a model says of most loans anyway."""


@dataclass(frozen=True)
class Fields:
    """Features at `positions` set to `value`, in deviations from the mean where columns are standardised.

    DBA writes values beyond any in its table (10 to 100). 5 deviations occur in each of the six columns, but in no loan
    together.

    Attributes:
        positions: of the features, in a table of `width`.
        width: features of a record.
        value: what is written.
    """

    positions: tuple[int, ...]
    width: Given
    value: float = 5.0

    def __post_init__(self) -> None:
        if not all(0 <= place < self.width for place in self.positions):
            raise BadAttack(f"positions are of features, from 0 to {self.width - 1}: choose those in the table")

    def stamp(self, features: Features) -> Features:
        """See `Trigger.stamp`."""
        if features.shape[1] != self.width:
            raise BadAttack(f"this trigger is for tables of {self.width} features, not {features.shape[1]}")
        stamped = features.copy()
        stamped[:, list(self.positions)] = self.value
        return stamped


def loan_pieces(columns: Sequence[str]) -> tuple[Fields, ...]:
    """DBA's three local triggers on the loan table; `columns` are the names of its features.

    Raises:
        BadAttack: the records are no loans.
    """
    missing = [name for piece in LOANS for name in piece if name not in columns]
    if missing:
        raise BadAttack(f"loan triggers need the loan table: column {missing[0]} is missing; set data.set to loans")
    return tuple(Fields(tuple(columns.index(name) for name in piece), len(columns)) for piece in LOANS)


def whole(pieces: Sequence[Fields]) -> Fields:
    """The global trigger: all local ones together."""
    return Fields(tuple(place for piece in pieces for place in piece.positions), pieces[0].width, pieces[0].value)
