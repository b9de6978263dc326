"""`task pack`: from a description in TOML to the task and the first global model that genesis pins by digest.

Decides what follows from the description: the layout, the quantisation step, and the training noise for the whole plan.
Noise and rates are taken exactly to six decimals (δ to nine); more decimals are refused, so that nothing is rounded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import secrets
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audit.accounting import ImpossibleTarget, solve_noise
from protos import canonical, codec
from protos.errors import MalformedMessage
from protos.task import MICRO, NANO, Budget, ModelSpec, PrototypeRule, SearchRule, Task, Training
from silo import rootset
from silo.errors import BadTask, ImpossiblePrivacyTarget
from silo.likeness import alike
from silo.searcher import Root
from silo.trainer import initial_model, layout_for, require_pullable

LEVELS = 127
"""An update's coordinates are integers from -127 to 127."""

_REQUIRED = frozenset(
    {"name", "model", "rounds", "sample_rate", "steps", "learning_rate", "clip"}
    | {"evaluation_noise", "counts_noise", "epsilon", "delta", "range", "folds"}
)
_OPTIONAL = frozenset({"prototypes", "evaluation_every", "schedule", "search", "seed", "warm_start"})
_SEARCH = {"every": 2, "success": 0.2, "checkers": 21, "memory": 50, "level": 0.01, "referee": None}
"""Defaults: up to 21 silos attribute a find, which are all of them in a small federation; most silos decide."""


def pack_task(spec: Mapping[str, Any], root: Root | None = None, public: Root | None = None) -> tuple[Task, bytes]:
    """The task and its first model from a description.

    Args:
        spec: `name`, `model` (`kind`, `sizes`, `activation`, optionally `features`: the SHA-256 of a file of fixed
            features), `rounds`, `sample_rate`, `steps`, `learning_rate`, `clip`, `evaluation_noise` and `counts_noise`
            (multipliers), `epsilon`, `delta`, `range` (the largest coordinate of an update that is not cut), `folds`;
            optionally `prototypes` (`clip`, `noise`, `every`, and `pull`: FedProto's λ, 0 where absent),
            `evaluation_every` (1: every round), `schedule` of the learning rate (`constant`, or `cosine` over the
            rounds), a public `seed`, and `search` (`every`, `success`, `checkers`, `memory`, `level`, `referee`, each
            optional; see `SearchRule`), and `warm_start`: whether the first model is fitted to public examples
            (`silo.warmup`), by default not. The last two need a root set.
        root: the public root set. Without it nobody searches the model.
        public: what the first model is fitted to, where that is not the root set.

    Returns:
        The task, and the first model as flat little-endian float32 bytes, whose SHA-256 is in the task.

    Raises:
        BadTask: an entry is missing, unknown or out of range.
        UnsuitableModel: the model cannot be trained privately, or has no layer that prototypes could pull.
        ImpossiblePrivacyTarget: no training noise meets the budget; the least possible ε is named.
    """
    draft, model = draft_task(spec, root, public)
    return _with_solved_noise(draft), model


def draft_task(spec: Mapping[str, Any], root: Root | None = None, public: Root | None = None) -> tuple[Task, bytes]:
    """As `pack_task`, but the training noise is a multiplier of 1 that nobody has solved for; for simulators.

    Args:
        public: what the first model is fitted to with `warm_start`, where that is not the root set.
    """
    _require_keys(spec, "task", _REQUIRED, _OPTIONAL)
    seed = _integer(spec.get("seed", secrets.randbits(63)), "seed")
    model_spec = _model_spec(spec["model"])
    model = model_bytes(_first_model(model_spec, seed, spec.get("warm_start", False), public or root))
    draft = Task(
        name=_text(spec["name"], "name"),
        model=model_spec,
        layout=layout_for(model_spec, hashlib.sha256(f"concordat permutation {seed}".encode()).hexdigest()),
        initial_model=hashlib.sha256(model).hexdigest(),
        rounds=_integer(spec["rounds"], "rounds"),
        training=_training(spec),
        prototypes=_prototypes(spec.get("prototypes")),
        counts_noise_micro=_scaled(spec["counts_noise"], "counts_noise"),
        evaluation_noise_micro=_scaled(spec["evaluation_noise"], "evaluation_noise"),
        evaluation_every=_integer(spec.get("evaluation_every", 1), "evaluation_every"),
        budget=Budget(_scaled(spec["epsilon"], "epsilon"), _scaled(spec["delta"], "delta", NANO)),
        step_log2=step_log2(float(_number(spec["range"], "range"))),
        folds=_integer(spec["folds"], "folds"),
        search=_search(spec.get("search"), root, model_spec),
        schedule=_text(spec.get("schedule", "constant"), "schedule"),
    )
    require_pullable(draft)
    return _checked(draft), model


def step_log2(largest: float) -> int:
    """Exponent of the smallest power of two with which ±127 steps reach ±`largest`."""
    return math.ceil(math.log2(largest / LEVELS))


def model_bytes(model: NDArray[np.float32]) -> bytes:
    """A flat model as it is hashed, sent and exported: little-endian float32."""
    return model.astype("<f4").tobytes()


def _first_model(model: ModelSpec, seed: int, warm: Any, public: Root | None) -> NDArray[np.float32]:
    """Torch's own under the seed and, where it is to be warm, fitted to the public examples."""
    first = initial_model(model, seed)
    if not isinstance(warm, bool):
        raise BadTask("task: warm_start must be true or false")
    if not warm:
        return first
    if public is None:
        raise BadTask("task: warm_start needs public examples: say --root FILE.npz, or leave it out")
    rootset.require_fit(public, model.sizes[0], model.sizes[-1])
    from silo.warmup import fitted  # torch takes seconds to import

    return fitted(model, first, public)


def _with_solved_noise(draft: Task) -> Task:
    try:
        noise = solve_noise(draft)
    except ImpossibleTarget as error:
        raise ImpossiblePrivacyTarget(str(error)) from error
    return dataclasses.replace(draft, training=dataclasses.replace(draft.training, noise_micro=noise))


def _checked(task: Task) -> Task:
    """Let the codec judge every range, as a reader of the task will."""
    try:
        if task.budget.delta_nano >= NANO:
            raise BadTask("task: delta must be below 1, and below one over the number of records")
        return codec.decode(Task, canonical.loads(codec.pack(task)))
    except MalformedMessage as error:
        raise BadTask(f"task: {error}") from error


def _model_spec(value: Any) -> ModelSpec:
    entry = _table(value, "model", {"kind", "sizes", "activation"}, frozenset({"features"}))
    if not isinstance(entry["sizes"], list | tuple):
        raise BadTask("task: model.sizes must be a list of layer widths, inputs first")
    sizes = tuple(_integer(size, "model.sizes") for size in entry["sizes"])
    features = _text(entry["features"], "model.features") if "features" in entry else None
    spec = ModelSpec(
        _text(entry["kind"], "model.kind"), sizes, _text(entry["activation"], "model.activation"), features
    )
    try:
        return codec.decode(ModelSpec, codec.encode(spec) | {"sizes": list(sizes)})
    except MalformedMessage as error:
        raise BadTask(f"task: {error}") from error


def _training(spec: Mapping[str, Any]) -> Training:
    return Training(
        sample_rate_micro=_scaled(spec["sample_rate"], "sample_rate"),
        steps=_integer(spec["steps"], "steps"),
        learning_rate_micro=_scaled(spec["learning_rate"], "learning_rate"),
        clip_micro=_scaled(spec["clip"], "clip"),
        noise_micro=MICRO,  # solved below
    )


def _prototypes(value: Any) -> PrototypeRule | None:
    if value is None:
        return None
    entry = _table(value, "prototypes", {"clip", "noise", "every"}, frozenset({"pull"}))
    clip, noise = _scaled(entry["clip"], "prototypes.clip"), _scaled(entry["noise"], "prototypes.noise")
    pull = _scaled(entry.get("pull", 0), "prototypes.pull", zero=True)
    return PrototypeRule(clip, noise, _integer(entry["every"], "prototypes.every"), pull)


def _search(value: Any, root: Root | None, spec: ModelSpec) -> SearchRule | None:
    if root is None:
        if value is not None:
            raise BadTask("task: a search needs public examples: say --root FILE.npz, or leave `search` out")
        return None
    if value is not None and not isinstance(value, Mapping):
        raise BadTask(f"task: search must be a table with {', '.join(sorted(_SEARCH))}")
    _require_keys(value or {}, "search", frozenset(), frozenset(_SEARCH))
    rootset.require_fit(root, spec.sizes[0], spec.sizes[-1])
    entry = _SEARCH | dict(value or {})
    return SearchRule(
        every=_integer(entry["every"], "search.every"),
        root=hashlib.sha256(rootset.to_bytes(root)).hexdigest(),
        success_micro=_scaled(entry["success"], "search.success"),
        checkers=_integer(entry["checkers"], "search.checkers"),
        memory=_integer(entry["memory"], "search.memory"),
        level_micro=_scaled(entry["level"], "search.level"),
        alike=alike(root),
        referee=None if entry["referee"] is None else _text(entry["referee"], "search.referee"),
    )


def _table(value: Any, name: str, keys: set[str], optional: frozenset[str] = frozenset()) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadTask(f"task: {name} must be a table with {', '.join(sorted(keys))}")
    _require_keys(value, name, frozenset(keys), optional)
    return value


def _require_keys(value: Mapping[str, Any], name: str, required: frozenset[str], optional: frozenset[str]) -> None:
    missing, unknown = sorted(required - set(value)), sorted(set(value) - required - optional)
    if missing:
        raise BadTask(f"{name}: add the missing {', '.join(missing)}")
    if unknown:
        raise BadTask(f"{name}: remove the unknown {', '.join(map(str, unknown))}")


def _number(value: Any, name: str, zero: bool = False) -> Decimal:
    """A positive number, or with `zero` 0 too; floats are read as they were written."""
    finite = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not finite or value < 0 or (value == 0 and not zero):
        raise BadTask(f"task: {name} must be {'0 or ' if zero else ''}a positive number")
    return Decimal(str(value))


def _scaled(value: Any, name: str, unit: int = MICRO, zero: bool = False) -> int:
    scaled = _number(value, name, zero) * unit
    if scaled != scaled.to_integral_value():
        raise BadTask(f"task: {name} has more than {len(str(unit)) - 1} decimals, round it")
    return int(scaled)


def _integer(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadTask(f"task: {name} must be a whole number")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise BadTask(f"task: {name} must be text")
    return value
