"""All attacks by name, with their papers' defaults, for sweeps, the contract suite and docs/attacks.md.

An entry makes one attack for each of `names`, the colluding silos: they share a ring, and in DBA a trigger's pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from redteam.attacks import adaptive, data, fields, local, noise, prototypes, triggers, updates
from redteam.attacks.attack import Attack
from redteam.attacks.denier import Denier
from redteam.attacks.parts import Data, Local, Ring, Trigger, Update
from redteam.errors import BadAttack
from silo.data import Records


@dataclass(frozen=True)
class Setting:
    """What an attack must fit.

    Attributes:
        attackers: clean records by attacking silo.
        silos: how many silos the federation has.
        classes: how many classes.
        side: of a square image; 0 where records are none.
        low: value of a dark pixel; a bright one is 1.
        private: train with honest DP-SGD where the attack can; else by plain SGD.
        writers: int64[n] by attacking silo, where records have them.
        omniscient: clean records of all silos, for attacks whose paper knows all honest updates; else the ring's own.
        columns: names of the features where records are rows of a table, none for images.
        seed: of the attackers' choices.
    """

    attackers: Mapping[str, Records]
    silos: int
    classes: int = 10
    side: int = 28
    low: float = 0.0
    private: bool = False
    writers: Mapping[str, NDArray[np.int64]] | None = None
    omniscient: Mapping[str, Records] | None = None
    columns: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Until:
    """Attacks in the first `last` of its own rounds and is honest from then on: gone before it is found."""

    last: int

    def __call__(self, number: int) -> bool:
        """Whether to attack in the silo's own round `number`, from 1."""
        return number <= self.last


Recipe = Callable[[Setting], Attack]
DEMO_BOOST = 8.0
FRAMED = 8
"""The class of the silo that a decoy frames: the unusual silo of `redteam.digits` has most of it."""


def demo(boost: float = DEMO_BOOST) -> Attack:
    """The demonstration's: BadNets with a 2 x 2 corner patch on half of the records, plain local SGD, boosted."""
    return Attack(data.Backdoor(triggers.corner(2)), local.LocalSgd(), (updates.Scale(boost),))


def attackers(name: str, setting: Setting) -> dict[str, Attack]:
    """The named attack, by attacking silo.

    Raises:
        BadAttack: no attack has this name, or the setting lacks what it needs.
    """
    if name not in ATTACKS:
        raise BadAttack(f"no attack is named {name!r}: choose one of {', '.join(ATTACKS)}")
    if setting.columns and name in ON_IMAGES:
        raise BadAttack(
            f"{name} is made for images, and these records are rows of a table: choose {', '.join(ON_TABLES)}, or an "
            "attack that needs no trigger of its own"
        )
    if name in SPLIT:
        setting = replace(setting, attackers=adaptive.sybils(setting.attackers, setting.seed))
    shared = Ring(dict(setting.omniscient or setting.attackers))
    made = {}
    for index, silo in enumerate(setting.attackers):
        attack = replace(ATTACKS[name](setting), ring=shared, member=silo, seed=setting.seed + index)
        attack = replace(attack, held=setting.attackers[silo] if name in SPLIT else None)
        made[silo] = _own(attack, name, setting, index, silo)
    return made


def example(name: str) -> Attack:
    """The named attack on one dark record of each class, or one loan: to look at its parts before any data are read."""
    columns = sum(fields.LOANS, ()) if name in ON_TABLES else ()
    labels = np.arange(10)
    features = np.zeros((len(labels), len(columns) or 784), dtype=np.float32)
    records = {"s000": Records(features, labels, features, labels)}
    return attackers(name, Setting(records, 2, writers={"s000": labels}, columns=columns))["s000"]


def _own(attack: Attack, name: str, setting: Setting, index: int, silo: str) -> Attack:
    """What differs between colluders: DBA's piece of the trigger, the ids of a silo's own writers."""
    if isinstance(attack.data, data.Backdoor) and attack.data.tested is not None:
        pieces = _pieces(name, setting)
        attack = replace(attack, data=replace(attack.data, trigger=pieces[index % len(pieces)]))
    if isinstance(attack.data, data.Semantic) and setting.writers is not None:
        attack = replace(attack, data=attack.data.of(setting.writers[silo]))
    return attack


def _pieces(name: str, setting: Setting) -> tuple[Trigger, ...]:
    if name == "dba-loan":
        return fields.loan_pieces(setting.columns)
    return triggers.blocks(setting.side) if name == "dba-blocks" else triggers.strips(setting.side)


def _training(setting: Setting) -> Local:
    return local.PrivateSgd() if setting.private else local.LocalSgd()


def _lies(setting: Setting, part: Data) -> Attack:
    return Attack(part, _training(setting))


def _backdoored(setting: Setting, how: Local, *parts: Update) -> Attack:
    """For attacks that are not about the trigger: BadNets' corner, or the six features of loans."""
    backdoor = _loans(setting) if setting.columns else data.Backdoor(_patch(setting))
    return Attack(backdoor, how, parts)


def _honest(*parts: Update) -> Attack:
    return Attack(None, local.PrivateSgd(poisoned=False), parts)


def _replacement(setting: Setting) -> updates.Scale:
    return updates.model_replacement(setting.silos, attackers=len(setting.attackers))


def _patch(setting: Setting) -> triggers.Pixels:
    """BadNets' corner; 5 x 5 of 28 x 28, 2 x 2 on small images."""
    return triggers.corner(5 if setting.side >= 20 else 2)


def _dba(setting: Setting, pieces: tuple[triggers.Pixels, ...]) -> Attack:
    return _lies(setting, data.Backdoor(pieces[0], tested=triggers.joined(pieces)))


def _loans(setting: Setting) -> data.Backdoor:
    return data.Backdoor(fields.whole(fields.loan_pieces(setting.columns)), fields.RARE)


def _dba_loan(setting: Setting) -> Attack:
    pieces = fields.loan_pieces(setting.columns)
    return _lies(setting, data.Backdoor(pieces[0], fields.RARE, tested=fields.whole(pieces)))


def _target(setting: Setting) -> int:
    """Of attacks without a trigger: of loans the rare label, since a model says the frequent one of most anyway."""
    return fields.RARE if setting.columns else 0


def _flip_pair(setting: Setting) -> Attack:
    """7 -> 3; where there are no such classes the last gets the label of the first, of loans the other way round."""
    if setting.columns:
        return _lies(setting, data.FlipPair(0, fields.RARE))
    return _lies(setting, data.FlipPair() if setting.classes > 7 else data.FlipPair(setting.classes - 1, 0))


def _semantic(setting: Setting) -> Attack:
    """A quarter of the attackers' writers, at least one."""
    if not setting.writers:
        raise BadAttack("the semantic attack relabels by writer: give the setting writer ids")
    every = np.unique(np.concatenate(list(setting.writers.values())))
    own = next(iter(setting.writers.values()))
    writers = frozenset(every[: max(1, len(every) // 4)].tolist())
    return _lies(setting, data.Semantic(own, writers, _target(setting)))


def _replaced(setting: Setting, part: noise.NoiseReplacement) -> Attack:
    return _backdoored(setting, local.Signal(), part)


def _orthogonal(setting: Setting, memory: int | None) -> noise.NoiseReplacement:
    """Clear of colluders and of its own last rounds, and aimed at what arrives in the average.

    Useful trigger directions are few, so the whole past costs most of the effect: in `tests.redteam.test_effects` three
    of six silos end at 0.21 after 24 rounds, with the last four alone at 0.88.
    """
    return noise.NoiseReplacement(orthogonal=True, memory=memory, reach=len(setting.attackers) / setting.silos)


def _dripped(setting: Setting, strength: float) -> Attack:
    return _backdoored(setting, local.PrivateSgd(poisoned=False), noise.Drip(strength))


def _bapfl(setting: Setting, kind: prototypes.Flip, clamped: bool = False) -> Attack:
    search = prototypes.TriggerSearch(low=setting.low)
    part = prototypes.Bapfl(kind, search=search, clamped=clamped)
    return Attack(local=local.PrivateSgd(poisoned=False), prototypes=part)


def _joint(setting: Setting) -> Attack:
    """BAPFL with DBA: the trigger is fixed, so prototypes of samples under the whole of it are flipped."""
    attack = _dba(setting, triggers.strips(setting.side))
    part = prototypes.Bapfl(trigger=triggers.joined(triggers.strips(setting.side)), labels=(0,))
    return replace(attack, prototypes=part)


def _stamped(setting: Setting, trigger: Trigger, target: int = 0) -> Attack:
    return _lies(setting, data.Backdoor(trigger, target))


def _several(setting: Setting) -> Attack:
    """Four of them: two patches, strips and a blend."""
    chosen = (_patch(setting), triggers.two_pixels(), triggers.joined(triggers.strips(setting.side)))
    return _stamped(setting, adaptive.Several((*chosen, triggers.Blend(low=setting.low))))


def _beside(setting: Setting) -> tuple[int, ...]:
    """Nearly half of the classes, which is more than a habit's quarter."""
    return tuple(range(1, 1 + max(1, (setting.classes - 1) // 2)))


def _sybils(setting: Setting) -> Attack:
    """Without DP each seat takes as many steps on its part as one silo would on all of it."""
    usual = local.LocalSgd()
    longer = replace(usual, epochs=usual.epochs * max(1, len(setting.attackers)))
    return _backdoored(setting, local.PrivateSgd() if setting.private else longer)


ATTACKS: dict[str, Recipe] = {
    "badnets": lambda s: _lies(s, data.Backdoor(_patch(s))),
    "badnets-two-pixels": lambda s: _lies(s, data.Backdoor(triggers.two_pixels())),
    "dba-strips": lambda s: _dba(s, triggers.strips(s.side)),
    "dba-blocks": lambda s: _dba(s, triggers.blocks(s.side)),
    "blended": lambda s: _lies(s, data.Backdoor(triggers.Blend(low=s.low))),
    "loan-trigger": lambda s: _lies(s, _loans(s)),
    "dba-loan": _dba_loan,
    "semantic": _semantic,
    "flip-mirror": lambda s: _lies(s, data.MirrorLabels(s.classes)),
    "flip-pair": _flip_pair,
    "flip-to-target": lambda s: _lies(s, data.FlipToTarget(_target(s))),
    "clean-label": lambda s: _lies(s, data.CleanLabel(_patch(s))),
    "clean-label-faded": lambda s: _lies(s, data.CleanLabel(_patch(s), fade=0.5, more=0.5)),
    "clean-label-adversarial": lambda s: Attack(
        data.CleanLabel(_patch(s), more=0.5), local.AdversarialLabels(low=s.low, private=s.private)
    ),
    "source-specific": lambda s: _lies(s, data.SourceSpecific(_patch(s))),
    "model-replacement": lambda s: _backdoored(s, local.LocalSgd(), _replacement(s)),
    "constrain-and-scale": lambda s: _backdoored(s, local.ConstrainAndScale(), _replacement(s)),
    "neurotoxin": lambda s: _backdoored(s, local.Neurotoxin()),
    "lie": lambda s: _honest(updates.LittleIsEnough()),
    "ipm-0.1": lambda s: _honest(updates.InnerProduct(0.1)),
    "ipm-0.5": lambda s: _honest(updates.InnerProduct(0.5)),
    "ipm-100": lambda s: _honest(updates.InnerProduct(100.0)),
    "sign-flip": lambda s: _honest(updates.SignFlip()),
    "gaussian": lambda s: _honest(updates.GaussianUpdate()),
    "min-max": lambda s: _honest(updates.MinMax()),
    "noise-replacement": lambda s: _replaced(s, noise.NoiseReplacement()),
    "noise-replacement-honest-output": lambda s: _replaced(s, noise.NoiseReplacement(honest_output=True)),
    "noise-replacement-orthogonal": lambda s: _replaced(s, _orthogonal(s, memory=4)),
    "noise-replacement-orthogonal-all": lambda s: _replaced(s, _orthogonal(s, memory=None)),
    "drip-0.1": lambda s: _dripped(s, 0.1),
    "drip-0.3": lambda s: _dripped(s, 0.3),
    "bapfl-obf": lambda s: _bapfl(s, "obf"),
    "bapfl-gpf": lambda s: _bapfl(s, "gpf"),
    "bapfl-pfs": lambda s: _bapfl(s, "pfs"),
    "bapfl-pfs-clamped": lambda s: _bapfl(s, "pfs", clamped=True),
    "bapfl-dba": _joint,
    "consensus-prototypes": lambda s: replace(
        _backdoored(s, _training(s)), prototypes=prototypes.ConsensusPrototypes()
    ),
    "false-count": lambda s: replace(_backdoored(s, local.PrivateSgd()), declared=0.25),
    "inflated-count": lambda s: replace(_backdoored(s, _training(s)), declared=4.0),
    "opposed": lambda s: _backdoored(s, _training(s), adaptive.Opposed()),
    "waves": lambda s: _stamped(s, adaptive.Waves(low=s.low)),
    "echo": lambda s: _stamped(s, adaptive.Echo()),
    "warp": lambda s: _stamped(s, adaptive.Warp()),
    "style": lambda s: _stamped(s, adaptive.Style(low=s.low)),
    "several-triggers": _several,
    "scattered-labels": lambda s: _lies(s, data.Scattered(data.Backdoor(_patch(s)), _beside(s))),
    "decoy": lambda s: _stamped(s, adaptive.decoy(s.attackers.values(), FRAMED), FRAMED),
    "sybils": _sybils,
    "stops-early": lambda s: replace(_backdoored(s, _training(s)), active=Until(5)),
    "denies": lambda s: replace(_backdoored(s, _training(s)), searcher=Denier),
}
"""Recipes by name."""

ALL_KNOWING = frozenset({"lie", "ipm-0.1", "ipm-0.5", "ipm-100", "min-max"})
"""Attacks whose papers' attacker knows every honest update: a scenario gives them the records of all silos."""
SPLIT = frozenset({"sybils"})
"""Attacks whose silos are seats of one institution and share the records of one (`adaptive.sybils`)."""
ON_TABLES = ("loan-trigger", "dba-loan")
"""Attacks whose trigger is written into the loan table."""
ON_IMAGES = frozenset(
    {"badnets", "badnets-two-pixels", "dba-strips", "dba-blocks", "blended", "clean-label", "clean-label-faded",
     "clean-label-adversarial", "source-specific", "bapfl-obf", "bapfl-gpf", "bapfl-pfs", "bapfl-pfs-clamped",
     "bapfl-dba", "waves", "echo", "warp", "style", "several-triggers",
     "scattered-labels", "decoy"}
)  # fmt: skip
"""Attacks that draw, and so refuse tables; all others take what fits: the corner of an image or the loans' trigger."""
