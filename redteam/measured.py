"""What came of a run: a row of plain numbers, and the metrics that tables are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from redteam.attacks.parts import Labels


@dataclass(frozen=True)
class SiloRow:
    """One silo's part.

    Attributes:
        count: its noised record count.
        weights: in units of the total weight, one for each round; 0 where it had none.
        excluded, suspected: rounds with that verdict, from 1.
        convicted: the round that convicted it, or None.
        effective: mean of `weights`.
        accuracy: of the final model on its hold-out.
        records: its true number of training records.
        skew: total variation distance of its classes from those of all silos' records together; see `skews`.
    """

    name: str
    attacks: bool
    count: int
    weights: tuple[float, ...]
    excluded: tuple[int, ...]
    suspected: tuple[int, ...]
    convicted: int | None
    effective: float
    accuracy: float
    records: int = 0
    skew: float = 0.0


@dataclass(frozen=True)
class Row:
    """What a scenario came to. Shares are within 0 and 1; success is None for an untargeted attack or none.

    Attributes:
        accuracy, success: of the final model on test records; success leaves out records of the target class.
        accuracies, successes: after each round.
        silos: sorted by name.
        rounds, void: closed rounds, which are fewer than planned where too few silos remained, and those of them that
            left the old model.
        seconds: of the whole run, on whatever machine it ran.
        carried: bytes between silos and coordinator.
        released: after which round the newest model stood that may be released; 0 without any, None without searches.
    """

    scenario: dict[str, Any]
    accuracy: float
    success: float | None
    accuracies: tuple[float, ...]
    successes: tuple[float, ...]
    silos: tuple[SiloRow, ...]
    rounds: int
    void: int
    seconds: float
    carried: int
    released: int | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """Single numbers for tables; those that make no sense for this run are absent."""
        honest = [one for one in self.silos if not one.attacks]
        bad = [one for one in self.silos if one.attacks]
        local = np.array([one.accuracy for one in honest])
        found = {
            "accuracy": self.accuracy,
            "worst_silo": float(local.min()),
            "gap": float(local.max() - local.min()),
            "variance": float(local.var()),
            "void": self.void / max(1, self.rounds),
            "finished": self.rounds / self.scenario["training"]["rounds"],
            "honest_excluded": mean_of(len(one.excluded) for one in honest) / max(1, self.rounds),
            "honest_suspected": mean_of(len(one.suspected) for one in honest) / max(1, self.rounds),
            "honest_convicted": mean_of(one.convicted is not None for one in honest),
            "seconds_a_round": self.seconds / max(1, self.rounds),
            "bytes_a_round": self.carried / max(1, self.rounds),
        }
        for kind, one in standing_out(honest).items():
            found[f"convicted_{kind}"] = float(one.convicted is not None)
            found[f"excluded_{kind}"] = len(one.excluded) / max(1, self.rounds)
            found[f"suspected_{kind}"] = len(one.suspected) / max(1, self.rounds)
        if bad:
            found["attackers_weight"] = sum(one.effective for one in bad)
            found["attackers_excluded"] = mean_of(len(one.excluded) for one in bad) / max(1, self.rounds)
            found["attackers_convicted"] = mean_of(one.convicted is not None for one in bad)
        rounds = sorted(one.convicted for one in bad if one.convicted is not None)
        if rounds:
            found["first_conviction"] = rounds[0]
        if self.success is not None:
            found |= {
                "success": self.success,
                "success_max": max(self.successes),
                "success_mean": _late(self.successes),
            }
        return found | self._released()

    def _released(self) -> dict[str, float]:
        """Of the model that silos would export, which need not be the final one."""
        if self.released is None:
            return {}
        found = {"released": float(self.released > 0)}
        if self.released:
            found["released_round"] = self.released
            found["released_accuracy"] = self.accuracies[self.released - 1]
        if self.released and self.successes:
            found["released_success"] = self.successes[self.released - 1]
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the metrics."""
        return {**dataclasses.asdict(self), "metrics": self.metrics}


def standing_out(silos: Sequence[SiloRow]) -> dict[str, SiloRow]:
    """The silos that a defence may be hard on; `worst` has the lowest accuracy. Of equals the first."""
    return {
        "largest": max(silos, key=lambda one: one.records),
        "smallest": min(silos, key=lambda one: one.records),
        "most_skewed": max(silos, key=lambda one: one.skew),
        "worst": min(silos, key=lambda one: one.accuracy),
    }


def skews(labels: Mapping[str, Labels], classes: int) -> dict[str, float]:
    """By silo, half the L1 distance of its class shares from the pool's: 0 for the pool's own mix, below 1.

    Args:
        labels: int64[n] by silo; all of them are the pool.
    """
    counts = {name: np.bincount(own, minlength=classes) for name, own in labels.items()}
    pool = np.sum(list(counts.values()), axis=0)
    shares = {name: own / own.sum() - pool / pool.sum() for name, own in counts.items()}
    return {name: float(np.abs(difference).sum() / 2) for name, difference in shares.items()}


def mean_of(values: Iterable[float]) -> float:
    """The mean, 0 for nothing."""
    numbers = [float(value) for value in values]
    return sum(numbers) / len(numbers) if numbers else 0.0


def _late(values: tuple[float, ...]) -> float:
    """Mean over the second half of the rounds, when the model works; a paper's mean may be over other rounds."""
    return mean_of(values[len(values) // 2 :])
