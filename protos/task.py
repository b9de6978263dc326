"""What is fixed for the whole run: the task (model, layout, privacy) and the federation's policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from protos.codec import LATER, Between, Digest, Matching, Name, Natural, Positive, Text, digest_of

MICRO = 1_000_000
NANO = 1_000_000_000
PROTOTYPE_GRID = 1024
"""Integer units per clip norm of a prototype: one record moves the released sums by at most this L2 norm."""
LEAST_STEP_LOG2 = -60
Rate = Annotated[int, Between(1, MICRO)]
Schedule = Annotated[str, Matching("constant|cosine")]
"""How the learning rate goes over the rounds (`audit.schedule`)."""


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the flat model: `shape` in row-major order from `offset`."""

    name: Text
    shape: tuple[Positive, ...]
    offset: Natural


@dataclass(frozen=True)
class Layout:
    """How a flat float32 vector is a model.

    The output layer (weight `[classes, embedding]`, then bias `[classes]`) is the contiguous slice from
    `output_offset`, `output_size` long. `permutation` seeds the public order of the other coordinates in slots.
    """

    tensors: tuple[TensorSpec, ...]
    size: Positive
    output_offset: Natural
    output_size: Positive
    embedding: Positive
    classes: Annotated[int, Between(2, 100_000)]
    permutation: Digest


@dataclass(frozen=True)
class ModelSpec:
    """A model that the silos' factory of that `kind` builds; `sizes` are layer widths, input first.

    `features` is the SHA-256 of the file of fixed public features that stand before it, None for raw records.
    """

    kind: Name
    sizes: tuple[Positive, ...]
    activation: Name
    features: Digest | None = None


@dataclass(frozen=True)
class Training:
    """DP-SGD of one round: `steps` Poisson batches at `sample_rate`, clip norm C, noise multiplier σ."""

    sample_rate_micro: Rate
    steps: Annotated[int, Between(1, 100_000)]
    learning_rate_micro: Positive
    clip_micro: Positive
    noise_micro: Positive


@dataclass(frozen=True)
class PrototypeRule:
    """Noised class sums of the inputs of the last linear layer, each clipped to `clip`, every `every` rounds.

    `pull_micro` is λ of FedProto: how much the distance of a record's embedding from its class's global prototype
    counts in the loss (`audit.prototypes`, `silo.guidance`); 0 is cross-entropy alone.
    """

    clip_micro: Positive
    noise_micro: Positive
    every: Positive
    pull_micro: Natural = field(default=0, metadata=LATER)


@dataclass(frozen=True)
class Budget:
    """The (ε, δ) that one record of a silo spends at most over the whole task."""

    epsilon_micro: Positive
    delta_nano: Positive


@dataclass(frozen=True)
class Confusion:
    """Records of class `source` lie among those of `target`."""

    source: Natural
    target: Natural


@dataclass(frozen=True)
class SearchRule:
    """Silos search the model for triggers after adopted rounds 1, 1 + every, 1 + 2·every, ... and after the last.

    `root` is the SHA-256 of the public root set's file. A trigger is a find where it moves at least `success_micro` of
    the root's records that it is about. Up to `checkers` drawn silos attribute a find over the last `memory` adopted
    rounds; `level_micro` is the level at which a silo is convicted by it. `alike` are the flips that convict nobody,
    since the root set's records say that the classes are alike (`silo.likeness`); sorted. `referee` is the silo whose
    word decides what is found and attributed wherever it gave one (`audit.confirming`); without it most silos decide.
    """

    every: Positive
    root: Digest
    success_micro: Rate
    checkers: Annotated[int, Between(2, 1_000)]
    memory: Annotated[int, Between(1, 1_000_000)]
    level_micro: Rate
    alike: tuple[Confusion, ...] = field(default=(), metadata=LATER)
    referee: Name | None = field(default=None, metadata=LATER)


@dataclass(frozen=True)
class Task:
    """Pinned by its digest in genesis. `initial_model` is the SHA-256 of the flat little-endian float32 bytes.

    `counts_noise_micro` and `evaluation_noise_micro` are noise multipliers of the enrolment counts (once) and of
    the evaluation counts (in every `evaluation_every`-th round). An update is quantised in steps of
    at most `2**step_log2`; which, says each round's plan (`audit.ranges`). Without a `search` nobody looks at what
    the model has learnt.
    """

    KIND: ClassVar[str] = "concordat/task/v1"

    name: Name
    model: ModelSpec
    layout: Layout
    initial_model: Digest
    rounds: Annotated[int, Between(1, 1_000_000)]
    training: Training
    prototypes: PrototypeRule | None
    counts_noise_micro: Positive
    evaluation_noise_micro: Positive
    evaluation_every: Positive
    budget: Budget
    step_log2: Annotated[int, Between(LEAST_STEP_LOG2, 20)]
    folds: Annotated[int, Between(2, 8)]
    search: SearchRule | None = None
    schedule: Schedule = "constant"

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical task."""
        return digest_of(self)


@dataclass(frozen=True)
class Deadlines:
    """How long each phase of a round waits for silos, in milliseconds."""

    commit_ms: Positive
    open_ms: Positive
    check_ms: Positive
    verify_ms: Positive


@dataclass(frozen=True)
class Policy:
    """The federation's rules. Floor and cap are multiples of the equal share W/m of the m retained silos.

    `fdr_micro` is the false discovery rate of exclusions. `defense` names a rule of `defenses`' registry.
    """

    quorum_minimum: Annotated[int, Between(3, 10_000)]
    privacy_minimum: Annotated[int, Between(2, 10_000)]
    floor_micro: Annotated[int, Between(0, MICRO)]
    cap_micro: Annotated[int, Between(MICRO, 1000 * MICRO)]
    total_weight: Annotated[int, Between(8, 1024)]
    fdr_micro: Rate
    defense: Name
    deadlines: Deadlines
