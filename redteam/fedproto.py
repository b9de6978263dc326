"""FedProto (Tan et al. 2022): personal models that share class prototypes only, and BAPFL's attacks on it.

A silo's loss is cross-entropy plus λ times the squared distance of each embedding to its class's global prototype. Of
the round of production it keeps the prototype stage alone: what a silo sends is made by `silo.releases` (clipped class
sums on a grid, with noise where the rule has some), what an attacker sends goes through the same release, and verdicts
and weights come from `defenses.decide`. There is no sum of updates, so nothing is encrypted, summed or verified, the
laws on update norms do not apply, and prototypes are of personal models: comparable only as far as λ makes them so.

Silos are drawn as in FedProto's code: `ways` ± `deviation` classes of ten, `shots` records of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from protos.task import MICRO, PROTOTYPE_GRID, Budget, ModelSpec, PrototypeRule, Task, Training
from redteam.attacks.attack import Attack, AttackTrainer, class_sums
from redteam.attacks.learner import Learner
from redteam.attacks.parts import Features, Floats, Labels, Trigger
from redteam.attacks.prototypes import TriggerSearch
from redteam.attacks.trigger_search import learn_trigger
from redteam.datasets import Dataset
from redteam.prototype_defences import Combine, Combined, Sent, mean
from silo import models
from silo.data import Records
from silo.entropy import Entropy, OsEntropy
from silo.releases import noised_counts, noised_prototypes
from silo.trainer import initial_model, layout_for

Model = NDArray[np.float32]


@dataclass(frozen=True)
class Plan:
    """One run.

    Attributes:
        sizes, activation: layer widths of every personal model; the paper has a small CNN.
        silos, ways, shots, deviation: FedProto's population.
        rounds, epochs, batch, learning_rate: of local SGD.
        pull: λ.
        clip: L2 clip norm of an embedding in a prototype. Far above their norms, 4 to 9, it would blind the Guard,
            whose bound on sampling is in units of it.
        noise_micro: multiplier of the noise on prototypes and class counts; 0 is none, as in the papers.
        inoculate: whether honest silos search their own model for triggers and learn the right label under them.
        every: they search after every so many rounds, from the first.
        search: how they search.
    """

    sizes: tuple[int, ...] = (784, 64, 10)
    activation: str = "relu"
    silos: int = 20
    ways: int = 3
    shots: int = 100
    deviation: int = 2
    rounds: int = 8
    epochs: int = 2
    batch: int = 32
    learning_rate: float = 0.1
    pull: float = 1.0
    clip: float = 8.0
    noise_micro: int = 0
    inoculate: bool = False
    every: int = 3
    search: TriggerSearch = field(default_factory=lambda: TriggerSearch(steps=30, pull=0.0))


def population(data: Dataset, plan: Plan, random: np.random.Generator) -> dict[str, Records]:
    """Records by silo; its hold-out is the test images of its own classes, at most 100 of each."""
    made = {}
    for number in range(plan.silos):
        ways = int(random.integers(max(2, plan.ways - plan.deviation), plan.ways + plan.deviation + 1))
        shots = int(random.integers(plan.shots - plan.deviation + 1, plan.shots + plan.deviation - 1))
        own = random.choice(data.classes, min(ways, data.classes), replace=False)
        mine = _drawn(data.labels, own, shots, random)
        held = _drawn(data.test_labels, own, 100, random)
        made[f"s{number:03d}"] = Records(
            data.features[mine], data.labels[mine], data.test_features[held], data.test_labels[held]
        )
    return made


class Federation:
    """Personal models that share prototypes; `attacking` silos send what their attack makes of theirs."""

    def __init__(
        self,
        plan: Plan,
        silos: Mapping[str, Records],
        attacking: Mapping[str, Attack],
        combine: Combine = mean,
        entropy: Entropy | None = None,
        seed: int = 0,
    ) -> None:
        self.plan, self.silos, self.attacking, self.combine = plan, dict(silos), dict(attacking), combine
        self.entropy: Entropy = entropy or OsEntropy()
        self.task = _task(plan)
        self.learner = Learner(self.task.model)
        self.models = {name: initial_model(self.task.model, seed) for name in silos}
        self.consensus: Floats | None = None
        self.rounds: list[Combined] = []
        self.seed = seed
        classes = self.task.layout.classes
        self.counts = {
            name: np.array(noised_counts(own.labels, classes, plan.noise_micro, self.entropy)[1])
            if plan.noise_micro
            else np.bincount(own.labels, minlength=classes)
            for name, own in self.silos.items()
        }
        self._trainers = {
            name: AttackTrainer(attack, self.task, silos[name], self.entropy) for name, attack in attacking.items()
        }
        self._remedies: dict[str, dict[int, Trigger]] = {name: {} for name in silos}

    def run(self, after: Callable[[], None] = lambda: None) -> Federation:
        """All rounds, with a call after each; itself."""
        for number in range(self.plan.rounds):
            for name in self.silos:
                self._train(name, number)
            self.rounds.append(self.combine(self._sent()))
            self.consensus = self.rounds[-1].consensus
            after()
        return self

    @property
    def benign(self) -> dict[str, Records]:
        """The silos that do not attack."""
        return {name: own for name, own in self.silos.items() if name not in self.attacking}

    def accuracy(self) -> float:
        """Mean over benign silos of the accuracy on test images of their own classes."""
        return float(np.mean([self.right(name) for name in self.benign]))

    def right(self, name: str) -> float:
        """Accuracy of one silo's model on test images of its own classes."""
        own = self.silos[name]
        return self._share(name, own.holdout_features, own.holdout_labels)

    def success(self, triggers: Mapping[int, Trigger]) -> float:
        """Mean over benign silos and their classes j: share of other classes' test images that trigger j turns to j."""
        shares = []
        for name, own in self.benign.items():
            for label in np.unique(own.labels).tolist():
                others = own.holdout_features[own.holdout_labels != label]
                if label in triggers and len(others):
                    shares.append(self._share(name, triggers[label].stamp(others), np.full(len(others), label)))
        return float(np.mean(shares))

    def _share(self, name: str, features: Features, labels: Labels) -> float:
        return float((self.learner.predict(self.models[name], features) == labels).mean())

    def _sent(self) -> Sent:
        """Every silo's release of this round, as the other side reads it."""
        sums = []
        for name, own in self.silos.items():
            if name in self._trainers:
                self.attacking[name].ring.consensus = self.consensus
                embeddings, labels = self._trainers[name].embed(self.models[name])
            else:
                embeddings, labels = self.learner.embed(self.models[name], own.features), own.labels
            sums.append(self._released(embeddings, labels))
        counts = np.stack([self.counts[name] for name in self.silos])
        noise = self.plan.noise_micro / MICRO
        return Sent(tuple(self.silos), np.stack(sums), counts, self.plan.clip / PROTOTYPE_GRID, noise)

    def _released(self, embeddings: Floats, labels: Labels) -> NDArray[np.int64]:
        """Class sums as production releases them; without noise on the same grid."""
        rule, classes = self.task.prototypes, self.task.layout.classes
        assert rule is not None
        if self.plan.noise_micro:
            return noised_prototypes(embeddings, labels, rule, classes, self.entropy)
        exact = class_sums(embeddings, labels, classes, self.plan.clip).sums
        return np.rint(exact * (PROTOTYPE_GRID / self.plan.clip)).astype(np.int64)

    def _train(self, name: str, number: int) -> None:
        own, plan = self.silos[name], self.plan
        searches = plan.inoculate and number > 0 and (number - 1) % plan.every == 0
        if searches and name not in self.attacking:
            self._search(name, own)
        module = self.learner.load(self.models[name])
        optimizer = torch.optim.SGD(module.parameters(), lr=plan.learning_rate)
        random = np.random.default_rng([self.seed, number, list(self.silos).index(name)])
        for _ in range(plan.epochs):
            for batch in np.array_split(random.permutation(len(own.labels)), math.ceil(len(own.labels) / plan.batch)):
                loss = self._loss(self._inoculated(name, own.features[batch], random), own.labels[batch])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        self.models[name] = models.flatten(module)

    def _loss(self, features: Features, labels: Labels) -> Tensor:
        """FedProto's objective, eq. 7: cross-entropy + λ * squared distance to the global prototypes."""
        embeddings, scores = self.learner.forward(torch.from_numpy(features))
        wanted = torch.from_numpy(labels)
        loss = nn.functional.cross_entropy(scores, wanted)
        if self.consensus is None:
            return loss
        centres = torch.from_numpy(self.consensus[labels]).float()
        return loss + self.plan.pull * (embeddings - centres).square().mean()

    def _search(self, name: str, own: Records) -> None:
        """Triggers in the silo's own model, one for each of its classes, on its own records."""
        for label in np.unique(own.labels).tolist():
            others = own.features[own.labels != label]
            width = np.zeros(self.task.layout.embedding)
            known = self._remedies[name].get(label)
            self._remedies[name][label] = learn_trigger(
                self.learner, self.models[name], others, label, width, self.plan.search, known
            )

    def _inoculated(self, name: str, features: Features, random: np.random.Generator) -> Features:
        """Half of a batch under the triggers that the silo found; its labels stay right."""
        known = list(self._remedies[name].values())
        if not known:
            return features
        features = features.copy()
        chosen = random.random(len(features)) < 0.5
        picks = random.integers(len(known), size=len(features))
        for number, trigger in enumerate(known):
            places = chosen & (picks == number)
            features[places] = trigger.stamp(features[places])
        return features


def _drawn(labels: Labels, classes: NDArray[np.int64], number: int, random: np.random.Generator) -> NDArray[np.int64]:
    parts = [random.permutation(np.flatnonzero(labels == label))[:number] for label in classes]
    return np.concatenate(parts)


def _task(plan: Plan) -> Task:
    """A task that carries the prototype rule; its training parameters are not used."""
    spec = ModelSpec("mlp", plan.sizes, plan.activation)
    layout = layout_for(spec, "0" * 64)
    rule = PrototypeRule(round(plan.clip * MICRO), max(1, plan.noise_micro), 1)
    training, budget = Training(MICRO, 1, MICRO, MICRO, 1), Budget(8 * MICRO, 10_000)
    return Task("fedproto", spec, layout, "0" * 64, plan.rounds, training, rule, 1, 1, 1, budget, -6, 2)
