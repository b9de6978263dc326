"""Rules that read what a policy cannot name, with what they read: q-FedAvg and AFL get the logged evaluations.

The share of errors on a silo's hold-out, noised as it stands in the log, is the loss that a federation could use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from audit.history import History
from defenses import registry
from defenses.fairness import Afl, QFedAvg
from protos.codec import decode
from protos.messages import Adoption

FAIR = {"q-fedavg": QFedAvg, "afl": Afl}
"""Rules that are registered for a run only; they need an evaluation in every round."""


def names() -> tuple[str, ...]:
    """Defences that a scenario may name, sorted."""
    return tuple(sorted({*registry.names(), *FAIR}))


@contextmanager
def registered(defense: str, history: Callable[[], History | None]) -> Iterator[None]:
    """Make the defence known within the block, where it is none that a policy can name.

    Args:
        history: the coordinator's, which is not ahead of any silo by more than the round that is open; None before it
            begins.
    """
    if defense not in FAIR:
        yield
        return
    with registry.registered(FAIR[defense](lambda setting: losses(history()))):
        yield


def losses(history: History | None) -> list[Mapping[str, float]]:
    """Noised shares of errors by silo, one entry for each adopted round, oldest first."""
    views = [] if history is None else history.rounds
    adopted = [view.outcome for view in views if view.outcome is not None and view.outcome.result == "adopted"]
    found: list[Mapping[str, float]] = []
    for outcome in adopted:
        bodies = {signed.signer: decode(Adoption, signed.body).evaluation for signed in outcome.adoptions}
        found.append({silo: 1 - one.correct / one.total for silo, one in bodies.items() if one is not None})
    return found
