"""Errors of the coordinator. Nothing of ours is imported here."""


class CoordinatorError(Exception):
    """Base of all errors of `coordinator`; the message is one line that says what to do."""


class NotEnrolled(CoordinatorError):
    """Raised for a peer that no certificate of this federation proves to be a member; enrol with an invitation."""


class RejectedMessage(CoordinatorError):
    """Raised for a message that does not fit the phase or its sender; the silo must correct it, not send it again."""


class NoSuchBlob(CoordinatorError):
    """Raised for a digest that the coordinator does not hold or has deleted at the close of its round."""


class BadBlob(CoordinatorError):
    """Raised for uploaded bytes that are too long or are not those of the digest; nothing of them was kept."""


class BadRequest(CoordinatorError):
    """Raised for a request that cannot be read: wrong form, beyond a limit, or of a newer version."""


class TokenRefused(CoordinatorError):
    """Raised for an invitation that is unknown, used, expired or another silo's; ask the operator for a new one."""


class CertificateRefused(CoordinatorError):
    """Raised for a certificate request or certificate that the authority does not stand by; nothing was issued."""


class StoreError(CoordinatorError):
    """Raised when state cannot be read or written (disk full, damaged, locked); nothing acknowledged is lost."""


class AlreadyRunning(CoordinatorError):
    """Raised when another process serves the directory or holds the port; stop it or choose another."""


class BadDirectory(CoordinatorError):
    """Raised for a directory that is not a coordinator's, already is one, or lacks a file; the message names it."""


class NotRunning(CoordinatorError):
    """Raised when a running coordinator is needed and there is none; start it with `serve`."""


class NotReady(CoordinatorError):
    """Raised for a start of training that lacks a silo; the message names it."""


class BadPolicy(CoordinatorError):
    """Raised for a policy with unknown or ill-valued entries; correct the named entry."""


class BadTask(CoordinatorError):
    """Raised for a task directory that lacks a file or whose model is not the task's; pack the task again."""
