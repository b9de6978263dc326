"""The law of independent noise: no update lies nearer to what the others can make up than its own noise allows.

Colluders that fill the place of their noise with one common vector, or that send each other's updates again, agree
beyond the common signal. Signals may agree, and honest silos with alike data do; noise may not. So a signal must not
count, and an inner product of two updates would count it.

*Statistic.* E is the energy of an update off the span of all the others' updates of the round: what no combination of
them explains, whatever factors colluders put on what they share, and however many share it.

*Null.* All had committed before anybody saw another's update, so an honest silo's noise is independent of that span.
The projection off it leaves Gaussian noise in at least `degrees - (n - 1)` directions, and a signal, which may depend
on the others, only raises E (Anderson 1955). So `P(E <= e | noise only)` is a safe p-value, with the bounds of
`defenses.laws` for several steps. It holds for each silo by itself, whatever the others are: nobody can frame an honest
one, unless the silos' shared key lets him read its update before he commits to his own.

*Dependence.* These p-values lean on all updates, so they are not independent of each other. They go into the evidence
times n (Bonferroni): however they depend, a false exclusion by this law stays within the level.

*Power.* A share r of an update's energy is found to lie in the span when r exceeds some eight times `sqrt(2/degrees)`:
an eighth of it with 13,850 coordinates seen, a half with 600. Colluders whose vectors are orthogonal to each other, or
that add a little of a common vector to honest noise, are not found here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from defenses.evidence import Exhibit, Setting, facts
from defenses.laws import Block, Floats, Laws, coordinates, counts_of, limit_scores, noise_of
from protos.records import Score

RIDGE = 1e-6
"""Added to the squares of unit updates, so that two equal ones can be judged; it raises E, towards not excluding."""


def own_scores(
    setting: Setting, exhibits: Sequence[Exhibit], seen: Floats | None = None
) -> tuple[tuple[Score, ...], ...]:
    """Per silo `own`, the norm of its part off the others' span in model units, and `own-below`, the noise's norm."""
    if not exhibits:
        return ()
    block = own_block(setting, exhibits, seen)
    noise = noise_of(setting, counts_of(exhibits))
    floors = setting.step * np.sqrt(noise.least * block.size)
    p = np.minimum(1.0, own_p(setting, exhibits, block) * len(exhibits))
    return tuple(zip(facts(block.name, block.norm), limit_scores("own-below", floors, p), strict=True))


def own_p(setting: Setting, exhibits: Sequence[Exhibit], block: Block | None = None) -> Floats:
    """One p-value per silo, float64[n]; 1 where the others' span fills all that is seen."""
    block = own_block(setting, exhibits) if block is None else block
    if block.degrees < 1:
        return np.ones(len(exhibits))
    return Laws(setting, counts_of(exhibits)).below(block)


def own_block(setting: Setting, exhibits: Sequence[Exhibit], seen: Floats | None = None) -> Block:
    """What each update has off the span of the others.

    With C the cosines between updates, the energy of unit update i off the others is `1 / (C^-1)_ii`.
    """
    rows = coordinates(setting, exhibits) if seen is None else seen
    gram = rows @ rows.T
    squares = np.diag(gram).copy()
    scale = np.where(squares > 0, 1 / np.sqrt(np.where(squares > 0, squares, 1.0)), 0.0)
    cosines = gram * scale[:, None] * scale[None, :]
    cosines[np.diag_indices_from(cosines)] = 1 + RIDGE
    energy = squares / np.diag(np.linalg.inv(cosines))
    degrees = rows.shape[1] - (len(rows) - 1)
    return Block("own", energy, degrees, setting.step * np.sqrt(energy), max(degrees, 0), True)
