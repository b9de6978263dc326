"""Where all randomness of a silo comes from. No seed reaches the noise: production accepts the operating system only.

Tests that need determinism pass their own `Entropy`; `require_operating_system` keeps it out of production.
"""

from __future__ import annotations

import os
from typing import Protocol

from silo.errors import TestEntropyRefused


class Entropy(Protocol):
    """A source of uniform bytes."""

    is_operating_system: bool

    def take(self, count: int) -> bytes:
        """`count` fresh uniform bytes; never the same ones twice."""


class OsEntropy:
    """The operating system's generator (getrandom); safe after a fork and for any number of threads."""

    is_operating_system = True

    def take(self, count: int) -> bytes:
        """`count` bytes of `os.urandom`."""
        return os.urandom(count)


def require_operating_system(entropy: Entropy) -> None:
    """Refuse anything but `OsEntropy`; every production entry point calls this once.

    The class itself is asked, not only its flag, so that a test double cannot pass by claiming the flag.

    Raises:
        TestEntropyRefused: for any other source.
    """
    if type(entropy) is not OsEntropy or not entropy.is_operating_system:
        raise TestEntropyRefused("privacy noise must come from the operating system; start the silo with OsEntropy")
