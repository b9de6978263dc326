"""What a round's training goes by besides the silo's records: triggers to unlearn, prototypes to keep to.

All of it is public: the log tells it. So it changes what a record's gradient is, not what a record can do to the
update: each gradient is still clipped to C and noised, and privacy is that of training without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protos.search import Trigger
from silo.searcher import Root

if TYPE_CHECKING:  # trainers import this module, and must start fast
    from audit.prototypes import GlobalPrototypes


@dataclass(frozen=True, eq=False)
class Pull:
    """FedProto's term of the loss (Tan et al. 2022, eq. 7): λ times the squared distance to the class's prototype.

    The distance is the mean over the embedding's coordinates, as in the paper's code: `λ / E * |e - p_c|²`. A record
    of a class without a global prototype has no such term.
    """

    strength: float
    prototypes: GlobalPrototypes


@dataclass(frozen=True)
class Guidance:
    """Attributes:
    doses: groups of triggers found in models; each group is stamped on a quarter of each batch under its right labels,
        and of a flip public records take their place (`silo.inoculation`).
    root: public records, which flips are unlearnt with; needed where a dose has one.
    pull: None for cross-entropy alone.
    """

    doses: Sequence[Sequence[Trigger]] = ()
    pull: Pull | None = None
    root: Root | None = None


NONE = Guidance()
