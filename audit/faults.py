"""What the packages below may raise at a command line that is no defect: their errors say what to do."""

from __future__ import annotations


def is_ours(error: Exception) -> bool:
    """Whether audit, crypto or protos raised it."""
    from audit.errors import AuditError
    from crypto.errors import CryptoError
    from protos.errors import ProtocolError

    return isinstance(error, AuditError | CryptoError | ProtocolError)
