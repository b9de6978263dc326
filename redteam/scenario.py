"""A scenario: one federation, its data, its attackers and its defence, as a TOML file says it.

Every key has a default; a file names what differs. `parse` checks every key, so that a sweep of hours does not fail at
its last cell. What does not depend on a single key (data that are too few, noise that no budget allows) shows when the
federation is built.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redteam.errors import BadScenario

NO_ATTACK = "none"
PARTITIONS = ("dirichlet", "writers", "stroke", "slant", "groups")
MODELS = ("linear", "mlp", "lenet")
FEATURES = ("none", "scattering")
SCHEDULES = ("constant", "cosine")
ACTIVATIONS = ("relu", "tanh")
BY = ("silos", "weight")
MODES = ("weights", "personal")


def _number(default: float, low: float, high: float) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


def _whole(default: int, low: int, high: int) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


def _choice(default: str, names: Callable[[], Iterable[str]]) -> Any:
    return field(default=default, metadata={"names": names})


def _data_sets() -> Iterable[str]:
    from redteam.datasets import DATASETS

    return DATASETS


def _attacks() -> Iterable[str]:
    from redteam.attacks.catalogue import ATTACKS

    return (NO_ATTACK, *ATTACKS)


def _defenses() -> Iterable[str]:
    from redteam import aggregated, arguments
    from redteam.prototype_defences import COMBINATIONS

    return sorted({*arguments.names(), *aggregated.names(), *COMBINATIONS})


@dataclass(frozen=True)
class DataSpec:
    """Records and how silos come by them.

    Attributes:
        set: a data set of `redteam.datasets`.
        records: training records over all silos, 0 for all of the set.
        test: test records, 0 for all.
        partition: `dirichlet` by class with `alpha`; `writers` dealt evenly; `stroke` or `slant`: writers in the order
            of their hand; `groups`: the largest natural groups (states, writers) are the silos.
        ratio: largest over smallest silo, log-normal; for `dirichlet` only.
        holdout: part of a silo's own records on which its local accuracy is measured.
        features: `none`, or `scattering`: what models see of images are fixed public features (`redteam.featured`),
            learned on up to 1,000 of the set's images, which are then no silo's.
        components: how many features; 0 for as many as the public images were found to support, at most 400.
        classes: records of these classes only, which are then called 0, 1, ... in this order; none for all.
    """

    set: str = _choice("digits", _data_sets)
    records: int = _whole(0, 0, 1_000_000)
    test: int = _whole(0, 0, 1_000_000)
    partition: str = _choice("dirichlet", lambda: PARTITIONS)
    alpha: float = _number(1.0, 1e-3, 1e6)
    ratio: float = _number(1.0, 1.0, 50.0)
    holdout: float = _number(0.15, 0.01, 0.9)
    features: str = _choice("none", lambda: FEATURES)
    components: int = _whole(0, 0, 10_000)
    classes: tuple[int, ...] = field(default=(), metadata={"low": 0, "high": 10_000})


@dataclass(frozen=True)
class ModelSection:
    """`linear`, `mlp` with these hidden widths, or `lenet` with two numbers of channels and hidden widths.

    With `warm_start` the first model is fitted to the public examples (`silo.warmup`), whatever the defence.
    """

    kind: str = _choice("mlp", lambda: MODELS)
    hidden: tuple[int, ...] = field(default=(32,), metadata={"low": 1, "high": 100_000})
    activation: str = _choice("relu", lambda: ACTIVATIONS)
    warm_start: bool = False


@dataclass(frozen=True)
class TrainingSpec:
    """DP-SGD of a round. With `epsilon` 0 the noise is a millionth of C: clipped SGD, in practice without DP.

    `range` is the largest coordinate of an update that is not cut; 0 takes four deviations of the smallest silo's noise
    and an eighth of what clipping allows. `prototypes_every` 0 releases none. `pull` is FedProto's λ
    (`silo.guidance`); it needs prototypes. With the schedule `cosine` the learning rate falls over the rounds
    (`audit.schedule`).
    """

    rounds: int = _whole(20, 1, 10_000)
    steps: int = _whole(5, 1, 10_000)
    sample_rate: float = _number(0.1, 1e-6, 1.0)
    learning_rate: float = _number(0.5, 1e-6, 1e6)
    clip: float = _number(1.0, 1e-6, 1e6)
    epsilon: float = _number(0.0, 0.0, 1e6)
    delta: float = _number(1e-5, 1e-9, 0.1)
    range: float = _number(0.0, 0.0, 1e6)
    prototypes_every: int = _whole(0, 0, 10_000)
    prototypes_clip: float = _number(4.0, 1e-6, 1e6)
    prototypes_noise: float = _number(20.0, 1e-6, 1e6)
    pull: float = _number(0.0, 0.0, 1e6)
    counts_noise: float = _number(10.0, 1e-6, 1e6)
    schedule: str = _choice("constant", lambda: SCHEDULES)


@dataclass(frozen=True)
class AttackSpec:
    """Who attacks and how.

    Attributes:
        name: an attack of `redteam.attacks.catalogue`, or `none`.
        share: part of the silos, or of the record counts, that attackers have; 0 measures success without attackers.
        by: `silos` or `weight`: what `share` is a part of. By weight, the nearest that whole silos come to.
        first, last: rounds in which it attacks; last 0 for all from `first` on.
        absent: the silos that would attack do not take part at all, and the others have the records that they have
            with them: what a defended run is held against.
        data, local, updates, prototypes: parameters that replace the defaults of these parts, such as
            `data = {share = 0.9}`.
    """

    name: str = _choice(NO_ATTACK, _attacks)
    share: float = _number(0.2, 0.0, 0.9)
    by: str = _choice("silos", lambda: BY)
    first: int = _whole(1, 1, 10_000)
    last: int = _whole(0, 0, 10_000)
    absent: bool = False
    data: Mapping[str, Any] = field(default_factory=dict)
    local: Mapping[str, Any] = field(default_factory=dict)
    updates: Mapping[str, Any] = field(default_factory=dict)
    prototypes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FederationSpec:
    """The federation's policy and sketches.

    `clients` above `silos` models client sampling, which production has not: each honest silo stands for a pool of
    clients and trains as another one of them in each round; attackers are in every round.
    """

    silos: int = _whole(10, 3, 1000)
    clients: int = _whole(0, 0, 100_000)
    defense: str = _choice("guard", _defenses)
    floor: float = _number(0.5, 0.0, 1.0)
    cap: float = _number(2.0, 1.0, 1000.0)
    fdr: float = _number(0.01, 1e-6, 1.0)
    privacy_minimum: int = _whole(3, 2, 1000)
    folds: int = _whole(4, 2, 8)


@dataclass(frozen=True)
class EngineSpec:
    """What of production's engine is on: CKKS (decisions are the same without), and the search for triggers.

    Attributes:
        search_every: a search after every so many rounds, from the first.
        referee: whether the first silo that does not attack is the task's referee (`audit.confirming`).
    """

    encryption: bool = False
    search: bool = False
    search_every: int = _whole(2, 1, 1000)
    referee: bool = False


@dataclass(frozen=True)
class PersonalSpec:
    """The mode `personal`: FedProto's silos and their local SGD; see `redteam.fedproto`.

    Attributes:
        ways, deviation, shots: a silo has `ways` ± `deviation` classes and about `shots` records of each.
        epochs, batch: of a round's local SGD.
        noise: multiplier of the noise on prototypes and class counts; 0 is none, as in the papers.
    """

    ways: int = _whole(3, 2, 1000)
    deviation: int = _whole(2, 0, 1000)
    shots: int = _whole(100, 1, 100_000)
    epochs: int = _whole(2, 1, 1000)
    batch: int = _whole(32, 1, 100_000)
    noise: float = _number(0.0, 0.0, 1e6)


@dataclass(frozen=True)
class Scenario:
    """All of it; `seed` fixes data, attackers' choices and noise, but not keys and nonces.

    In the mode `weights` silos train one model by production's rounds. In `personal` each keeps a model of its own and
    shares class prototypes only (FedProto); `redteam.consistency.PERSONAL` lists the keys that then mean something.
    """

    data: DataSpec = field(default_factory=DataSpec)
    model: ModelSection = field(default_factory=ModelSection)
    training: TrainingSpec = field(default_factory=TrainingSpec)
    attack: AttackSpec = field(default_factory=AttackSpec)
    federation: FederationSpec = field(default_factory=FederationSpec)
    engine: EngineSpec = field(default_factory=EngineSpec)
    personal: PersonalSpec = field(default_factory=PersonalSpec)
    mode: str = _choice("weights", lambda: MODES)
    seed: int = _whole(0, 0, 2**31)

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of what differs from the defaults: equal scenarios are one cell.

        A later key whose default is what was done before leaves the digests of old cells as they are.
        """
        return hashlib.sha256(json.dumps(self.differing, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def differing(self) -> dict[str, Any]:
        """What differs from the defaults, by section and key."""
        return _differing(dataclasses.asdict(self), dataclasses.asdict(Scenario()))


_SECTIONS: dict[str, type[Any]] = {
    "data": DataSpec, "model": ModelSection, "training": TrainingSpec, "attack": AttackSpec,
    "federation": FederationSpec, "engine": EngineSpec, "personal": PersonalSpec,
}  # fmt: skip


def _differing(own: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in own.items():
        if value != usual.get(key):
            nested = isinstance(value, dict) and key in _SECTIONS
            found[key] = _differing(value, usual[key]) if nested else value
    return found


def read(path: Path) -> Scenario:
    """The scenario in a TOML file.

    Raises:
        BadScenario: the file cannot be read or is no TOML, or see `parse`.
    """
    return parse(read_table(path))


def read_table(path: Path) -> dict[str, Any]:
    """A TOML file as it is; raises BadScenario where it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadScenario(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadScenario(f"{path} is no TOML: {error}") from error


def parse(table: Mapping[str, Any]) -> Scenario:
    """The scenario of parsed TOML.

    Raises:
        BadScenario: names the first key that is unknown or has a value that it may not have, and the allowed ones.
    """
    from redteam.consistency import require_consistent  # it needs a scenario's types, and attacks do

    _require_known(table, {*_SECTIONS, "mode", "seed"}, "")
    sections = {name: _section(cls, table.get(name, {}), name) for name, cls in _SECTIONS.items()}
    own = {one.name: one for one in dataclasses.fields(Scenario) if one.name in table and one.name not in _SECTIONS}
    scenario = Scenario(**sections, **{name: _value(spec, table[name], name) for name, spec in own.items()})
    require_consistent(scenario)
    return scenario


def changed(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A scenario's table with `changes` of dotted keys, such as `attack.name`; the argument stays as it is."""
    new: dict[str, Any] = copy.deepcopy(dict(table))
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        place = new
        for name in path:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise BadScenario(f"scenario: {dotted} names a key within {name}, which is no table")
        place[last] = value
    return new


def _section(cls: type[Any], table: Any, name: str) -> Any:
    if not isinstance(table, Mapping):
        raise BadScenario(f"scenario: {name} must be a table")
    known = {one.name: one for one in dataclasses.fields(cls)}
    _require_known(table, set(known), f"{name}.")
    return cls(**{key: _value(known[key], value, f"{name}.{key}") for key, value in table.items()})


def _require_known(table: Mapping[str, Any], known: set[str], prefix: str) -> None:
    for key in table:
        if key not in known:
            raise BadScenario(f"scenario: {prefix}{key} is unknown; choose from {', '.join(sorted(known))}")


def _value(spec: dataclasses.Field[Any], value: Any, key: str) -> Any:
    """The value in the field's type; BadScenario with what is allowed where it does not fit."""
    kind, rule = str(spec.type), spec.metadata
    if "names" in rule:
        names = tuple(rule["names"]())
        return value if value in names else _refuse(key, value, f"one of {', '.join(names)}")
    if kind == "bool":
        return value if isinstance(value, bool) else _refuse(key, value, "true or false")
    if kind.startswith("Mapping"):
        return dict(value) if _is_plain_table(value) else _refuse(key, value, "a table of parameters, without dates")
    if kind.startswith("tuple"):
        wholes = isinstance(value, list | tuple) and all(_fits(one, "int", rule) for one in value)
        return tuple(value) if wholes else _refuse(key, value, f"a list of whole numbers from {rule['low']} on")
    if not _fits(value, kind, rule):
        what = "a whole number" if kind == "int" else "a number"
        _refuse(key, value, f"{what} from {rule['low']:g} to {rule['high']:g}")
    return value if kind == "int" else float(value)


def _is_plain_table(value: Any) -> bool:
    """Whether it is a table that JSON can say, which TOML's dates and times are not."""
    try:
        json.dumps(value)
    except TypeError:
        return False
    return isinstance(value, Mapping)


def _fits(value: Any, kind: str, rule: Mapping[str, Any]) -> bool:
    allowed = int if kind == "int" else int | float
    if isinstance(value, bool) or not isinstance(value, allowed):
        return False
    return bool(rule["low"] <= value <= rule["high"])


def _refuse(key: str, value: Any, allowed: str) -> Any:
    raise BadScenario(f"scenario: {key} = {value!r} cannot be: it is {allowed}")
