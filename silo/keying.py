"""Key epochs at a silo: deal as the steward, confirm as a member, seal the model for who comes late.

Nothing is dealt to, or accepted with, a member whose fingerprint the operator has not approved.
"""

from __future__ import annotations

import hashlib

from audit.history import History
from crypto import sealing
from crypto.errors import CryptoError, KeyMismatch
from crypto.identity import fingerprint
from crypto.quantise import model_view
from crypto.scheme import SumKeys
from protos.codec import decode
from protos.messages import Deal, KeyCheck, SealedSecret
from silo.desk import Desk, NotYet, SitOut


def member_fingerprint(history: History, silo: str) -> str:
    """What the log says a member's fingerprint is."""
    member = history.members[silo]
    return fingerprint(member.name, member.signing_key, member.exchange_key)


def _require_approved(desk: Desk, history: History, members: tuple[str, ...]) -> None:
    approved = desk.approved()
    for silo in members:
        own = silo == desk.identity.name
        if not own and approved.get(silo) != member_fingerprint(history, silo):
            known = "another fingerprint is approved" if silo in approved else "it is not approved"
            raise NotYet(f"waiting for approval of {silo}: {known}; compare fingerprints by phone, then `approve`")


def deal(desk: Desk, history: History) -> Deal:
    roster = history.roster
    assert roster is not None
    _require_approved(desk, history, roster.members)
    federation = history.genesis.federation
    secret = desk.scheme.deal(federation, roster.epoch)
    sealed = tuple(
        SealedSecret(
            silo,
            member_fingerprint(history, silo),
            sealing.seal(
                secret, history.members[silo].exchange_key, federation=federation, epoch=roster.epoch, silo=silo
            ),
        )
        for silo in roster.members
    )
    return Deal(federation, history.roster_digest, roster.epoch, desk.scheme.name, sealed)


def confirm(desk: Desk, history: History) -> KeyCheck:
    roster, name = history.roster, desk.identity.name
    assert roster is not None
    assert history.deal is not None
    _require_approved(desk, history, roster.members)
    deal = decode(Deal, history.deal.deal.body)
    federation = history.genesis.federation
    (own,) = [item for item in deal.secrets if item.silo == name]
    try:
        if any(item.fingerprint != member_fingerprint(history, item.silo) for item in deal.secrets):
            raise KeyMismatch("the deal names another fingerprint than the log: the steward sealed for somebody else")
        secret = sealing.unseal(
            own.sealed, desk.identity.exchange, federation=federation, epoch=roster.epoch, silo=name
        )
        keys = desk.scheme.join(secret)
        value = keys.key_check(federation, roster.epoch)
    except CryptoError:
        # Silence would cost us our seat, not the steward his: a value that nobody else can have changes the steward.
        alone = hashlib.sha256(f"unusable/{history.deal_digest}/{name}".encode()).hexdigest()
        return KeyCheck(federation, history.deal_digest, roster.epoch, alone, None)
    desk.workspace.save_secret(roster.epoch, secret)
    return KeyCheck(federation, history.deal_digest, roster.epoch, value, _sealed_current(desk, history, keys))


def _sealed_current(desk: Desk, history: History, keys: SumKeys) -> str | None:
    """Digest of the current model sealed for the new epoch, None before any round or without the model."""
    if not history.rounds or not desk.workspace.has_model(history.model):
        return None
    return hashlib.sha256(sealed_model(desk, history, keys, history.model)).hexdigest()


def sealed_model(desk: Desk, history: History, keys: SumKeys, digest: str) -> bytes:
    """A model of ours sealed under the keys' model secret, as of the last round; every holder makes the same bytes."""
    model = desk.workspace.load_model(history.genesis.task.layout.size, digest)
    if model is None:
        raise SitOut("the model is not here")
    return sealing.seal_model(model_view(model), keys.model_secret, round=len(history.rounds), digest=digest)
