"""An attack: parts joined into a trainer that takes a seat of the simulator, or a silo of production."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from protos.task import MICRO, Task, Training
from redteam.attacks.local import PrivateSgd
from redteam.attacks.parts import ClassSums, Context, Data, Features, Floats, Labels, Local, Prototypes, Ring, Update
from redteam.errors import BadAttack
from silo.data import Records
from silo.entropy import Entropy
from silo.guidance import NONE, Guidance
from silo.searcher import Searcher
from silo.trainer import Trainer, trainer_for

if TYPE_CHECKING:
    from redteam.simulator import Seat
    from silo.features import Extractor


def always(number: int) -> bool:
    """Attack in every round."""
    return True


@dataclass(frozen=True)
class Attack:
    """Parts and when they act; calling it makes the trainer, in the place of `silo.trainer.trainer_for`.

    Attributes:
        data: poisons records; None leaves them.
        local: how the attacker trains.
        updates: applied in order to what `local` made.
        prototypes: changes the class sums; None sends those of the poisoned records.
        active: in which of its own rounds (from 1) it attacks; in the others it is honest.
        declared: its record count at enrolment as a multiple of the true one.
        ring: what it shares with colluders; attackers with one ring collude.
        member: its name in the ring.
        held: records that it has in the place of its silo's.
        searcher: searches and attributes in the place of the task's own; None is honest in both.
        seed: of its own choices; the DP noise comes from the silo's entropy as ever.
        extractor: the fixed features before the task's model; the data part acts on images, all others on features.
    """

    data: Data | None = None
    local: Local = field(default_factory=PrivateSgd)
    updates: tuple[Update, ...] = ()
    prototypes: Prototypes | None = None
    active: Callable[[int], bool] = always
    declared: float = 1.0
    ring: Ring = field(default_factory=Ring)
    member: str = ""
    held: Records | None = None
    searcher: Callable[[Task], Searcher] | None = None
    seed: int = 0
    extractor: Extractor | None = None

    def __call__(self, task: Task, records: Records, entropy: Entropy) -> AttackTrainer:
        """The attacking trainer on these records."""
        return AttackTrainer(self, task, records, entropy)

    def holds(self, records: Records) -> Records:
        """What it has of its silo's records, or in their place."""
        return records if self.held is None else self.held

    def poison(self, records: Records) -> Records:
        """The records as the data part makes them: the same ones for every call."""
        return records if self.data is None else self.data.poison(records, np.random.default_rng(self.seed))

    def seen(self, records: Records) -> Records:
        """The records as the task's model sees them."""
        return records if self.extractor is None else self.extractor.of(records)

    def triggered(self, features: Features, labels: Labels) -> Records:
        """Test records whose accuracy is the attack success rate; raises BadAttack for an untargeted attack."""
        if self.data is None:
            raise BadAttack("an attack without a data part has no success rate: measure the accuracy that it costs")
        return self.data.triggered(features, labels)

    def declare(self, records: Records) -> Records:
        """Records with the declared count: repeated, or the first ones of a random order."""
        records = self.holds(records)
        count = max(1, round(self.declared * len(records.labels)))
        order = np.random.default_rng(self.seed).permutation(len(records.labels))
        chosen = np.resize(order, count)
        return replace(records, features=records.features[chosen], labels=records.labels[chosen])

    def seat(self, records: Records) -> Seat:
        """A seat of the simulator whose silo declares as told and attacks with its true records."""
        from redteam.simulator import Seat  # the simulator brings coordinator and cryptography

        def trainer(task: Task, declared: Records, entropy: Entropy) -> Trainer:
            return self(task, records, entropy)

        declared, lies = self.declare(records), self.searcher is not None
        return Seat(declared, trainer, searcher=self.searcher, follow=self.ring.follow, resumes=lies)


class AttackTrainer:
    """The `silo.trainer.Trainer` of an attack: honest in evaluations and in rounds where the attack sleeps."""

    def __init__(self, attack: Attack, task: Task, records: Records, entropy: Entropy) -> None:
        self._attack, self._task, self._entropy = attack, task, entropy
        records = attack.holds(records)
        self._data = _before_features(attack, records)
        self._records = attack.seen(records)
        self._poisoned = self._records if attack.data is None else attack.seen(attack.poison(records))
        self._honest = trainer_for(task, self._records, entropy)
        self._poisoning = self._honest if attack.data is None else trainer_for(task, self._poisoned, entropy)
        self._context: Context | None = None

    def train(self, model: NDArray[np.float32], training: Training, count: int, guidance: Guidance = NONE) -> Floats:
        """See `Trainer.train`: the local part's update, changed by the update parts.

        An attacker does not unlearn what was found, except in rounds where it is honest. Where it trains as an honest
        silo does, it keeps to the prototypes as well.
        """
        context = self._context = self._next(model, training, count, replace(guidance, doses=()))
        if not self._attack.active(context.round):
            return self._honest.train(model, training, count, guidance)
        update = self._attack.local.train(context)
        for part in self._attack.updates:
            update = part.send(update, context)
        return update

    def embed(self, model: NDArray[np.float32]) -> tuple[Floats, Labels]:
        """See `Trainer.embed`. A prototype part's sums come as rows that add up to them after clipping."""
        context, part = self._for_prototypes(model), self._attack.prototypes
        if not self._attack.active(context.round):
            return self._honest.embed(model)
        if part is None:
            return self._poisoning.embed(model)
        embeddings, labels = self._honest.embed(model)
        clip = self._clip
        sums = part.send(class_sums(embeddings, labels, self._task.layout.classes, clip), context)
        return rows_of(sums, clip)

    def evaluate(self, model: NDArray[np.float32]) -> tuple[int, int]:
        """See `Trainer.evaluate`; honest."""
        return self._honest.evaluate(model)

    @property
    def _clip(self) -> float:
        rule = self._task.prototypes
        return math.inf if rule is None else rule.clip_micro / MICRO

    def _for_prototypes(self, model: NDArray[np.float32]) -> Context:
        """The context of the round in which this model was received; prototypes may be asked for without training."""
        if self._context is None or not np.array_equal(self._context.model, model):
            self._context = self._next(model, self._task.training, len(self._records.labels))
        return self._context

    def _next(self, model: NDArray[np.float32], training: Training, count: int, guidance: Guidance = NONE) -> Context:
        last, attack = self._context, self._attack
        number = 1 if last is None else last.round + 1
        return Context(
            task=self._task,
            training=training,
            model=model,
            previous=None if last is None else last.model,
            count=count,
            round=number,
            records=self._records,
            poisoned=self._poisoned,
            data=self._data,
            ring=attack.ring,
            member=attack.member,
            random=np.random.default_rng([attack.seed, number]),
            entropy=self._entropy,
            guidance=guidance,
        )


@dataclass(eq=False)
class _BeforeFeatures:
    """A data part of one attacker whose model sees features: it acts on the images behind them, which it holds."""

    part: Data
    images: Records
    extractor: Extractor

    def poison(self, records: Records, random: np.random.Generator) -> Records:
        """See `Data.poison`: of the attacker's own images."""
        return self.extractor.of(self.part.poison(self.images, random))

    def triggered(self, features: Features, labels: Labels) -> Records:
        """See `Data.triggered`: of the attacker's own images, made once; raises BadAttack for other records."""
        if not np.array_equal(labels, self.images.labels):
            raise BadAttack("only an attacker's own records can be stamped behind their features")
        return self._lies

    @cached_property
    def _lies(self) -> Records:
        return self.extractor.of(self.part.triggered(self.images.features, self.images.labels))


def _before_features(attack: Attack, images: Records) -> Data | None:
    if attack.data is None or attack.extractor is None:
        return attack.data
    return _BeforeFeatures(attack.data, images, attack.extractor)


def class_sums(embeddings: Floats, labels: Labels, classes: int, clip: float) -> ClassSums:
    """Sums of the rows of each class, each row clipped to `clip`, as an honest silo makes them."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    rows = embeddings / np.maximum(1.0, lengths / clip)
    sums = np.zeros((classes, embeddings.shape[1]))
    np.add.at(sums, labels, rows)
    return ClassSums(sums, np.bincount(labels, minlength=classes))


def rows_of(prototypes: ClassSums, clip: float) -> tuple[Floats, Labels]:
    """Rows and labels whose class sums are these after clipping: equal rows, as few as the clip norm allows.

    Rows are rounded towards zero when they are released, so few long rows lose less than many short ones.
    """
    lengths = np.linalg.norm(prototypes.sums, axis=1)
    copies = np.maximum(1, np.ceil(lengths / clip * (1 + 1e-9))).astype(np.int64)
    labels = np.repeat(np.arange(len(copies)), copies)
    return (prototypes.sums / copies[:, None])[labels], labels
