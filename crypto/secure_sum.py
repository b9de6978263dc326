"""The secure sum: silos protect updates, the coordinator adds ciphertexts, silos open and check the sum.

`crypto.scheme` says what a scheme promises; `PackedCkks` and `SiloSum` are the one that is built: symmetric packed
CKKS under a key that the epoch's members share. The coordinator's side is `ring.fold` and `ring.weighted_sum`,
which need no key and not even this module. `crypto.bfv` is the same with another encoding, and sharper.

Why decoding is exact. Noise adds linearly: a combination of fresh encryptions with integer coefficients c has slot
noise that is sub-Gaussian with standard deviation `NOISE_STD * |c|`, |c| the Euclidean norm, so that a slot is off by
more than t with probability at most 2 exp(-t^2 / (2 NOISE_STD^2 |c|^2)). With W = 1024 the worst weights that any
policy allows put everything on one silo: |c| = 1024, standard deviation 0.0363 (0.010 for 20 silos under cap 2).
A sum has at most 2,731 chunks (2048 of the body, an output layer of a quarter of the model), below 2^24 slots.

- wrong decoding needs an error of 1/2: below 2^24 * 2 exp(-94.8) < 2^-111 a round;
- an honest sum fails the whole-number check (3/8): below 2^24 * 2 exp(-53.3) < 2^-51 a round;
- an honest fold fails it (`_FOLD_DEVIATIONS` = 9): below 2 exp(-40.5) < 2^-57 for each slot that is looked at.

Why folds have a bound of their own: what a slot of a fold is off by is multiplied by the silo's weight in the sum. A
silo that shifts single slots by less than a fixed 1/8 would pass its own check, spoil the sum, and so lay the blame on
the coordinator. The bound of a fold, and of the folds put together again chunk by chunk (a matched filter), is nine
standard deviations. With 8 folds of n chunks a shift of one slot of up to 9 NOISE_STD sqrt(n / 8) remains: 0.0009 for
64 chunks, 0.0036 for 1032, 0.0051 for 2048. A sum bears 3/8, so it is harmless up to a weight of about 350, 95 and 70:
a silo with more weight in a large model can void a round, and the blame falls on the sum.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from crypto import ckks, ring
from crypto.errors import BadCiphertext, CheckFailed, KeyMismatch, OutOfRange
from crypto.packing import FIELDS_PER_CHUNK, LEVELS, MAX_MULTIPLE, Packing, pack, unpack
from crypto.scheme import SCHEME, Protected, SumKeys, SumScheme
from crypto.sketch import join, split
from crypto.tags import SALT_BYTES, Contribution, tag, verify_folded, verify_sum
from protos import canonical
from protos.errors import MalformedMessage

__all__ = ["SCHEME", "Contribution", "PackedCkks", "Protected", "SiloSum", "SumKeys", "SumScheme", "deal"]

_SECRET_BYTES = 32
_FOLD_DEVIATIONS = 9.0
_MAX_FOLD_ERROR = 1 / 8
_MAX_SUM_ERROR = 3 / 8
_MAX_INT32 = 2**31 - 1
_BLOCK = 64
"""Chunks that are in memory as floats and words: 6 MB."""
_MANY_CHUNKS = 96
"""From here on helper processes are worth their start (half a second) and memory."""


class ChunkKey(Protocol):
    """What turns chunks of slots into words that the coordinator can add, and back; see `ckks.CkksKey`."""

    @property
    def noise_std(self) -> float:
        """Standard deviation of a slot of a fresh chunk."""

    def encrypt_all(self, slots: NDArray[np.int64]) -> list[bytes]:
        """Fresh chunks (`ring.parse_fresh`) of slots, int64[n, SLOTS]; OutOfRange for more than the modulus holds."""

    def decrypt_all(self, chunks: Sequence[bytes]) -> NDArray[np.float64]:
        """Slots of full chunks (`ring.parse_chunk`), float64[n, SLOTS]; raises BadCiphertext before it decrypts any."""

    def start_helpers(self) -> None:
        """Get ready for many chunks."""


class SiloSum:
    """`SumKeys` of packed CKKS. Neither `repr` nor any message shows the secrets."""

    scheme = SCHEME
    _load: Callable[[bytes], ChunkKey] = staticmethod(ckks.CkksKey.load)

    def __init__(self, secret: bytes) -> None:
        """Read what `deal` made; raises KeyMismatch for another scheme or damaged secrets."""
        try:
            blob = canonical.loads(secret)
            if set(blob) != {"ckks", "epoch", "federation", "model", "scheme", "tags"} or blob["scheme"] != self.scheme:
                raise KeyMismatch(f"these secrets are not of the scheme {self.scheme}; ask the steward for a new deal")
            seed, tag_secret, model_secret = (
                base64.b64decode(blob[name], validate=True) for name in ("ckks", "tags", "model")
            )
        except (MalformedMessage, TypeError, ValueError):
            raise KeyMismatch("these are no dealt secrets; ask the steward for a new deal") from None
        if len(tag_secret) != _SECRET_BYTES or len(model_secret) != _SECRET_BYTES:
            raise KeyMismatch("dealt secrets of wrong length; ask the steward for a new deal")
        self._federation, self._epoch = blob["federation"], blob["epoch"]
        self._secret, self._tag_secret, self._model_secret = secret, tag_secret, model_secret
        self._key = self._load(seed)

    @property
    def model_secret(self) -> bytes:
        """32 bytes that seal the model for late and new silos."""
        return self._model_secret

    def key_check(self, federation: str, epoch: int) -> str:
        """HMAC-SHA-256 under all secrets, hex; raises KeyMismatch for secrets of another federation or epoch."""
        if (federation, epoch) != (self._federation, self._epoch):
            raise KeyMismatch(f"these secrets are not of {federation}, epoch {epoch}; ask the steward for a new deal")
        context = {"epoch": epoch, "federation": federation, "use": "concordat/key-check/v1"}
        return hmac.new(self._secret, canonical.dumps(context), hashlib.sha256).hexdigest()

    def protect(self, fields: NDArray[Any], packing: Packing, *, plan: str, silo: str) -> Protected:
        """Tag an update, and encrypt it chunk by chunk while the result is read.

        Args:
            fields: shape [chunks, 8192], integers within ±127, unused fields zero; not to be changed meanwhile.
            packing: the layout's.
            plan: digest of the round's plan.
            silo: our own name.

        Raises:
            OutOfRange: wrong shape, a value beyond ±127 or in an unused field.
        """
        if fields.shape != (packing.chunks, FIELDS_PER_CHUNK) or not _in_range(fields, packing):
            raise OutOfRange(f"an update is {packing.chunks} chunks of fields within ±{LEVELS}; quantise it first")
        self._prepare(packing)
        salt = os.urandom(SALT_BYTES)
        return Protected(self._encrypted(fields), tag(fields, self._tag_secret, plan=plan, silo=silo, salt=salt))

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
        """Check a folded ciphertext of `silo`: bytes, whole numbers, range, sketch, tags, in this order.

        Args:
            folded_chunks: one for each row.
            rows: shape [rows, chunks], int8: `sketch.rows` with a sketch, `sketch.trace_signs` without.
            tags: the tags of the silo's opening.
            sketch: folds [F, width] and exact output [output_size], int32, or None in a trace.

        Raises:
            BadCiphertext: sizes or words, before anything is decrypted.
            CheckFailed: "whole", "range", "sketch" or "tags".
        """
        if len(folded_chunks) != rows.shape[0]:
            raise BadCiphertext(f"{rows.shape[0]} folded chunks are needed, not {len(folded_chunks)}")
        slots = self._key.decrypt_all(folded_chunks)
        _check_folds_whole(slots, rows, self._key.noise_std)
        fields = unpack(np.rint(slots).astype(np.int64))
        _check_range(bool((np.abs(fields) <= LEVELS * np.minimum(packing.multiples(rows), MAX_MULTIPLE)).all()))
        if sketch is not None:
            _check_sketch(fields, packing, sketch)
        verify_folded(fields, rows, self._tag_secret, plan=plan, silo=silo, tags=tags)

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
        """Check a logged sketch against the logged tags, when the ciphertext is long gone.

        A trace folds under other signs than the sketch, so that a false sketch for which checkers vouched would pass.

        Args:
            sketch: folds [F, width] and exact output [output_size], int32.
            rows: `sketch.rows` of the opening, shape [F + output_chunks, chunks], int8.

        Raises:
            CheckFailed: "tags".
        """
        verify_folded(join(*sketch, packing), rows, self._tag_secret, plan=plan, silo=silo, tags=tags)

    def open_sum(
        self,
        chunks: Iterable[bytes],
        packing: Packing,
        *,
        plan: str,
        contributions: Sequence[Contribution],
        total_weight: int,
    ) -> NDArray[np.int32]:
        """Decrypt the weighted sum and check it: bytes, whole numbers, range, tags, in this order.

        Args:
            chunks: full chunks, iterated twice: all bytes are judged before any is decrypted.

        Returns:
            shape [d], int32: exactly the weighted sum of the retained updates, in the order of the model.

        Raises:
            OutOfRange: the weights do not add up to a total weight of at most 1032.
            BadCiphertext: sizes, words or number of chunks, before anything is decrypted.
            CheckFailed: "whole", "range" or "tags".
        """
        weights = [part.weight for part in contributions]
        if min(weights, default=-1) < 0 or sum(weights) != total_weight or not 0 < total_weight <= MAX_MULTIPLE:
            raise OutOfRange(f"weights must add up to a total weight of at most {MAX_MULTIPLE}")
        self._prepare(packing)
        _check_chunks(chunks, packing)
        fields = self._open(chunks, packing)
        _check_range(_in_range(fields, packing, total_weight))
        verify_sum(fields, self._tag_secret, plan=plan, contributions=contributions)
        return packing.from_fields(fields)

    def _encrypted(self, fields: NDArray[Any]) -> Iterator[bytes]:
        for block in _blocks(len(fields)):
            yield from self._key.encrypt_all(pack(fields[block]))

    def _open(self, chunks: Iterable[bytes], packing: Packing) -> NDArray[np.int32]:
        """The fields of a sum, shape [chunks, 8192], block by block: floats of the whole never stand in memory."""
        fields = np.empty((packing.chunks, FIELDS_PER_CHUNK), dtype=np.int32)
        left = iter(chunks)
        for block in _blocks(packing.chunks):
            batch = list(itertools.islice(left, block.stop - block.start))
            if len(batch) != block.stop - block.start:
                raise BadCiphertext("the bytes of the sum can be read only once; keep them in a file or list")
            slots = self._key.decrypt_all(batch)
            _check_whole(slots, _MAX_SUM_ERROR)
            # What is cut off here is far out of range, and stays so.
            np.clip(
                unpack(np.rint(slots).astype(np.int64)), -_MAX_INT32, _MAX_INT32, out=fields[block], casting="unsafe"
            )
        return fields

    def _prepare(self, packing: Packing) -> None:
        if packing.chunks >= _MANY_CHUNKS:
            self._key.start_helpers()

    def __repr__(self) -> str:
        return f"SiloSum(federation={self._federation!r}, epoch={self._epoch!r})"


class PackedCkks:
    """`SumScheme` of packed symmetric CKKS."""

    name = SCHEME

    def deal(self, federation: str, epoch: int) -> bytes:
        """See the function `deal`."""
        return deal(federation, epoch)

    def join(self, secret: bytes) -> SiloSum:
        """The keys of a member; raises KeyMismatch."""
        return SiloSum(secret)


def deal(federation: str, epoch: int, scheme: str = SCHEME) -> bytes:
    """Fresh secrets of an epoch from the operating system: CKKS key seed, tag and model secrets, one canonical blob."""
    secrets = {"ckks": ckks.generate(), "model": os.urandom(_SECRET_BYTES), "tags": os.urandom(_SECRET_BYTES)}
    texts = {name: base64.b64encode(secret).decode("ascii") for name, secret in secrets.items()}
    return canonical.dumps({**texts, "epoch": epoch, "federation": federation, "scheme": scheme})


def _blocks(count: int) -> list[slice]:
    return [slice(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK)]


def _check_chunks(chunks: Iterable[bytes], packing: Packing) -> None:
    sizes = [ring.parse_chunk(chunk).size for chunk in chunks]
    if len(sizes) != packing.chunks:
        raise BadCiphertext(f"a sum of this layout has {packing.chunks} chunks, not {len(sizes)}")


def _check_folds_whole(slots: NDArray[np.float64], rows: NDArray[np.int8], noise_std: float) -> None:
    matrix = rows.astype(np.float64)
    errors = slots - np.rint(slots)
    bounds = np.minimum(_FOLD_DEVIATIONS * noise_std * np.linalg.norm(matrix, axis=1), _MAX_FOLD_ERROR)
    whole = bool((np.abs(errors) <= bounds[:, None]).all())
    # Put together again with their signs, the folds show the noise of chunk k with coefficients (M^T M)_k, whose
    # squared norm is that of the k-th column of M under M M^T.
    gram = matrix @ matrix.T
    for block in _blocks(matrix.shape[1]):
        columns = matrix[:, block]
        norms = np.sqrt(np.einsum("rk,rk->k", columns, gram @ columns))
        filtered = _FOLD_DEVIATIONS * noise_std * norms
        whole = whole and bool((np.abs(columns.T @ errors) <= filtered[:, None]).all())
    if not whole:
        raise CheckFailed("whole")


def _check_whole(slots: NDArray[np.float64], most: float) -> None:
    if not bool((np.abs(slots - np.rint(slots)) <= most).all()):
        raise CheckFailed("whole")


def _in_range(fields: NDArray[Any], packing: Packing, weight: int = 1) -> bool:
    """Whether fields are within ±127 times `weight`, and zero where no coordinate is."""
    for block in _blocks(len(fields)):
        if bool((np.abs(fields[block].astype(np.int64)) > LEVELS * weight * packing.used(block)).any()):
            return False
    return True


def _check_range(holds: bool) -> None:
    if not holds:
        raise CheckFailed("range")


def _check_sketch(
    fields: NDArray[np.int64], packing: Packing, claimed: tuple[NDArray[np.int32], NDArray[np.int32]]
) -> None:
    if not all(np.array_equal(own, said) for own, said in zip(split(fields, packing), claimed, strict=True)):
        raise CheckFailed("sketch")
