"""One process, one reading of the log: silos of a simulation take over what another of them has checked already.

What a log makes of a `History` is a function of its bytes, and the digest of the last record names all of them. So the
first silo that applies a record to a prefix checks it in full, and its state is what the others would come to.
"""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from typing import Any

from audit.history import History
from audit.log import Chain
from protos.records import Record

_KEPT = 256
"""States that are remembered: silos of a simulation are at most a few records apart."""

Known = OrderedDict[tuple[str, str], tuple[Record, dict[str, Any]]]


class Reader:
    """Makes the histories of one simulation; call it where a session wants a fresh one."""

    def __init__(self) -> None:
        self._known: Known = OrderedDict()

    def __call__(self) -> SharedHistory:
        """A history without records."""
        return SharedHistory(self._known)


class SharedHistory(History):
    """A `History` that looks up what its like have made of the same record after the same prefix."""

    def __init__(self, known: Known) -> None:
        super().__init__()
        self.chain = _SharedChain(known)
        self._known = known

    def apply(self, data: bytes) -> Record:
        """See `History.apply`."""
        key = self.chain.digest, hashlib.sha256(data).hexdigest()
        found = self._known.get(key)
        if found is None:
            record = super().apply(data)
            self._known[key] = record, _copied(vars(self))
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
            return record
        record, state = found
        vars(self).update(_copied(state))
        return record


class _SharedChain(Chain):
    def __init__(self, known: Known) -> None:
        super().__init__()
        self._known = known

    def check(self, data: bytes) -> Record:
        found = self._known.get((self.digest, hashlib.sha256(data).hexdigest()))
        return super().check(data) if found is None else found[0]


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    """A state that changes on its own: containers, the chain, and the views in lists, which records fill in by and by.

    What views hold is only ever replaced, so that one level is enough.
    """
    return {name: value if name == "_known" else _own(value) for name, value in state.items()}


def _own(value: Any) -> Any:
    if isinstance(value, list):
        return [copy.copy(item) if _is_open(item) else item for item in value]
    return copy.copy(value) if isinstance(value, dict | Chain) else value


def _is_open(item: Any) -> bool:
    """Whether it is a dataclass that may be assigned to."""
    rules: Any = getattr(type(item), "__dataclass_params__", None)
    return rules is not None and not rules.frozen
