"""Logs and histories made by hand: a real signed log up to its first roster, and a history with rounds filled in."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from audit.accounting import counts_charge, epsilon, round_charges
from audit.files import LogFile
from audit.history import History, RoundView
from audit.log import Chain
from crypto.identity import SigningKey, sign
from protos.messages import Adoption, Charge, Counts, Evaluation, Opening, Receipt
from protos.records import (
    Conviction,
    Decision,
    Genesis,
    Judgement,
    Member,
    Outcome,
    Plan,
    Roster,
    Score,
    SignedHead,
    Sum,
)
from protos.rounds import Phase
from protos.task import (
    MICRO,
    Budget,
    Deadlines,
    Layout,
    ModelSpec,
    Policy,
    Task,
    TensorSpec,
    Training,
)

SILOS = ("ada", "bob", "cyd", "dan", "eve", "fay")
FEDERATION = "hand-made"
START_MS = 1_700_000_000_000
LOG_KEY, OTHER_KEY = SigningKey.generate(), SigningKey.generate()
DEADLINES = Deadlines(60_000, 30_000, 30_000, 30_000)


def task(**changes: Any) -> Task:
    """A linear task of 15 coordinates."""
    values: dict[str, Any] = {
        "name": "toy",
        "model": ModelSpec("linear", (4, 3), "none"),
        "layout": Layout((TensorSpec("weight", (3, 4), 0), TensorSpec("bias", (3,), 12)), 15, 0, 15, 4, 3, "a" * 64),
        "initial_model": "1" * 64,
        "rounds": 40,
        "training": Training(MICRO // 2, 1, 4 * MICRO, MICRO, 4 * MICRO),
        "prototypes": None,
        "counts_noise_micro": 10 * MICRO,
        "evaluation_noise_micro": 2 * MICRO,
        "evaluation_every": 1,
        "budget": Budget(8 * MICRO, 100_000),
        "step_log2": -6,
        "folds": 2,
    }
    return Task(**(values | changes))


def policy(**changes: Any) -> Policy:
    """Floor 0.5, cap 2, W = 1024."""
    values: dict[str, Any] = {
        "quorum_minimum": 3,
        "privacy_minimum": 3,
        "floor_micro": MICRO // 2,
        "cap_micro": 2 * MICRO,
        "total_weight": 1024,
        "fdr_micro": MICRO // 100,
        "defense": "guard",
        "deadlines": DEADLINES,
    }
    return Policy(**(values | changes))


def genesis(log_key: SigningKey = LOG_KEY, federation: str = FEDERATION) -> Genesis:
    """The first record's body."""
    return Genesis(federation, log_key.public, "b" * 64, task(), policy())


@cache
def silo_key(name: str) -> SigningKey:
    """The signing key of one silo."""
    return SigningKey.generate()


def bodies(log_key: SigningKey = LOG_KEY, federation: str = FEDERATION) -> list[Any]:
    """Genesis, six members and a roster: a log that the full replay accepts."""
    members = [Member(name, silo_key(name).public, f"{index:064x}") for index, name in enumerate(SILOS)]
    return [genesis(log_key, federation), *members, Roster(1, 1, SILOS, SILOS[0])]


def chain_of(items: list[Any]) -> tuple[list[bytes], list[Chain]]:
    """The records of these bodies, and the chain after each."""
    lines: list[bytes] = []
    chains: list[Chain] = []
    for index in range(len(items)):
        chain = Chain()
        for line in lines:
            chain.extend(line)
        lines.append(chain.next_record(items[index], START_MS + index))
        chain.extend(lines[-1])
        chains.append(chain)
    return lines, chains


def write_log(path: Path, lines: list[bytes], head: SignedHead | None) -> LogFile:
    """A log of these lines, whatever they are."""
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    log = LogFile(path)
    log.head_path.unlink(missing_ok=True)
    if head is not None:
        log._write_head(head)
    return log


def judged(
    silo: str, weight: int, verdict: str = "retained", reason: str = "", evidence: int | None = None
) -> Judgement:
    """A judgement with one score."""
    score = Score("norm-below", 1_500_000, evidence)
    return Judgement(silo, 100, (score,), verdict, reason, weight)


class HandMade:
    """A history whose rounds are set, not replayed: for what a certificate counts and computes.

    Args:
        counts: noised record count of each silo.
    """

    def __init__(self, counts: Mapping[str, int]) -> None:
        self.history = history = History()
        _, chains = chain_of([genesis()])
        history.chain, self.silos = chains[0], tuple(sorted(counts))
        history.phase, history.model = Phase.IDLE, "1" * 64
        history.members = {silo: Member(silo, silo_key(silo).public, "c" * 64) for silo in self.silos}
        self.charges: dict[str, list[Charge]] = {silo: [counts_charge(history.genesis.task)] for silo in self.silos}
        for silo, count in counts.items():
            receipt = self._receipt(silo, 1, tuple(self.charges[silo]))
            history.counts[silo] = Counts(FEDERATION, "d" * 64, count, (count // 2, count - count // 2, 0), receipt)

    @property
    def head(self) -> SignedHead:
        """The signed head of the log."""
        return self.history.chain.sign_head(LOG_KEY)

    def add_round(
        self,
        judgements: tuple[Judgement, ...] | None,
        opened: tuple[str, ...] | None = None,
        result: str = "adopted",
        evaluations: Mapping[str, Evaluation] | None = None,
        convicted: tuple[Conviction, ...] = (),
        reason: str = "",
    ) -> RoundView:
        """One round: who opened (all), what was decided (None: nothing), how it ended."""
        number, history = len(self.history.rounds) + 1, self.history
        plan = self._plan(number)
        view = RoundView(plan, "e" * 64)
        for silo in self.silos if opened is None else opened:
            view.openings[silo] = self._opening(silo, plan)
        model = f"{number:064x}" if result == "adopted" else history.model
        if judgements is not None:
            view.decision = Decision(number, "guard", (), judgements, convicted)
            view.sum, view.sum_digest, view.sum_size = Sum(number, "f" * 64), "a" * 64, 10 * number
        evaluations = {silo: Evaluation(80, 100) for silo in self.silos} if evaluations is None else evaluations
        signed = tuple(
            sign(Adoption(FEDERATION, "a" * 64, model, "b" * 64, evaluation), silo, silo_key(silo))
            for silo, evaluation in sorted(evaluations.items())
        )
        adoptions = signed if result == "adopted" else ()
        view.outcome = Outcome(number, result, model, adoptions, (), (), (), (), "none", reason)
        history.rounds.append(view)
        history.model = model
        history.convicted |= {item.silo: item.reason for item in convicted}
        return view

    def _plan(self, number: int) -> Plan:
        task = self.history.genesis.task
        return Plan(
            number, task.digest, self.history.model, 0, 1, self.silos, task.training, None,
            task.evaluation_noise_micro, task.step_log2, task.folds, DEADLINES, 4, 3, "a" * 64,
        )  # fmt: skip

    def _opening(self, silo: str, plan: Plan) -> Opening:
        charges = round_charges(plan.training, plan.prototypes, plan.evaluation_noise_micro)
        self.charges[silo] += charges
        receipt = self._receipt(silo, plan.round + 1, charges)
        return Opening(FEDERATION, "a" * 64, b"", b"", "b" * 64, b"", None, receipt)

    def _receipt(self, silo: str, entry: int, charges: tuple[Charge, ...]) -> Receipt:
        delta = self.history.genesis.task.budget.delta_nano
        return Receipt(entry, charges, epsilon(self.charges[silo], delta), delta)


def even(silos: tuple[str, ...], **others: Judgement) -> tuple[Judgement, ...]:
    """Judgements with W shared evenly among the silos that are not in `others`."""
    retained = [silo for silo in silos if silo not in others]
    share, rest = divmod(1024, len(retained))
    plain = [judged(silo, share + (index < rest)) for index, silo in enumerate(retained)]
    return tuple(sorted((*plain, *others.values()), key=lambda one: one.silo))
