"""What FLTrust and MoNNA trust, in a simulation: an update on public records, and a silo that is known to be honest.

Neither stands in a log, so that no policy can name these rules; a federation that trusts somebody can use them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from audit.history import History, RoundView
from crypto import sketch
from crypto.quantise import quantise, randomness_needed
from defenses.errors import MissingEvidence
from defenses.evidence import Exhibit, Setting
from protos.task import MICRO, Task, Training
from redteam.attacks.parts import NO_NOISE_MICRO
from redteam.entropy import SeededEntropy
from silo.data import Records
from silo.searcher import Root
from silo.trainer import trainer_for

TRUSTED = 100
"""Records of FLTrust's root set."""


class Running(Protocol):
    """A run, as far as rules may look at it."""

    @property
    def history(self) -> History:
        """The coordinator's, which is not ahead of any silo by more than the round that is open."""

    def model(self, digest: str) -> NDArray[np.float32]:
        """The global model of that digest, float32[d]."""


def root_of(features: NDArray[np.float32], labels: NDArray[np.int64]) -> Root:
    """Up to 100 of the public examples, as many of each class; none where there are none."""
    classes = np.unique(labels)
    each = TRUSTED // max(1, len(classes))
    chosen = np.concatenate([np.zeros(0, np.int64), *(np.flatnonzero(labels == label)[:each] for label in classes)])
    return Root(features[chosen], labels[chosen])


def pivot_of(records: Mapping[str, Records], liars: Mapping[str, object]) -> str:
    """The honest silo with the most records, of equals the first by name: a pivot must not lie, so this is a gift."""
    return min(set(records) - set(liars), key=lambda name: (-len(records[name].labels), name))


@dataclass(eq=False)
class RootUpdates:
    """FLTrust's root update, from the model of each round anew and opened as a silo's; a `defenses.sketches.Source`.

    Steps, rate and clip norm are those of the round, every step sees the whole root set, and there is no noise: public
    records need none. The same round gives the same exhibit, so that everybody can repeat a decision.

    Attributes:
        running: None before the run begins.
    """

    task: Task
    root: Root
    running: Callable[[], Running | None]
    _made: dict[str, Exhibit] = field(default_factory=dict)

    def __call__(self, setting: Setting) -> Exhibit:
        """The exhibit of the round that drew these signs; raises MissingEvidence where no round did."""
        run = self.running()
        view = None if run is None else _round_of(run.history, setting)
        if run is None or view is None:
            raise MissingEvidence("fltrust: no round has drawn these signs; judge rounds of the running simulation")
        if view.plan_digest not in self._made:
            self._made[view.plan_digest] = self._exhibit(run, view, setting)
        return self._made[view.plan_digest]

    def update(self, model: NDArray[np.float32], training: Training) -> NDArray[np.float64]:
        """What clipped SGD on the root set makes of the model, float64[d]: new less old."""
        records = Records(
            self.root.features, self.root.labels, self.root.features, self.root.labels, self.task.model.features
        )
        whole = replace(training, sample_rate_micro=MICRO, noise_micro=NO_NOISE_MICRO)
        trainer = trainer_for(self.task, records, SeededEntropy(0))
        return np.asarray(trainer.train(model, whole, len(self.root.labels)), dtype=np.float64)

    def _exhibit(self, run: Running, view: RoundView, setting: Setting) -> Exhibit:
        update = self.update(run.model(view.plan.model), view.plan.training)
        packing = run.history.packing
        steps = quantise(update, view.plan.step_log2, SeededEntropy(0).take(randomness_needed(update.size)))
        folds, output = sketch.sketch(packing.to_fields(steps), packing, setting.signs)
        classes = np.bincount(self.root.labels, minlength=setting.classes)
        return Exhibit("root", len(self.root.labels), classes, folds.astype(np.int64), output.astype(np.int64), None)


def _round_of(history: History, setting: Setting) -> RoundView | None:
    """The last round whose challenge drew the setting's signs."""
    folds, chunks = setting.signs.shape
    drawn = (view for view in reversed(history.rounds) if view.seed)
    return next((view for view in drawn if np.array_equal(sketch.signs(view.seed, folds, chunks), setting.signs)), None)
