"""Errors of the red team. Nothing of ours is imported here."""


class RedTeamError(Exception):
    """Base of all errors of `redteam`; the message is one line that says what to do."""


class BadAttack(RedTeamError):
    """Raised for an attack whose settings or knowledge do not suffice; correct the named knob."""


class MissingData(RedTeamError):
    """Raised when the data directory lacks a file; the message says which one and how to get it."""


class BadDataFile(RedTeamError):
    """Raised for a data file that is damaged or of another kind; the message says how to get it again."""


class BadPartition(RedTeamError):
    """Raised when records cannot be split as asked; ask for fewer silos, or smaller ones."""


class BadScenario(RedTeamError):
    """Raised for a scenario or sweep that cannot be run; the message names the key and what it may be."""


class Endless(RedTeamError):
    """Raised when turns go by and training does not end: too few silos are left for a quorum, or agree on a model."""


class SweepFailed(RedTeamError):
    """Raised when the machinery of a sweep fails, not a cell of it; what is finished is kept, so run it again."""
