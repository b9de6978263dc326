"""What a secure sum promises, whoever makes its keys and when; no implementation, so everybody may import it.

A scheme deals secrets to the members of an epoch; a member's keys protect an update, check a folded one and open a
sum. The coordinator needs no key: it folds and adds words (`crypto.ring`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from crypto.packing import Packing
from crypto.tags import Contribution

SCHEME = "ckks-4096-60-49/2^22/4x18/seeded"
"""Name and parameters of the scheme that everybody has unless told otherwise: ring, moduli, scale, fields of a slot."""
BFV_SCHEME = "bfv-4096-60-49/2^23/2x18/seeded"
"""The other one (`crypto.bfv`): fields of a coefficient instead of a slot. Chunks have the same form and size."""
SCHEMES = (SCHEME, BFV_SCHEME)


@dataclass(frozen=True)
class Protected:
    """An update ready to commit to: 32,800-byte ciphertext chunks, and tags (32-byte salt, then `<u8` per chunk).

    A scheme gives an iterator of chunks: each is encrypted when it is asked for, and can be asked for once.
    """

    chunks: Iterable[bytes] = field(repr=False)
    tags: bytes = field(repr=False)


class SumKeys(Protocol):
    """A silo's side of a secure sum, for one key epoch; a scheme with keys per round derives them from `plan`.

    Methods have no side effects and may be called from several threads. A check raises; what is computed from a
    decryption is returned by `open_sum` only, after every check of it has passed.
    """

    @property
    def model_secret(self) -> bytes:
        """32 bytes that all members of the epoch share and nobody else has."""

    def key_check(self, federation: str, epoch: int) -> str:
        """A digest that is equal for two members exactly when all their secrets are; tells nothing about them."""

    def protect(self, fields: NDArray[Any], packing: Packing, *, plan: str, silo: str) -> Protected:
        """Encrypt and tag an update under fresh randomness: two calls give two different results."""

    def check_folded(
        self,
        folded_chunks: Sequence[bytes],
        rows: NDArray[np.int8],
        packing: Packing,
        *,
        plan: str,
        silo: str,
        tags: bytes,
        sketch: tuple[NDArray[np.int32], NDArray[np.int32]] | None,
    ) -> None:
        """Raises unless `folded_chunks` is `rows` applied to an update that this silo tagged and the sketch is its."""

    def check_sketch(
        self,
        sketch: tuple[NDArray[np.int32], NDArray[np.int32]],
        rows: NDArray[np.int8],
        packing: Packing,
        *,
        plan: str,
        silo: str,
        tags: bytes,
    ) -> None:
        """Raises unless the sketch is `rows` applied to what this silo tagged; needs no ciphertext."""

    def open_sum(
        self,
        chunks: Iterable[bytes],
        packing: Packing,
        *,
        plan: str,
        contributions: Sequence[Contribution],
        total_weight: int,
    ) -> NDArray[np.int32]:
        """The exact weighted sum of the updates that the contributions' tags belong to, or an error.

        `chunks` is iterated twice, for all bytes are judged before any is decrypted: a list, or the chunks of a file.
        """


class SumScheme(Protocol):
    """Makes the secrets of an epoch."""

    name: str

    def deal(self, federation: str, epoch: int) -> bytes:
        """Fresh secrets from the operating system, the same for every member."""

    def join(self, secret: bytes) -> SumKeys:
        """A member's keys from dealt secrets; raises KeyMismatch for anything else."""
