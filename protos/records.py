"""Bodies of the log's records: everything the coordinator says, in order.

A record is `{"body", "previous", "sequence", "time_ms"}`; its digest is the SHA-256 of the canonical bytes, and
`previous` is the digest of the one before (64 zeros for genesis). The log key signs a `Head`. Silos tail the log:
a record is also how the coordinator asks for the next step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from protos.codec import Between, Digest, JsonObject, Matching, Name, Natural, Positive, Signature, Text
from protos.errors import MalformedMessage
from protos.messages import Share, Signed
from protos.task import Deadlines, Policy, PrototypeRule, Task, Training

NO_RECORD = "0" * 64


@dataclass(frozen=True)
class Record:
    """One entry of the log."""

    sequence: Natural
    previous: Digest
    time_ms: Natural
    body: JsonObject


@dataclass(frozen=True)
class Head:
    """Signed by the log key, co-signed by silos: the log had `size` records and the last one this digest."""

    KIND: ClassVar[str] = "concordat/head/v1"

    federation: Name
    size: Positive
    digest: Digest


@dataclass(frozen=True)
class SignedHead:
    """A head with the log key's Ed25519 signature over its canonical bytes."""

    head: Head
    signature: Signature


@dataclass(frozen=True)
class Genesis:
    """First record: pins the log key, the CA certificate (SHA-256 of its DER), task and policy."""

    KIND: ClassVar[str] = "concordat/genesis/v1"

    federation: Name
    log_key: Digest
    authority: Digest
    task: Task
    policy: Policy


@dataclass(frozen=True)
class Member:
    """A silo enrolled: its Ed25519 signing key and X25519 exchange key."""

    KIND: ClassVar[str] = "concordat/member/v1"

    name: Name
    signing_key: Digest
    exchange_key: Digest


@dataclass(frozen=True)
class Roster:
    """Membership is fixed for key epoch `epoch`; the steward is asked for a deal. `attempt` counts stewards."""

    KIND: ClassVar[str] = "concordat/roster/v1"

    epoch: Positive
    attempt: Positive
    members: tuple[Name, ...]
    steward: Name


@dataclass(frozen=True)
class DealRecord:
    """The steward's signed `Deal`; members are asked for key-check values."""

    KIND: ClassVar[str] = "concordat/deal-record/v1"

    deal: Signed


@dataclass(frozen=True)
class Epoch:
    """All members' signed `KeyCheck` values agree; members without counts are asked for them."""

    KIND: ClassVar[str] = "concordat/epoch/v1"

    epoch: Positive
    checks: tuple[Signed, ...]


@dataclass(frozen=True)
class CountsRecord:
    """The signed `Counts` of members that had none on record."""

    KIND: ClassVar[str] = "concordat/counts-record/v1"

    counts: tuple[Signed, ...]


@dataclass(frozen=True)
class Plan:
    """One round's plan. `adopted` is the sequence number of the record that made `model` current, with signatures.

    `nonce_hash` is the SHA-256 of the nonce that the challenge will reveal. `prototypes` and
    `evaluation_noise_micro` are None in rounds without.
    """

    KIND: ClassVar[str] = "concordat/plan/v1"

    round: Positive
    task: Digest
    model: Digest
    adopted: Natural
    epoch: Positive
    silos: tuple[Name, ...]
    training: Training
    prototypes: PrototypeRule | None
    evaluation_noise_micro: Positive | None
    step_log2: Annotated[int, Between(-60, 20)]
    folds: Annotated[int, Between(2, 8)]
    deadlines: Deadlines
    quorum: Positive
    privacy_minimum: Positive
    nonce_hash: Digest


@dataclass(frozen=True)
class Challenge:
    """All commitments, sorted by silo, and the nonce. The round's seed is SHA-256(nonce || commitments)."""

    KIND: ClassVar[str] = "concordat/challenge/v1"

    round: Positive
    nonce: Digest
    commitments: tuple[Signed, ...]
    late: tuple[Name, ...]


@dataclass(frozen=True)
class Openings:
    """All signed `Opening`s, sorted by silo; three silos drawn by the seed are asked to check each.

    `withdrawn` committed, but opened nothing that their own commitment bears out.
    """

    KIND: ClassVar[str] = "concordat/openings/v1"

    round: Positive
    openings: tuple[Signed, ...]
    withdrawn: tuple[Name, ...]


@dataclass(frozen=True)
class Recheck:
    """Checkers disagree or are missing about `subjects`: every silo is asked to check them."""

    KIND: ClassVar[str] = "concordat/recheck/v1"

    round: Positive
    checks: tuple[Signed, ...]
    subjects: tuple[Name, ...]


@dataclass(frozen=True)
class Conviction:
    """A silo that a check proved to lie; it takes part in no further round."""

    silo: Name
    reason: Text


@dataclass(frozen=True)
class Score:
    """One number behind a verdict. `evidence_micro` is -log10 p of a law, or None for a suspicion (no null law)."""

    name: Name
    value_micro: Annotated[int, Between(-(2**53) + 1, 2**53 - 1)]
    evidence_micro: Natural | None


VERDICTS = ("retained", "suspected", "excluded", "convicted")


@dataclass(frozen=True)
class Judgement:
    """What was decided about one silo and why; `count` is its noised record count."""

    silo: Name
    count: Positive
    scores: tuple[Score, ...]
    verdict: Annotated[str, Matching("|".join(VERDICTS))]
    reason: Text
    weight: Natural


@dataclass(frozen=True)
class Decision:
    """The verdicts and integer weights of a round, sorted by silo, with the answers that they rest on."""

    KIND: ClassVar[str] = "concordat/decision/v1"

    round: Positive
    defense: Name
    checks: tuple[Signed, ...]
    judgements: tuple[Judgement, ...]
    convicted: tuple[Conviction, ...]


@dataclass(frozen=True)
class Sum:
    """Merkle root of the weighted sum's ciphertext chunks; silos are asked to verify and adopt."""

    KIND: ClassVar[str] = "concordat/sum/v1"

    round: Positive
    root: Digest


@dataclass(frozen=True)
class Trace:
    """A check of the sum failed: every retained silo is asked to fold its ciphertext again under fresh signs."""

    KIND: ClassVar[str] = "concordat/trace/v1"

    round: Positive
    adoptions: tuple[Signed, ...]
    refusals: tuple[Signed, ...]


@dataclass(frozen=True)
class TraceOpenings:
    """The signed `TraceOpening`s; every silo is asked to check them."""

    KIND: ClassVar[str] = "concordat/trace-openings/v1"

    round: Positive
    openings: tuple[Signed, ...]
    withdrawn: tuple[Name, ...]


@dataclass(frozen=True)
class Outcome:
    """End of a round. `fault` tells who a void round is laid to: `none` (too few silos), `silo`, or `sum`.

    After `sum` no silo decrypts another sum until its operator acts. `late` are silos that neither adopted nor refused.
    """

    KIND: ClassVar[str] = "concordat/outcome/v1"

    round: Positive
    result: Annotated[str, Matching("adopted|void")]
    model: Digest
    adoptions: tuple[Signed, ...]
    refusals: tuple[Signed, ...]
    checks: tuple[Signed, ...]
    late: tuple[Name, ...]
    convicted: tuple[Conviction, ...]
    fault: Annotated[str, Matching("none|silo|sum")]
    reason: Text


@dataclass(frozen=True)
class Search:
    """Every active silo is asked to search `model`, which is the current one."""

    KIND: ClassVar[str] = "concordat/search/v1"

    round: Positive
    model: Digest


@dataclass(frozen=True)
class Searched:
    """The signed `SearchReport`s, of which some hold finds; every silo is asked to measure each trigger itself."""

    KIND: ClassVar[str] = "concordat/searched/v1"

    round: Positive
    model: Digest
    reports: tuple[Signed, ...]
    silent: tuple[Name, ...]


@dataclass(frozen=True)
class Clean:
    """End of a search without a find, confirmed now or before: nobody reported one, or by the answers none works."""

    KIND: ClassVar[str] = "concordat/clean/v1"

    round: Positive
    model: Digest
    reports: tuple[Signed, ...]
    answers: tuple[Signed, ...]
    silent: tuple[Name, ...]


@dataclass(frozen=True)
class Confirmed:
    """A trigger that most answers bear out, or that stands; `success_micro` is their median. Some are attributed."""

    find: Digest
    success_micro: Share
    yes: Natural
    no: Natural
    attributed: bool


@dataclass(frozen=True)
class Finds:
    """Confirmed triggers, and what stands of earlier searches, sorted by digest; marked ones are to be attributed."""

    KIND: ClassVar[str] = "concordat/finds/v1"

    round: Positive
    model: Digest
    answers: tuple[Signed, ...]
    silent: tuple[Name, ...]
    confirmed: tuple[Confirmed, ...]
    standing: tuple[Confirmed, ...]


@dataclass(frozen=True)
class Part:
    """A silo's part in a find: projections x, and z, how far they are above an honest silo's (in σ), with evidence."""

    silo: Name
    scores: tuple[Score, ...]
    convicted: bool


@dataclass(frozen=True)
class Case:
    """What the median of `tables` tables says of a find, sorted by silo; `agreeing` of them say the same alone.

    It convicts nobody unless most of at least two tables agree.
    """

    find: Digest
    tables: Natural
    agreeing: Natural
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Attributed:
    """The signed `Attribution`s and what follows from them; end of a search that found something."""

    KIND: ClassVar[str] = "concordat/attributed/v1"

    round: Positive
    model: Digest
    attributions: tuple[Signed, ...]
    silent: tuple[Name, ...]
    cases: tuple[Case, ...]
    convicted: tuple[Conviction, ...]


@dataclass(frozen=True)
class Finish:
    """Last record: all rounds are done; `model` is the digest of the released model.

    It is the current one. Where the task has a search it is the newest model whose search was clean, or None.
    """

    KIND: ClassVar[str] = "concordat/finish/v1"

    model: Digest | None
    adopted: Natural | None


BODIES: dict[str, type[Any]] = {
    cls.KIND: cls
    for cls in (
        Genesis, Member, Roster, DealRecord, Epoch, CountsRecord, Plan, Challenge, Openings, Recheck, Decision,
        Sum, Trace, TraceOpenings, Outcome, Search, Searched, Clean, Finds, Attributed, Finish,
    )
}  # fmt: skip


def body_class(body: JsonObject) -> type[Any]:
    """The class of a record's body; raises MalformedMessage for a kind that this version does not know."""
    cls = BODIES.get(str(body.get("kind")))
    if cls is None:
        raise MalformedMessage(f"record of unknown kind {str(body.get('kind'))[:60]!r}; a newer version wrote this log")
    return cls
