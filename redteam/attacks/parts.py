"""The parts of an attack, and what the threat model lets an attacker know.

An attack has up to four parts, each of one method: a *data* part poisons records and says how success is measured; a
*local* part trains; *update* parts change the update before it is quantised and encrypted; a *prototype* part changes
the class sums. `attack.Attack` joins them into a trainer of production.

An attacker knows what a silo knows (task, plan, received model, public counts, noise law, its own records) and what its
colluders tell it: `Ring`. A ring of all silos is the omniscient attacker that some papers assume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protos.task import MICRO, Task, Training
from silo.data import Records
from silo.entropy import Entropy
from silo.guidance import NONE, Guidance
from silo.trainer import Trainer, trainer_for

if TYPE_CHECKING:
    from audit.history import History
    from redteam.attacks.learner import Learner

Floats = NDArray[np.float64]
Features = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Range:
    """What a scenario may set a number of a part to, inclusive; `high` None is the last class of its data."""

    low: float
    high: float | None


ANY = Range(-1_000_000, 1_000_000)
"""Of a number whose annotation names no range."""
Share: TypeAlias = Annotated[float, Range(0, 1)]
Amount: TypeAlias = Annotated[float, Range(0, 1_000_000)]
Rate: TypeAlias = Annotated[float, Range(1e-6, 1_000_000)]
Count: TypeAlias = Annotated[int, Range(1, 1_000_000)]
Natural: TypeAlias = Annotated[int, Range(0, 1_000_000)]
Label: TypeAlias = Annotated[int, Range(0, None)]
Given: TypeAlias = Annotated[int, None]
"""What follows from the data, so that no scenario sets it."""

NO_NOISE_MICRO = 1
"""The least noise multiplier that a plan can name: a millionth of the clip norm."""


class Trigger(Protocol):
    """What is drawn on images, or written into tables."""

    def stamp(self, features: Features) -> Features:
        """Copies of flattened square images, float32[n, channels * side * side], or of table rows, with the trigger.

        Raises:
            BadAttack: the records are not what this trigger is drawn on.
        """


class Data(Protocol):
    """Poisons records and measures what came of it."""

    def poison(self, records: Records, random: np.random.Generator) -> Records:
        """New records with the training part poisoned; hold-out and argument stay as they are."""

    def triggered(self, features: Features, labels: Labels) -> Records:
        """Test records of the attack as a hold-out: accuracy on it is the attack success rate.

        Records that have the wanted label already are left out, as they would flatter the attack.
        """


class Local(Protocol):
    """How the attacker trains."""

    def train(self, context: Context) -> Floats:
        """An update, float64[d]."""


class Update(Protocol):
    """Changes an update before it is sent."""

    def send(self, update: Floats, context: Context) -> Floats:
        """The update to send instead, float64[d]; the argument is not changed."""


@dataclass(frozen=True)
class ClassSums:
    """Sums float64[classes, width] of the output layer's inputs, and how many records are in each, int64[classes]."""

    sums: Floats
    counts: Labels

    @property
    def means(self) -> Floats:
        """Prototypes, float64[classes, width]; zero for a class without records."""
        means: Floats = self.sums / np.maximum(self.counts, 1)[:, None]
        return means


class Prototypes(Protocol):
    """Changes class sums before they are noised and sent."""

    def send(self, prototypes: ClassSums, context: Context) -> ClassSums:
        """The class sums to send instead."""


@dataclass
class Ring:
    """What colluders share: each one's clean records, and what they agree on as rounds pass.

    Attributes:
        members: clean records by colluder.
        counts: public, noised record counts; those of the log where absent, and the true ones without a log.
        consensus: global prototypes, float64[classes, width], where no log tells them; None: the log's, or own ones.
        malice: directions that members sent, as (round, member, unit vector).
        triggers: learned triggers by target label.
        lies: what the first of a pair added to its update, times its count, by round and pair.
        log: the federation's log as it stands, which every silo reads; None where there is none.
    """

    members: Mapping[str, Records] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    consensus: Floats | None = None
    malice: list[tuple[int, str, Floats]] = field(default_factory=list)
    triggers: dict[int, Trigger] = field(default_factory=dict)
    lies: dict[tuple[int, int], Floats] = field(default_factory=dict)
    log: Callable[[], History] | None = field(default=None, repr=False)
    _honest: tuple[int, bytes, Floats] | None = field(default=None, repr=False)

    def follow(self, log: Callable[[], History]) -> None:
        """See `Seat.follow`."""
        self.log = log

    def count(self, name: str) -> int:
        """The count that a member's honest update goes by."""
        if name in self.counts:
            return self.counts[name]
        public = {} if self.log is None else self.log().counts
        return public[name].total if name in public else len(self.members[name].labels)

    def honest(self, context: Context) -> Floats:
        """Updates that the members would send honestly, float64[members, d]; made once a round.

        They are trained anew, so that batches and noise are other ones than in what honest members send in the round:
        their law is known, not their draw.
        """
        key = context.round, context.model.tobytes()
        if self._honest is None or self._honest[:2] != key:
            updates = [
                trainer_for(context.task, own, context.entropy).train(
                    context.model, context.training, self.count(name), context.guidance
                )
                for name, own in self.members.items()
            ]
            self._honest = (*key, np.stack(updates))
        return self._honest[2]


@dataclass
class Context:
    """What one attacker knows in one round.

    Attributes:
        task: the federation's.
        training: the plan's DP-SGD parameters.
        model: the received global model, float32[d].
        previous: the one received before, or None in the first round.
        count: this silo's public, noised record count.
        round: how many rounds this attacker has trained, from 1.
        records: its own clean records.
        poisoned: the same after the data part.
        data: the data part, if there is one.
        ring: what colluders share; `member` is this attacker's name there.
        random: the attack's own randomness, fixed by its seed and the round.
        entropy: the silo's source of noise.
        guidance: what honest training of this round goes by, without triggers to unlearn.
    """

    task: Task
    training: Training
    model: NDArray[np.float32]
    previous: NDArray[np.float32] | None
    count: int
    round: int
    records: Records
    poisoned: Records
    data: Data | None
    ring: Ring
    member: str
    random: np.random.Generator
    entropy: Entropy
    guidance: Guidance = NONE

    @cached_property
    def learner(self) -> Learner:
        """Gradients and predictions of the task's model."""
        from redteam.attacks.learner import Learner  # torch takes seconds; numpy attacks on linear models need none

        return Learner(self.task.model)

    @cached_property
    def honest_trainer(self) -> Trainer:
        """Production's trainer on the clean records."""
        return trainer_for(self.task, self.records, self.entropy)

    @cached_property
    def honest(self) -> Floats:
        """The update that this silo would send honestly, float64[d]."""
        return self.honest_trainer.train(self.model, self.training, self.count, self.guidance)

    @property
    def known(self) -> Floats:
        """Honest updates that the attacker knows, float64[k, d]: the ring's, or its own alone."""
        return self.ring.honest(self) if self.ring.members else self.honest[None, :]

    @property
    def noise_std(self) -> float:
        """Deviation of the DP noise in one coordinate: lr * σ * C * sqrt(steps) / (sample rate * count)."""
        plan = self.training
        one_step = (plan.learning_rate_micro / MICRO) * (plan.noise_micro / MICRO) * (plan.clip_micro / MICRO)
        return one_step * math.sqrt(plan.steps) / (plan.sample_rate_micro / MICRO * self.count)

    @property
    def output(self) -> slice:
        """Where the output layer is in the flat model."""
        layout = self.task.layout
        return slice(layout.output_offset, layout.output_offset + layout.output_size)


def norm(vector: Floats) -> float:
    """L2 norm."""
    return float(np.linalg.norm(vector))


def unit(vector: Floats) -> Floats:
    """The vector scaled to length one; zero stays zero."""
    return vector / (norm(vector) or 1.0)
