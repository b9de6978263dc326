"""Rules that read what a policy cannot name, with what they read in a simulation.

q-FedAvg and AFL get the logged evaluations: the share of errors on a silo's hold-out, noised as it stands in the log,
is the loss that a federation could use. FLTrust and MoNNA get what `redteam.trusted` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from audit.history import History
from defenses import registry
from defenses.fairness import Afl, QFedAvg
from defenses.geometric import Monna
from defenses.rule import Defense
from defenses.similarity import FlTrust
from protos.codec import decode
from protos.messages import Adoption
from redteam.errors import BadScenario
from redteam.trusted import RootUpdates, Running, pivot_of

if TYPE_CHECKING:
    from redteam.world import World

FAIR = {"q-fedavg": QFedAvg, "afl": Afl}
"""Rules that need an evaluation in every round."""
TRUSTING = ("fltrust", "monna")


def names() -> tuple[str, ...]:
    """Defences that a scenario may name, sorted; those of this module are registered for a run only."""
    return tuple(sorted({*registry.names(), *FAIR, *TRUSTING}))


@contextmanager
def registered(world: World, running: Callable[[], Running | None]) -> Iterator[None]:
    """Make the world's defence known within the block, where it is none that a policy can name.

    Args:
        running: the run; None before it begins.
    """
    rule = _rule(world, running)
    if rule is None:
        yield
        return
    with registry.registered(rule):
        yield


def _rule(world: World, running: Callable[[], Running | None]) -> Defense | None:
    name = world.scenario.federation.defense
    if name == "fltrust":
        if not len(world.trusted.labels):
            raise BadScenario("scenario: fltrust needs public records; choose a set with a larger test part")
        return FlTrust(RootUpdates(world.task, world.trusted, running))
    if name == "monna":
        # The paper's f is known; without an attack the rule's own default stands in.
        return Monna(pivot_of(world.records, world.crew), len(world.crew) or None)
    if name not in FAIR:
        return None

    def logged(setting: object) -> list[Mapping[str, float]]:
        run = running()
        return losses(None if run is None else run.history)

    return FAIR[name](logged)


def losses(history: History | None) -> list[Mapping[str, float]]:
    """Noised shares of errors by silo, one entry for each adopted round, oldest first."""
    views = [] if history is None else history.rounds
    adopted = [view.outcome for view in views if view.outcome is not None and view.outcome.result == "adopted"]
    found: list[Mapping[str, float]] = []
    for outcome in adopted:
        bodies = {signed.signer: decode(Adoption, signed.body).evaluation for signed in outcome.adoptions}
        found.append({silo: 1 - one.correct / one.total for silo, one in bodies.items() if one is not None})
    return found
