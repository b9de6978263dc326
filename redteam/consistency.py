"""What the keys of a scenario say together: each is right by itself when these are asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from redteam import aggregated
from redteam.attacks.catalogue import example
from redteam.attacks.prototypes import Bapfl
from redteam.cast import adjusted
from redteam.errors import BadScenario
from redteam.prototype_defences import COMBINATIONS
from redteam.scenario import NO_ATTACK, Scenario

PERSONAL = (
    "mode", "seed", "data.set", "model.hidden", "model.activation", "training.rounds",
    "training.learning_rate", "training.pull", "training.prototypes_clip", "attack.name", "attack.share",
    "attack.prototypes", "federation.silos", "federation.defense", "engine.search", "engine.search_every",
)  # fmt: skip
"""Keys that say something in the mode `personal`, beside those of its own section."""


def require_consistent(scenario: Scenario) -> None:
    """Raises BadScenario for keys that do not go together, and for parameters that the attack has not."""
    _require_mode(scenario)
    _require_federation(scenario)
    _require_model(scenario)
    attack = scenario.attack
    if attack.last and attack.last < attack.first:
        raise BadScenario("scenario: attack.last must be 0 or not before attack.first")
    if attack.absent and (attack.name == NO_ATTACK or not attack.share):
        raise BadScenario("scenario: attack.absent = true needs attack.name and attack.share: they say who is absent")
    if attack.name != NO_ATTACK:
        adjusted(example(attack.name), attack)


def _require_mode(scenario: Scenario) -> None:
    mode, defense, name = scenario.mode, scenario.federation.defense, scenario.attack.name
    set_keys = list(_keys(scenario.differing))
    if mode == "weights":
        if defense in COMBINATIONS and defense not in ("guard", "plain"):
            raise BadScenario(
                f"scenario: federation.defense = '{defense}' needs mode = 'personal': it makes global prototypes"
            )
        useless = [key for key in set_keys if key.startswith("personal.")]
    else:
        if defense not in COMBINATIONS:
            raise BadScenario(
                f"scenario: federation.defense = '{defense}' cannot be with mode = 'personal': choose from "
                f"{', '.join(COMBINATIONS)}"
            )
        if name != NO_ATTACK and not _on_prototypes_alone(name):
            raise BadScenario(f"scenario: attack.name = '{name}' needs mode = 'weights': it is no attack on prototypes")
        useless = [key for key in set_keys if key not in PERSONAL and not key.startswith("personal.")]
    if useless:
        raise BadScenario(f"scenario: {useless[0]} says nothing with mode = '{mode}': leave it out")


def _keys(differing: Mapping[str, Any]) -> Iterator[str]:
    """Dotted keys of sections and plain ones, sorted."""
    for key, value in sorted(differing.items()):
        yield from (f"{key}.{inner}" for inner in sorted(value)) if isinstance(value, dict) else (key,)


def _on_prototypes_alone(name: str) -> bool:
    attack = example(name)
    return isinstance(attack.prototypes, Bapfl) and attack.data is None and not attack.updates


def _require_federation(scenario: Scenario) -> None:
    federation, data = scenario.federation, scenario.data
    if federation.defense in aggregated.names() and scenario.engine.encryption:
        raise BadScenario(
            f"scenario: federation.defense = '{federation.defense}' changes single updates, which nobody may read: set "
            "engine.encryption = false, or choose a rule on sketches"
        )
    if scenario.engine.referee and not scenario.engine.search:
        raise BadScenario("scenario: engine.referee judges searches: set engine.search = true, or leave it out")
    if federation.privacy_minimum > federation.silos:
        raise BadScenario(
            f"scenario: federation.privacy_minimum = {federation.privacy_minimum} cannot be: it is at most "
            f"federation.silos ({federation.silos}), or no round has a quorum"
        )
    if federation.clients and (federation.clients < federation.silos or data.partition != "dirichlet"):
        raise BadScenario(
            f"scenario: federation.clients = {federation.clients} cannot be: it is 0 or at least federation.silos "
            f"({federation.silos}), with data.partition = 'dirichlet'"
        )
    if federation.clients and data.ratio != 1:
        raise BadScenario("scenario: data.ratio must be 1 with federation.clients: a silo declares one count for all")
    if data.components and data.features == "none":
        raise BadScenario("scenario: data.components counts fixed features: set data.features, or leave it out")


def _require_model(scenario: Scenario) -> None:
    kind, hidden, pull = scenario.model.kind, scenario.model.hidden, scenario.training.pull
    if pull and not scenario.training.prototypes_every and scenario.mode == "weights":
        raise BadScenario(
            "scenario: training.pull is towards prototypes: set training.prototypes_every, or leave it out"
        )
    if kind == "lenet" and len(hidden) < 2:
        raise BadScenario("scenario: model.hidden must begin with two numbers of channels for a lenet")
    if not hidden and scenario.mode == "personal":
        raise BadScenario("scenario: model.hidden must have a layer with mode = 'personal': prototypes are its output")
    if pull and (kind == "linear" or not hidden):
        raise BadScenario(
            "scenario: training.pull needs a hidden layer: set model.kind and model.hidden, or leave it out"
        )
