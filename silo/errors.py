"""Errors of a silo. Nothing of ours is imported here."""


class SiloError(Exception):
    """Base of all errors of `silo`; the message is one line that says what to do."""


class BadData(SiloError):
    """Raised for records that do not fit the task or are not finite; correct the data file, nothing was charged."""


class BadExtractor(SiloError):
    """Raised for a file of fixed features that is damaged or not the task's; fetch the one that the task names."""


class BadTask(SiloError):
    """Raised for a task description with missing, unknown or ill-valued entries; correct the named entry."""


class UnsuitableModel(SiloError):
    """Raised for a model that cannot be trained privately here; the message names the layer and its replacement."""


class BudgetExhausted(SiloError):
    """Raised before a charge that the budget does not cover; participation with these data ends."""


class LedgerBehind(SiloError):
    """Raised when the log shows receipts that the ledger lacks (a restored backup); restore the newest ledger."""


class LedgerConflict(SiloError):
    """Raised for a second, different charge or release under one key; a defect or a replay, nothing is changed."""


class LedgerUnusable(SiloError):
    """Raised when the ledger cannot be read or written (disk full, damaged, locked); nothing may be released."""


class TestEntropyRefused(SiloError):
    """Raised when production code is given randomness that is not the operating system's; use `OsEntropy`."""

    __test__ = False


class ImpossiblePrivacyTarget(SiloError):
    """Raised when no training noise meets the budget; the message names the least possible ε."""
