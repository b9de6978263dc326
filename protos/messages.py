"""What silos sign and send. The coordinator's own words are log records (`protos.records`).

Every body names the federation and, in a round, the digest of the record that it answers, so that it cannot be
replayed elsewhere. Arrays travel as little-endian bytes: folds and output `<i4`, tags `<u8`, prototypes `<i8`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from protos.codec import LATER, Between, Digest, JsonObject, Matching, Name, Natural, Positive, Signature, Text
from protos.search import Trigger
from protos.task import MICRO, Rate


@dataclass(frozen=True)
class Signed:
    """A body with an Ed25519 signature over the canonical JSON of `{"body": ..., "signer": ...}`."""

    signer: Name
    body: JsonObject
    signature: Signature


@dataclass(frozen=True)
class Charge:
    """One release: the Gaussian mechanism at a noise multiplier and Poisson sample rate, composed `steps` times."""

    channel: Name
    noise_micro: Positive
    sample_rate_micro: Rate
    steps: Positive


@dataclass(frozen=True)
class Receipt:
    """What the silo's ledger says: number of this entry (from 1), its charges, and (ε, δ) of all entries so far."""

    entry: Positive
    charges: tuple[Charge, ...]
    epsilon_micro: Natural
    delta_nano: Positive


@dataclass(frozen=True)
class SealedSecret:
    """The epoch's secrets, sealed by HPKE for one member whose fingerprint the steward's operator approved."""

    silo: Name
    fingerprint: Digest
    sealed: bytes


@dataclass(frozen=True)
class Deal:
    """The steward's key deal. `roster` is the digest of the record that asked for it."""

    KIND: ClassVar[str] = "concordat/deal/v1"

    federation: Name
    roster: Digest
    epoch: Positive
    scheme: Text
    secrets: tuple[SealedSecret, ...]


@dataclass(frozen=True)
class KeyCheck:
    """One member's key-check value: equal values mean equal secrets. `deal` is the digest of the deal's record.

    `sealed` is the digest of the current model sealed under the new secrets, None from a member that has no model yet.
    """

    KIND: ClassVar[str] = "concordat/key-check/v1"

    federation: Name
    deal: Digest
    epoch: Positive
    value: Digest
    sealed: Digest | None


@dataclass(frozen=True)
class Counts:
    """Noised record count (at least 1) and class counts (at least 0) of a silo, released once per task."""

    KIND: ClassVar[str] = "concordat/counts/v1"

    federation: Name
    task: Digest
    total: Positive
    classes: tuple[Natural, ...]
    receipt: Receipt


@dataclass(frozen=True)
class Commit:
    """Fixes everything a silo will open: Merkle root of the ciphertext chunks, digests of tags and of prototypes."""

    KIND: ClassVar[str] = "concordat/commit/v1"

    federation: Name
    plan: Digest
    ciphertext: Digest
    tags: Digest
    prototypes: Digest | None


@dataclass(frozen=True)
class Opening:
    """Answers a challenge: the sketch (`folds`, exact `output` or empty), Merkle root of the folded ciphertext, tags.

    `tags` holds the salt (32 bytes) and then one `<u8` per chunk; its SHA-256 is the commitment's.
    """

    KIND: ClassVar[str] = "concordat/opening/v1"

    federation: Name
    challenge: Digest
    folds: bytes
    output: bytes
    folded: Digest
    tags: bytes
    prototypes: bytes | None
    receipt: Receipt


@dataclass(frozen=True)
class Answer:
    """Whether one silo's folded ciphertext bears out its opening."""

    silo: Name
    ok: bool


@dataclass(frozen=True)
class Answers:
    """A checker's answers. `record` is the digest of the record that asked (openings, recheck or trace openings)."""

    KIND: ClassVar[str] = "concordat/answers/v1"

    federation: Name
    record: Digest
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Evaluation:
    """Noised counts of correctly classified and of all hold-out records, for the model that is adopted."""

    correct: Annotated[int, Between(0, 2**53 - 1)]
    total: Positive


@dataclass(frozen=True)
class Adoption:
    """A silo verified the sum: digest of the new model and of its sealed copy, and a co-signature on the log head.

    `sum` is the digest of the record of the sum, and so the head that is co-signed. `evaluation` is None in rounds
    without.
    """

    KIND: ClassVar[str] = "concordat/adoption/v1"

    federation: Name
    sum: Digest
    model: Digest
    sealed: Digest
    evaluation: Evaluation | None


CHECKS = ("digest", "whole", "range", "tags", "sketch")
"""Names of the checks a silo makes of a decrypted sum; a failing one is reported by its name only."""

CheckName = Annotated[str, Matching("|".join(CHECKS))]


@dataclass(frozen=True)
class Refusal:
    """A silo's check of the sum failed; the name of the check and nothing else."""

    KIND: ClassVar[str] = "concordat/refusal/v1"

    federation: Name
    sum: Digest
    check: CheckName


@dataclass(frozen=True)
class TraceOpening:
    """Merkle root of the silo's ciphertext folded again, to trace a failed check."""

    KIND: ClassVar[str] = "concordat/trace-opening/v1"

    federation: Name
    trace: Digest
    folded: Digest


MAX_FINDS = 8
"""Most finds in one silo's report."""
Share = Annotated[int, Between(0, MICRO)]


@dataclass(frozen=True)
class Find:
    """A trigger and what share of the root's records that it is about it moves to its target."""

    trigger: Trigger
    success_micro: Share


@dataclass(frozen=True)
class SearchReport:
    """What one silo's search of the model found, strongest first; `search` is the digest of the record that asked.

    `blind` says that nothing could be looked for: the model gives too few public records their class.
    """

    KIND: ClassVar[str] = "concordat/search-report/v1"

    federation: Name
    search: Digest
    model: Digest
    finds: tuple[Find, ...]
    blind: bool = field(default=False, metadata=LATER)


@dataclass(frozen=True)
class FindAnswer:
    """What a silo measures itself: the success of a reported trigger, which is named by its digest."""

    find: Digest
    success_micro: Share


@dataclass(frozen=True)
class FindAnswers:
    """Answers about every reported trigger, sorted by digest. `searched` is the digest of the record that asked."""

    KIND: ClassVar[str] = "concordat/find-answers/v1"

    federation: Name
    searched: Digest
    answers: tuple[FindAnswer, ...]


@dataclass(frozen=True)
class Projections:
    """Projections of the logged sketches on what would teach a trigger; None from a silo that lacks a past model.

    `table` is `<i8`: per past round, retained silo and class, in millionths of a quantisation step.
    """

    find: Digest
    table: bytes | None


@dataclass(frozen=True)
class Attribution:
    """A drawn silo's projections, one for each find to attribute. `finds` is the digest of the record that asked."""

    KIND: ClassVar[str] = "concordat/attribution/v1"

    federation: Name
    finds: Digest
    tables: tuple[Projections, ...]
