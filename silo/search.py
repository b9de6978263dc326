"""Search of a model for triggers and flipped labels, and the directions in which a silo would teach them. In torch.

*Triggers.* For every class at once, mask and pattern are optimised on public records of all other classes: the least
`cross-entropy(T(x), c) + λ_c * |m|_1` (Wang et al. 2019, Neural Cleanse, equations 2 and 3), by Adam, each λ_c growing
while the goal is met and falling while it is not, as in that paper. A class's *cost* is the least mask, in inputs, that
moves the goal's share. A backdoor is a class that is much cheaper than the others: its cost is compared with the median
of theirs. Neural Cleanse's own measure, deviations of the MAD, has ten values to estimate a spread from, and is weak.
The same is done with one mask value for all inputs: a pattern blended into the whole input is faint but not small.
All this on the model as it is after what it leans to by the silos' classes is taken off its scores (`silo.leaning`).

*Flips.* The share of a class's records that the model gives to another, unchanged, is compared with what is usual: the
largest such share of the median class. Clean models that have not learned much have flips of their own; to unlearn
those does no harm.

What is found this way is *suspicious*. Clean models give a find now and then, which costs honest silos an inoculation
and a re-check; nobody is convicted without `defenses.attribution`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from protos.search import Trigger
from protos.task import MICRO, ModelSpec
from silo import models
from silo.errors import SiloError
from silo.leaning import leaning
from silo.searcher import Root
from silo.spans import beside, joined, opposed, unit

STEPS, STEPS_UNIFORM = 120, 60
"""Adam steps; at 60 the cheapest masks of weak backdoors are not reached (on digits). One value is soon found."""
RATE = 0.2
PER_CLASS = 10
"""Records of each class that masks are optimised on; success is counted on all. 20 give the same ratios within 0.1."""
GOAL, WHOLE = 0.75, 0.9
"""Share of the records that a trigger must move to be looked at, and that a reported one moves where that takes no more
than WIDER times the mask. Weak backdoors never move the latter. Of strong ones the least mask for the former leaves
pixels out, which stay taught: on MNIST a 5x5 patch is found with a cosine of 0.8 at 0.75, of 0.91 to 0.98 at 0.9."""
WIDER = 2.0
CHEAP, AGAIN = 0.7, 0.85
"""A trigger is found where its cost is at most this part of the other classes' median. Clean models of MNIST lie at
0.5 to 0.9, planted triggers mostly at 0.1 to 0.6 (docs/defenses.md). Of a class with a standing trigger
(`audit.searches`) the latter is enough: what is left of a half unlearnt one lies higher."""
FLIPPED, UNUSUAL = 0.3, 2.0
"""A flip is found where the share is at least FLIPPED, and UNUSUAL times what is usual. At 0.5 and 4.0 the attack
7 -> 3 on MNIST is hardly ever found."""
SENSE = 0.2
"""A model that is right on no more than this above chance cannot be searched: everything moves it. Nor does what it
confuses say anything where that is so of the model as it is."""
MOST = 3
"""Triggers that one search returns at most, and as many flips."""
CHUNK = 32
"""Records whose single gradients are in memory at once."""
MOST_SCORE = 1e30
"""In place of what overflows in a bent model."""
KEPT_BYTES = 1 << 28
"""Clean gradients of so many models are kept in memory: each trigger asks for those of all past ones."""
_FULL = 255


@dataclass(frozen=True)
class Candidates:
    """For each of C classes the cheapest trigger: cost float64[C] in inputs (all inputs where the goal was not met),
    mask and pattern float32[C, inputs], the mask in [0, 1], the pattern in the range of the root's features."""

    cost: NDArray[np.float64]
    mask: NDArray[np.float32]
    pattern: NDArray[np.float32]

    def ratios(self) -> NDArray[np.float64]:
        """Each class's cost by the median cost of the others, float64[C]."""
        others = [float(np.median(np.delete(self.cost, one))) for one in range(len(self.cost))]
        return self.cost / np.maximum(others, 1e-9)


def searcher(spec: ModelSpec, blur: NDArray[np.float64] | None = None) -> TorchSearcher:
    """The searcher of models of `spec`, `linear` included; `blur` as `crypto.sketch` says, None for none."""
    return TorchSearcher(models.module_for(spec), blur)


class TorchSearcher:
    """The `silo.searcher.Searcher` of a torch module. Draws nothing at random."""

    def __init__(self, module: nn.Module, blur: NDArray[np.float64] | None = None) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # Convolutions take less than half the time so; plain tensors are as they were.
        self._module = module.to(self._device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._classes = models.output_layer(module).out_features
        self._size = sum(parameter.numel() for parameter in module.parameters())
        self._blur = np.ones(self._size) if blur is None else blur
        self._cleans: dict[bytes, _Clean] = {}

    def search(
        self, model: NDArray[np.float32], root: Root, suspected: frozenset[int] = frozenset()
    ) -> tuple[Trigger, ...] | None:
        """See `Searcher.search`: triggers by how cheap they are, then flips by how frequent."""
        self._load(model, root)
        flips = self._flips(root) if self._sees(root) else ()
        self._straighten(root)
        return self._triggers(root, suspected) + flips if self._sees(root) else None

    def success(self, model: NDArray[np.float32], root: Root, trigger: Trigger) -> int:
        """See `Searcher.success`; 0 where the root has no such record."""
        self._load(model, root)
        self._require(trigger, root)
        moved = trigger.moves(root.labels)
        if not moved.any():
            return 0
        given = self._predict(trigger.stamp(root.features[moved]))
        return int((given == trigger.target).sum()) * MICRO // len(given)

    def directions(
        self, model: NDArray[np.float32], root: Root, trigger: Trigger, even_blind: bool = False
    ) -> NDArray[np.float64]:
        """See `Searcher.directions`; a row of which nothing is left is zero.

        *Beside* is meant as sketches show it, where the body's coordinates are noisier than the output layer's: what is
        taken off a gradient is the mix of others that fits it best with each coordinate over its blur, as in
        generalised least squares (Aitken 1935), so that none of them pushes along a row in what is shown (ADR 32).

        Clean class gradients are taken twice: means, and means of gradients of equal length, since clipping shortens
        long ones; what an honest silo sends lies between. (Without the latter, the owner of a rare class was taken for
        the teacher of its triggers; measured on digits.) Row c stands beside the same of *stamped* records of class c
        too: who owns a class and inoculates sends them. Controls lose what they share with teaching the *target* from
        each class: it takes stamped records off theirs, as teaching any other does, and is nobody's habit (ADR 28).

        For a flip, row c is the flip of class c to the same target, which nobody was found to teach; the row of its
        source is zero. A row stands beside the clean gradients of all classes but its own source, which are what
        unlearns it, and beside the gradient that moves *all other* classes to the target, as the target's owner does.
        """
        self._load(model, root)
        self._require(trigger, root)
        if not even_blind and not self._sees(root):
            return np.zeros((self._classes, self._size))
        clean = self._clean(model, root)
        if trigger.flip:
            return self._shown([self._flipping(clean, root, trigger, one) for one in range(self._classes)])
        stamped, classes, target = trigger.stamp(root.features), range(self._classes), trigger.target
        about = np.ones(len(root.labels), dtype=bool) if trigger.source is None else root.labels == trigger.source
        rows = [-self._gradient(stamped[about & (root.labels != one)], one) for one in classes]
        own = [self._mean_gradients(stamped[root.labels == one], one) for one in classes]
        bases = [joined(clean.basis, more) for more in own]
        found = [beside(row, basis) for row, basis in zip(rows, bases, strict=True)]
        taught = [-self._gradient(stamped[about & (root.labels == one)], target) for one in classes if one != target]
        for one in classes:
            if one != target:
                found[one] = opposed(found[one], [beside(part, bases[one]) for part in taught])
        return self._shown(found)

    def candidates(self, model: NDArray[np.float32], root: Root, uniform: bool = False) -> Candidates:
        """The cheapest trigger of every class, found or not: what `search` judges. `uniform` masks have one value."""
        self._load(model, root)
        self._straighten(root)
        return self._optimise(root, GOAL, uniform, range(self._classes))

    def _shown(self, rows: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Rows in the model's own coordinates, of unit length, from such by their blur: whose folds and output layer
        are matched to the rows' own (`defenses.attribution`)."""
        return np.stack([unit(row * self._blur) for row in rows])

    def _flipping(self, clean: _Clean, root: Root, flip: Trigger, row: int) -> NDArray[np.float64]:
        """Row `row` of the directions of a flip, float64[d]."""
        if row == flip.source:
            return np.zeros(self._size)
        source = flip.source or 0 if row == flip.target else row
        about = root.labels == source
        rest = ~about & (root.labels != flip.target)
        basis = joined(clean.beside(source), (self._gradient(root.features[rest], flip.target),))
        return beside(-self._gradient(root.features[about], flip.target), basis)

    def _triggers(self, root: Root, suspected: frozenset[int]) -> tuple[Trigger, ...]:
        """Of each class the cheaper kind, where it is cheap at all."""
        kinds = [self._optimise(root, GOAL, uniform, range(self._classes)) for uniform in (False, True)]
        ratios = np.stack([found.ratios() for found in kinds])
        least = ratios.min(axis=0)
        bars = np.array([AGAIN if one in suspected else CHEAP for one in range(self._classes)])
        order = [int(one) for one in np.argsort(least, kind="stable") if least[one] <= bars[one]][:MOST]
        best = [(bool(ratios[:, one].argmin()), one) for one in order]
        return tuple(self._whole(root, kinds[uniform], uniform, one) for uniform, one in best)

    def _whole(self, root: Root, found: Candidates, uniform: bool, target: int) -> Trigger:
        """The trigger of that class that moves more, or the found one where there is none of about its size."""
        more = self._optimise(root, WHOLE, uniform, [target])
        if more.mask.any() and more.cost[0] <= WIDER * found.cost[target]:
            return _trigger(more.mask[0], more.pattern[0], target, _range(root))
        return _trigger(found.mask[target], found.pattern[target], target, _range(root))

    def _flips(self, root: Root) -> tuple[Trigger, ...]:
        shares = confusion(self._predict(root.features), root.labels, self._classes)
        low, high = _range(root)
        pairs = sorted(unusual(shares), key=lambda pair: -shares[pair])
        return tuple(Trigger(target, source, b"", b"", low, high) for source, target in pairs[:MOST])

    def _optimise(self, root: Root, goal: float, uniform: bool, classes: Sequence[int]) -> Candidates:
        """Neural Cleanse over `classes` at once; keeps the cheapest mask of each class that met the goal."""
        low, high = (value / MICRO for value in _range(root))
        features, wrong, targets = self._sample(root, classes)
        logits, raw = self._start(len(classes), features.shape[1], uniform)
        weight = torch.full((len(classes),), 0.02, device=self._device)
        best = _Best(len(classes), features.shape[1], self._device)
        optimizer = torch.optim.Adam([logits, raw], lr=RATE)
        for _ in range(STEPS_UNIFORM if uniform else STEPS):
            mask, pattern = torch.sigmoid(logits).expand_as(raw), low + (high - low) * torch.sigmoid(2 * raw)
            loss, moved = self._moved(features, wrong, targets, mask, pattern)
            best.keep(moved >= goal, mask.detach(), pattern.detach())
            total = (loss + weight * mask.sum(dim=1)).sum()
            # The model's own parameters need no gradient, which is half of the work.
            logits.grad, raw.grad = torch.autograd.grad(total, [logits, raw])
            optimizer.step()
            weight = torch.where(moved >= goal, weight * 1.1, weight / 1.15).clamp(1e-4, 1.0)
        return best.candidates()

    def _moved(
        self, features: Tensor, wrong: Tensor, targets: Tensor, mask: Tensor, pattern: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Per class the mean cross-entropy of stamped records of others, and the share that is moved; both [C]."""
        classes, (count, inputs) = len(targets), features.shape
        stamped = (1 - mask)[:, None] * features[None] + (mask * pattern)[:, None]
        scores = self._module(stamped.reshape(classes * count, inputs)).reshape(classes, count, -1)
        loss = nn.functional.cross_entropy(scores.flatten(0, 1), targets.reshape(-1), reduction="none")
        moved = (scores.detach().argmax(dim=2) == targets).float()
        return (loss.reshape(classes, count) * wrong).sum(dim=1), (moved * wrong).sum(dim=1)

    def _sample(self, root: Root, classes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Records, the first of each class of the root; float[C, n] weights, equal over the records of other classes
        than each of `classes`; and these as int64[C, n]."""
        chosen = np.sort(np.concatenate([np.flatnonzero(root.labels == c)[:PER_CLASS] for c in range(self._classes)]))
        targets = np.tile(np.array(classes)[:, None], len(chosen))
        wrong = (root.labels[chosen] != targets).astype(np.float32)
        wrong /= np.maximum(wrong.sum(axis=1, keepdims=True), 1)
        return self._tensor(root.features[chosen]), self._tensor(wrong), torch.from_numpy(targets).to(self._device)

    def _start(self, classes: int, inputs: int, uniform: bool) -> tuple[Tensor, Tensor]:
        """Nearly transparent masks, [C, inputs] or uniform [C, 1], and patterns of the middle of the range."""
        logits = torch.full((classes, 1 if uniform else inputs), -3.0, device=self._device, requires_grad=True)
        return logits, torch.zeros((classes, inputs), device=self._device, requires_grad=True)

    def _sees(self, root: Root) -> bool:
        return float((self._predict(root.features) == root.labels).mean()) > 1 / self._classes + SENSE

    def _straighten(self, root: Root) -> None:
        """Bring the loaded model's shares of classes to the root set's, by its output layer's biases."""
        with torch.no_grad():
            scores = self._module(self._tensor(root.features)).double().nan_to_num(0.0, MOST_SCORE, -MOST_SCORE)
            shares = np.bincount(root.labels, minlength=self._classes) / len(root.labels)
            lean = leaning(scores.cpu().numpy(), shares).astype(np.float32)
            models.output_layer(self._module).bias.sub_(self._tensor(lean))

    def _predict(self, features: NDArray[np.float32]) -> NDArray[np.int64]:
        with torch.no_grad():
            given: NDArray[np.int64] = self._module(self._tensor(features)).argmax(dim=1).cpu().numpy()
        return given

    def _clean(self, model: NDArray[np.float32], root: Root) -> _Clean:
        """The clean class gradients of a model; kept for the next trigger."""
        key = hashlib.sha256(model.tobytes() + root.features.tobytes() + root.labels.tobytes()).digest()
        if key not in self._cleans:
            made = _Clean.of([self._mean_gradients(root.features[root.labels == c], c) for c in range(self._classes)])
            while self._cleans and (len(self._cleans) + 1) * made.basis.nbytes > KEPT_BYTES:
                self._cleans.pop(next(iter(self._cleans)))
            self._cleans[key] = made
        return self._cleans[key]

    def _mean_gradients(self, features: NDArray[np.float32], label: int) -> tuple[NDArray[np.float64], ...]:
        """Mean of the records' gradients, and mean of their unit vectors; both float64[d], by their blur."""
        plain, units = np.zeros(self._size), np.zeros(self._size)
        for part in np.array_split(features, -(-len(features) // CHUNK)) if len(features) else ():
            rows = self._gradients(part, label)
            lengths = np.linalg.norm(rows, axis=1)
            plain += rows.sum(axis=0) / len(features)
            units += (rows / np.maximum(lengths, 1e-12)[:, None]).sum(axis=0) / len(features)
        return plain / self._blur, units / self._blur

    def _gradients(self, features: NDArray[np.float32], label: int) -> NDArray[np.float64]:
        """Every record's gradient, float64[n, d]."""
        parameters = {name: value.detach() for name, value in self._module.named_parameters()}

        def loss(values: dict[str, Tensor], row: Tensor) -> Tensor:
            scores = functional_call(self._module, values, (row[None],))
            return nn.functional.cross_entropy(scores, torch.tensor([label], device=self._device))

        made = vmap(grad(loss), in_dims=(None, 0))(parameters, self._tensor(features))
        flat: NDArray[np.float64] = torch.cat([one.flatten(1) for one in made.values()], dim=1).double().cpu().numpy()
        return np.nan_to_num(flat, nan=0.0, posinf=0.0, neginf=0.0)  # overflow in a bent model teaches nothing

    def _gradient(self, features: NDArray[np.float32], label: int) -> NDArray[np.float64]:
        """Gradient of the mean cross-entropy of `features` with one label, float64[d], by its blur; zero if empty."""
        if not len(features):
            return np.zeros(self._size)
        scores = self._module(self._tensor(features))
        labels = torch.full((len(features),), label, device=self._device)
        parts = torch.autograd.grad(nn.functional.cross_entropy(scores, labels), list(self._module.parameters()))
        flat: NDArray[np.float64] = torch.cat([part.reshape(-1) for part in parts]).double().cpu().numpy()
        return np.nan_to_num(flat, nan=0.0, posinf=0.0, neginf=0.0) / self._blur

    def _load(self, model: NDArray[np.float32], root: Root) -> None:
        if not len(root.labels) or not ((root.labels >= 0) & (root.labels < self._classes)).all():
            raise SiloError(f"the root set needs records with labels from 0 to {self._classes - 1}; replace its file")
        models.unflatten(self._module, model)

    def _require(self, trigger: Trigger, root: Root) -> None:
        """Refuse a trigger of other inputs or classes: it may come from a log."""
        sizes = {len(trigger.mask), len(trigger.pattern)}
        known = trigger.target < self._classes and (trigger.source is None or 0 <= trigger.source < self._classes)
        if not known or sizes not in ({0}, {root.features.shape[1]}):
            raise SiloError(
                "the trigger does not fit the task's inputs and classes; reject the record that it stands in"
            )

    def _tensor(self, values: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._device)


@dataclass(frozen=True, eq=False)
class _Clean:
    """Clean gradients of all classes, one or two of each: columns `basis @ parts`, column i of class `classes[i]`.

    Attributes:
        basis: float64[d, k], orthonormal.
        parts: float64[k, k].
        classes: int64[k].
    """

    basis: NDArray[np.float64]
    parts: NDArray[np.float64]
    classes: NDArray[np.int64]

    @classmethod
    def of(cls, gradients: Sequence[Sequence[NDArray[np.float64]]]) -> _Clean:
        """From the gradients of each class, of which zeros are left out."""
        there = [(label, unit(row)) for label, rows in enumerate(gradients) for row in rows if row.any()]
        basis, parts = np.linalg.qr(np.stack([row for _, row in there], axis=1))
        return cls(basis, parts, np.array([label for label, _ in there]))

    def beside(self, label: int) -> NDArray[np.float64]:
        """An orthonormal basis of the gradients of all classes but one, float64[d, < k]."""
        within: NDArray[np.float64] = np.linalg.qr(self.parts[:, self.classes != label])[0]
        return self.basis @ within


class _Best:
    """The cheapest mask of each class so far that met the goal."""

    def __init__(self, classes: int, inputs: int, device: torch.device) -> None:
        self._cost = torch.full((classes,), float(inputs), device=device)
        self._mask = torch.zeros((classes, inputs), device=device)
        self._pattern = torch.zeros((classes, inputs), device=device)

    def keep(self, met: Tensor, mask: Tensor, pattern: Tensor) -> None:
        """Take the masks that met the goal at less than the cost so far."""
        cost = mask.sum(dim=1)
        better = met & (cost < self._cost)
        self._cost = torch.where(better, cost, self._cost)
        self._mask = torch.where(better[:, None], mask, self._mask)
        self._pattern = torch.where(better[:, None], pattern, self._pattern)

    def candidates(self) -> Candidates:
        """As arrays."""
        mask, pattern = self._mask.cpu().numpy(), self._pattern.cpu().numpy()
        return Candidates(self._cost.double().cpu().numpy(), mask, pattern)


def confusion(given: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Share of the records of class a that are given to b, float64[C, C]; zero on the diagonal."""
    counts = np.zeros((classes, classes))
    np.add.at(counts, (labels, given), 1.0)
    shares: NDArray[np.float64] = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0.0)
    return shares


def unusual(shares: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pairs (source, target) whose share is large, by itself and beside what the typical class loses to any other."""
    usual = float(np.median(shares.max(axis=1)))
    sources, targets = np.nonzero((shares >= FLIPPED) & (shares >= UNUSUAL * usual))
    return list(zip(sources.tolist(), targets.tolist(), strict=True))


def _trigger(mask: NDArray[np.float32], pattern: NDArray[np.float32], target: int, span: tuple[int, int]) -> Trigger:
    low, high = (value / MICRO for value in span)
    levels = np.rint((pattern - low) / (high - low) * _FULL).clip(0, _FULL).astype(np.uint8)
    return Trigger(target, None, np.rint(mask * _FULL).astype(np.uint8).tobytes(), levels.tobytes(), *span)


def _range(root: Root) -> tuple[int, int]:
    """Least and greatest value of the root's features in millionths; at least a millionth apart."""
    low, high = (round(float(value) * MICRO) for value in (root.features.min(), root.features.max()))
    return low, max(high, low + 1)
