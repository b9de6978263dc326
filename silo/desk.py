"""What a silo's duties work with, and why a duty may have to wait."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from audit.accounting import round_charges
from audit.history import RoundView
from crypto.scheme import SumKeys, SumScheme
from protos.messages import Receipt
from protos.records import Plan
from silo.entropy import Entropy
from silo.errors import SiloError
from silo.ledger import Ledger
from silo.link import Link
from silo.searcher import Searcher
from silo.trainer import Trainer
from silo.workspace import Workspace

if TYPE_CHECKING:
    from silo.identity import SiloIdentity

Combine: TypeAlias = Callable[[RoundView, NDArray[np.int32]], NDArray[Any]]
"""Takes a round and its checked sum, [d]; gives what is applied to the model in the sum's place, [d] in its units."""


class NotYet(SiloError):
    """Raised when the operator has to act before this step, such as approving a member; it is tried again."""


class SitOut(SiloError):
    """Raised when this silo cannot take part in the step any more; it rejoins with the next round."""


@dataclass(frozen=True)
class LocalPolicy:
    """A silo's own floors under what a plan may ask for."""

    quorum: int = 3
    privacy_minimum: int = 2


@dataclass
class Desk:
    """Everything that the duties work with. `searcher` is None where the task has no search.

    `combine` is None in production, where the sum is what is applied; a simulation that sees single updates may have
    another rule (`redteam.aggregated`).
    `projected` keeps what the last attribution projected, by find and round: a trigger that stands is projected again
    in each search, and past rounds do not change.
    """

    identity: SiloIdentity
    link: Link
    workspace: Workspace
    ledger: Ledger
    trainer: Trainer
    labels: NDArray[np.int64]
    scheme: SumScheme
    entropy: Entropy
    approved: Callable[[], Mapping[str, str]]
    policy: LocalPolicy
    searcher: Callable[[], Searcher] | None = None
    combine: Combine | None = None
    projected: dict[tuple[str, int], NDArray[np.float64]] = field(default_factory=dict, init=False, repr=False)
    _joined: tuple[bytes, SumKeys] | None = field(default=None, init=False, repr=False)

    def keys(self, epoch: int) -> SumKeys:
        """The sum's keys of a key epoch; SitOut where they are not here."""
        secret = self.workspace.load_secret(epoch)
        if secret is None:
            raise SitOut(f"the secrets of key epoch {epoch} are not here: ask the coordinator to start a new epoch")
        # By the secret, not the epoch: the next steward deals other secrets for the same epoch.
        if self._joined is None or self._joined[0] != secret:
            self._joined = secret, self.scheme.join(secret)
        return self._joined[1]

    def charge_round(self, plan: Plan) -> Receipt:
        """Everything that a round releases, charged once: the same call later finds the same receipt."""
        charges = round_charges(plan.training, plan.prototypes, plan.evaluation_noise_micro)
        return self.ledger.charge(round_key(plan.round), charges)


def round_key(number: int) -> str:
    """Under which key the ledger holds a round."""
    return f"round-{number}"
