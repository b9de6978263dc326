"""Errors of the vocabulary. Nothing of ours is imported here."""


class ProtocolError(Exception):
    """Base of all errors of `protos`; the message says what to do."""


class MalformedMessage(ProtocolError):
    """Raised for bytes that are not one canonical message of the expected kind; ask the sender, do not repair."""


class LocalProtocolError(ProtocolError):
    """Raised for our own misuse of the protocol, such as a record out of the table's order; a defect in the caller."""


class RemoteProtocolError(ProtocolError):
    """Raised when a peer breaks the protocol; the message names the peer's fault."""
