"""What task, policy and log imply: the next plan, quorum and majority. There is nothing to choose but the nonce."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audit.accounting import evaluation_in_round, prototypes_in_round
from audit.ranges import step_of
from audit.schedule import training_in_round
from protos.records import Plan

if TYPE_CHECKING:
    from audit.history import History
    from protos.task import Policy


def quorum_of(policy: Policy, silos: int) -> int:
    """Silos that a round needs: max(policy's minimum, privacy minimum, two thirds rounded up)."""
    return max(policy.quorum_minimum, policy.privacy_minimum, -(-2 * silos // 3))


def majority(plan: Plan) -> int:
    """Signatures that make a model current: more than half of the plan's silos."""
    return len(plan.silos) // 2 + 1


def member_names(history: History) -> tuple[str, ...]:
    """Enrolled silos that nobody convicted, sorted."""
    return tuple(sorted(name for name in history.members if name not in history.convicted))


def derive_plan(history: History, nonce_hash: str) -> Plan:
    """The plan of the next round, whole."""
    task, policy = history.genesis.task, history.genesis.policy
    number = len(history.rounds) + 1
    training = training_in_round(task, number)
    return Plan(
        round=number,
        task=task.digest,
        model=history.model,
        adopted=history.adopted,
        epoch=history.epoch,
        silos=history.active,
        training=training,
        prototypes=prototypes_in_round(task.prototypes, number),
        evaluation_noise_micro=evaluation_in_round(task, number),
        step_log2=step_of(history, training),
        folds=task.folds,
        deadlines=policy.deadlines,
        quorum=quorum_of(policy, len(history.active)),
        privacy_minimum=policy.privacy_minimum,
        nonce_hash=nonce_hash,
    )
