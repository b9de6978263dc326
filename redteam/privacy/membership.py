"""Membership inference: LiRA (Carlini et al. 2022, "Membership inference attacks from first principles"), online.

Every model is trained by production on a random half of a pool of records. For each record the log-odds of its label,
`log(p / (1 - p))`, are near normal over models; models that had the record and models that had not give two normals,
and the attack's score is the log of their likelihood ratio (Algorithm 1). With few shadow models the variances are
pooled over records (section VI-C). Each model is attacked in turn, the others are its shadows, so that no model is
both: the attacker is as strong as one who knows the pool and trains as the silo does.

Decided at a likelihood ratio of 1, a threshold that no measurement chose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protos.task import Task
from redteam.attacks.parts import Features, Floats, Labels
from redteam.privacy.bounds import Guesses, clopper_pearson
from redteam.privacy.settings import learned
from silo.entropy import Entropy


@dataclass(frozen=True)
class Shadows:
    """Log-odds float64[models, n] of n records under models, and which model had which record, bool[models, n]."""

    scores: Floats
    inside: NDArray[np.bool_]


@dataclass(frozen=True)
class Found:
    """Likelihood ratios of all attacked models, in logs, and the truth: float64[k] and bool[k]."""

    ratios: Floats
    members: NDArray[np.bool_]

    @property
    def guesses(self) -> Guesses:
        """Decisions at the ratio 1."""
        said = self.ratios > 0
        return Guesses(
            int((said & self.members).sum()),
            int(self.members.sum()),
            int((said & ~self.members).sum()),
            int((~self.members).sum()),
        )

    def true_positive_rate(self, false_positive_rate: float, miss: float = 0.05) -> tuple[float, float, float]:
        """The true positive rate at that false positive rate or just below it, and its exact interval."""
        others = np.sort(self.ratios[~self.members])[::-1]
        threshold = others[int(false_positive_rate * len(others))]
        hits, trials = int((self.ratios[self.members] > threshold).sum()), int(self.members.sum())
        return hits / trials, *clopper_pearson(hits, trials, miss)


def infer(
    task: Task,
    model: NDArray[np.float32],
    pool: tuple[Features, Labels],
    models: int,
    random: np.random.Generator,
    entropy: Entropy,
) -> Found:
    """Train `models` models on random halves of the pool and attack each with the others as shadows."""
    shadows = train(task, model, pool, models, random, entropy)
    ratios = [likelihood_ratios(_without(shadows, one), shadows.scores[one]) for one in range(models)]
    return Found(np.concatenate(ratios), shadows.inside.ravel())


def train(
    task: Task,
    model: NDArray[np.float32],
    pool: tuple[Features, Labels],
    models: int,
    random: np.random.Generator,
    entropy: Entropy,
) -> Shadows:
    """Models on random halves; each record is in half of them, as in the paper, so that no normal lacks samples."""
    features, labels = pool
    ranks = np.argsort(random.random((models, len(labels))), axis=0)
    inside = ranks < models // 2
    trained = [learned(task, model, features[own], labels[own], entropy) for own in inside]
    return Shadows(np.stack([log_odds(task, one, features, labels) for one in trained]), inside)


def log_odds(task: Task, model: NDArray[np.float32], features: Features, labels: Labels) -> Floats:
    """`log(p / (1 - p))` of each record's label, float64[n]; from the scores, so that nothing is rounded to 1."""
    import torch

    from redteam.attacks.learner import Learner

    learner = Learner(task.model)
    learner.load(model)
    with torch.no_grad():
        scores: Floats = learner.forward(torch.from_numpy(features))[1].double().numpy()
    right = scores[np.arange(len(labels)), labels]
    scores[np.arange(len(labels)), labels] = -np.inf
    top = scores.max(axis=1)
    others: Floats = top + np.log(np.exp(scores - top[:, None]).sum(axis=1))
    return right - others


def likelihood_ratios(shadows: Shadows, scores: Floats) -> Floats:
    """log N(score; in) - log N(score; out) of each record, variances pooled over records; float64[n]."""
    inside, outside = shadows.inside, ~shadows.inside
    means, spreads = zip(*(_pooled(shadows.scores, which) for which in (inside, outside)), strict=True)
    logs = [
        -((scores - mean) ** 2) / (2 * spread**2) - np.log(spread) for mean, spread in zip(means, spreads, strict=True)
    ]
    return np.asarray(logs[0] - logs[1], dtype=np.float64)


def _pooled(scores: Floats, which: NDArray[np.bool_]) -> tuple[Floats, float]:
    """Mean per record over the models of `which`, and the deviation around it over all records."""
    counts = which.sum(axis=0)
    means = np.where(which, scores, 0.0).sum(axis=0) / np.maximum(counts, 1)
    squares = np.where(which, np.square(scores - means), 0.0).sum()
    return means, float(np.sqrt(squares / max(1, int((counts - 1).clip(0).sum())))) or 1e-12


def _without(shadows: Shadows, one: int) -> Shadows:
    return Shadows(np.delete(shadows.scores, one, axis=0), np.delete(shadows.inside, one, axis=0))
