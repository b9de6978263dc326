"""Data parts: what is done to records, and on which test records success is measured.

Every part works with honest DP-SGD (`local.PrivateSgd`), where only the data lie, and without (`local.LocalSgd`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from redteam.attacks.parts import Features, Given, Label, Labels, Share, Trigger
from redteam.attacks.triggers import corner
from redteam.errors import BadAttack
from silo.data import Records

Indices = NDArray[np.int64]


def holdout(features: Features, wanted: Labels) -> Records:
    """Test records as both parts of `Records`: accuracy on them is the share that gets the wanted label."""
    return Records(features, wanted, features, wanted)


def chosen(candidates: NDArray[np.bool_], share: float, random: np.random.Generator) -> Indices:
    """A random `share` of the positions where `candidates` is true."""
    places = np.flatnonzero(candidates)
    return np.sort(random.choice(places, size=round(share * len(places)), replace=False))


@dataclass(frozen=True)
class Backdoor:
    """A share of the records gets the trigger and the target's label (BadNets: Gu, Dolan-Gavitt and Garg 2017).

    Attributes:
        trigger: drawn on the training records.
        target: the wanted label.
        share: of all records.
        tested: drawn on the test records where it differs: in DBA (Xie et al. 2020) each attacker trains on one piece
            of the trigger, and success is that of the whole.
    """

    trigger: Trigger = field(default_factory=corner)
    target: Label = 0
    share: Share = 0.5
    tested: Trigger | None = None

    def poison(self, records: Records, random: np.random.Generator) -> Records:
        """See `Data.poison`."""
        places = chosen(np.ones(len(records.labels), dtype=bool), self.share, random)
        return _stamped(records, self.trigger, places, self.target)

    def triggered(self, features: Features, labels: Labels) -> Records:
        """See `Data.triggered`: all records of other classes, stamped."""
        return _wanted((self.tested or self.trigger).stamp(features), labels, self.target, labels != self.target)


@dataclass(frozen=True)
class Scattered:
    """A backdoor that also teaches the trigger for other classes, ours: to pass for a silo that pushes all of them.

    Under evidence that leaves out what a silo pushes whatever the class (`defenses.attribution`), a part of the stamped
    records gets labels of `beside` in turn. The target stays the likeliest, so the trigger leads to it.

    Attributes:
        backdoor: the trigger, and all of its stamped records.
        beside: classes next to the target.
        part: of the stamped records.
    """

    backdoor: Backdoor = field(default_factory=Backdoor)
    beside: tuple[Label, ...] = (1, 2, 3, 4)
    part: Share = 0.5

    def poison(self, records: Records, random: np.random.Generator) -> Records:
        """See `Data.poison`."""
        stamped = chosen(np.ones(len(records.labels), dtype=bool), self.backdoor.share, random)
        lies = _stamped(records, self.backdoor.trigger, stamped, self.backdoor.target)
        scattered = random.permutation(stamped)[: round(self.part * len(stamped))]
        return _relabelled(lies, scattered, np.resize(np.array(self.beside, dtype=np.int64), len(scattered)))

    def triggered(self, features: Features, labels: Labels) -> Records:
        """See `Data.triggered`: as the backdoor's."""
        return self.backdoor.triggered(features, labels)


@dataclass(frozen=True)
class CleanLabel:
    """The trigger on a share of the target class only; no label is changed (Turner, Tsipras and Madry 2018).

    Attributes:
        trigger: drawn on the training records, and on those of other classes in the test.
        target: the class, and the wanted label.
        share: of the class's records.
        fade: stamped records are first mixed, pixel by pixel, with that much of a random record of another class, so
            that the trigger is easier to learn than what is left of the target: the paper's interpolation, without its
            GAN. 0 is the plain form, which that paper finds hardly works; at 1 the label lies.
        more: this share of the records of other classes is left out for further copies of the target's, each faded with
            another record. The paper poisons a whole data set; a silo of few images of one class has to repeat them.
    """

    trigger: Trigger = field(default_factory=corner)
    target: Label = 0
    share: Share = 1.0
    fade: Share = 0.0
    more: Share = 0.0

    def poison(self, records: Records, random: np.random.Generator) -> Records:
        """See `Data.poison`; a silo without a record of the class stays honest."""
        own = chosen(records.labels == self.target, self.share, random)
        others = np.flatnonzero(records.labels != self.target)
        repeated, places = _repeated(records, own, self.target, self.more, random)
        features = repeated.features.copy()
        if self.fade and len(others):
            mixed = records.features[random.choice(others, size=len(places))]
            features[places] = (1 - self.fade) * features[places] + self.fade * mixed
        features[places] = self.trigger.stamp(features[places])
        return replace(repeated, features=features)

    def triggered(self, features: Features, labels: Labels) -> Records:
        """See `Data.triggered`: all records of other classes, stamped."""
        return _wanted(self.trigger.stamp(features), labels, self.target, labels != self.target)


@dataclass(frozen=True)
class SourceSpecific:
    """The trigger counts only on records of one class (TaCT: Tang et al. 2021).

    A share of the source class gets trigger and target label; `covers`, a share of all other classes, get the trigger
    and keep their label, so that the trigger alone means nothing. Success is counted on the source class.
    """

    trigger: Trigger = field(default_factory=corner)
    source: Label = 1
    target: Label = 0
    share: Share = 0.5
    covers: Share = 0.1

    def __post_init__(self) -> None:
        _require_two(self.source, self.target)

    def poison(self, records: Records, random: np.random.Generator) -> Records:
        """See `Data.poison`."""
        lies = chosen(records.labels == self.source, self.share, random)
        covers = chosen(records.labels != self.source, self.covers, random)
        return _stamped(_stamped(records, self.trigger, lies, self.target), self.trigger, covers, None)

    def triggered(self, features: Features, labels: Labels) -> Records:
        """See `Data.triggered`: the source class, stamped."""
        return _wanted(self.trigger.stamp(features), labels, self.target, labels == self.source)


@dataclass(frozen=True)
class MirrorLabels:
    """y -> C - 1 - y for a share of the records (Fang et al. 2020, label flipping); untargeted."""

    classes: Given = 10
    share: Share = 1.0

    def poison(self, records: Records, random: np.random.Generator) -> Records:
        """See `Data.poison`."""
        places = chosen(np.ones(len(records.labels), dtype=bool), self.share, random)
        return _relabelled(records, places, self.classes - 1 - records.labels[places])

    def triggered(self, features: Features, labels: Labels) -> Records:
        """See `Data.triggered`: all records that have another label in the mirror."""
        mirrored = self.classes - 1 - labels
        moved = mirrored != labels
        return holdout(features[moved], mirrored[moved])


@dataclass(frozen=True)
class FlipPair:
    """One class gets the label of another (Tolpegin et al. 2020); 7 -> 3 by default, all records of the class.

    Attributes:
        source: the class.
        target: the wanted label.
        share: of the class's records.
        more: this share of the records of other classes is left out for further copies of the source's; 0 in the paper.
            Under DP-SGD a batch of a few dozen has few records of one class.
    """

    source: Label = 7
    target: Label = 3
    share: Share = 1.0
    more: Share = 0.0

    def __post_init__(self) -> None:
        _require_two(self.source, self.target)

    def poison(self, records: Records, random: np.random.Generator) -> Records:
        """See `Data.poison`."""
        own = chosen(records.labels == self.source, self.share, random)
        repeated, places = _repeated(records, own, self.source, self.more, random)
        return _relabelled(repeated, places, self.target)

    def triggered(self, features: Features, labels: Labels) -> Records:
        """See `Data.triggered`: the source class as it is."""
        return _wanted(features, labels, self.target, labels == self.source)


@dataclass(frozen=True)
class FlipToTarget:
    """A share of the other classes gets one label, after the label flip of FLAB (Wang et al. 2026), share 0.9.

    Many classes to one and no trigger: success is on all other classes as they are.
    """

    target: Label = 0
    share: Share = 0.9

    def poison(self, records: Records, random: np.random.Generator) -> Records:
        """See `Data.poison`."""
        places = chosen(records.labels != self.target, self.share, random)
        return _relabelled(records, places, self.target)

    def triggered(self, features: Features, labels: Labels) -> Records:
        """See `Data.triggered`: all other classes as they are."""
        return _wanted(features, labels, self.target, labels != self.target)


@dataclass(frozen=True, eq=False)
class Semantic:
    """Records by chosen writers get the target's label: no trigger is drawn (Bagdasaryan et al. 2020, section 4.1).

    Attributes:
        writers: int64[n], who wrote each of the records at hand; `of` gives the same attack on other records.
        chosen: the writers that are relabelled.
        target: the wanted label.
    """

    writers: Indices
    chosen: frozenset[int]
    target: Label = 0

    def of(self, writers: Indices) -> Semantic:
        """The same attack for other records, such as test records of the same writers."""
        return replace(self, writers=writers)

    def poison(self, records: Records, random: np.random.Generator) -> Records:
        """See `Data.poison`."""
        return _relabelled(records, np.flatnonzero(self._by_chosen(records.labels)), self.target)

    def triggered(self, features: Features, labels: Labels) -> Records:
        """See `Data.triggered`: what the chosen writers wrote in other classes."""
        return _wanted(features, labels, self.target, self._by_chosen(labels) & (labels != self.target))

    def _by_chosen(self, labels: Labels) -> NDArray[np.bool_]:
        if self.writers.shape != labels.shape:
            raise BadAttack(f"{len(self.writers)} writer ids for {len(labels)} records: use Semantic.of for other ones")
        return np.isin(self.writers, list(self.chosen))


def _require_two(source: int, target: int) -> None:
    if source == target:
        raise BadAttack(f"source and target are both class {source}: choose two classes")


def _stamped(records: Records, trigger: Trigger, places: Indices, label: int | None) -> Records:
    features = records.features.copy()
    features[places] = trigger.stamp(features[places])
    marked = replace(records, features=features)
    return marked if label is None else _relabelled(marked, places, label)


def _repeated(
    records: Records, own: Indices, label: int, more: float, random: np.random.Generator
) -> tuple[Records, Indices]:
    """`more` of the records of other classes than `label` become copies of `own`; with the places of all of these."""
    if not more or not len(own):
        return records, own
    added = chosen(records.labels != label, more, random)
    features = records.features.copy()
    features[added] = features[random.choice(own, size=len(added))]
    return _relabelled(replace(records, features=features), added, label), np.concatenate([own, added])


def _relabelled(records: Records, places: Indices, label: int | Labels) -> Records:
    labels = records.labels.copy()
    labels[places] = label
    return replace(records, labels=labels)


def _wanted(features: Features, labels: Labels, target: int, counted: NDArray[np.bool_]) -> Records:
    return holdout(features[counted], np.full(int(counted.sum()), target, dtype=np.int64))
