"""Errors of `audit`. Nothing of ours is imported here."""


class AuditError(Exception):
    """Base of all errors of `audit`; the message says what does not hold and where."""


class BrokenLog(AuditError):
    """Raised when the chain of records does not hold: changed, removed, reordered, forked or cut; get another copy."""


class InvalidRecord(AuditError):
    """Raised when a record breaks the protocol or the policy: whoever wrote the log is at fault."""


class RejectedSubmission(AuditError):
    """Raised when a silo's message does not fit the round that it answers; that silo must correct it."""


class InvalidCertificate(AuditError):
    """Raised when a fairness certificate does not follow from the log, or is of another log or model."""


class UnreadableInput(AuditError):
    """Raised when a file (log, head, key, certificate, model) is missing or not of its form; check the path given."""


class UnwritableLog(AuditError):
    """Raised when the disk refuses a record or a head; nothing was added, make room and append again."""
