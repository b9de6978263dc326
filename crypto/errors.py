"""Errors of `crypto`. Nothing of ours is imported here."""


class CryptoError(Exception):
    """Base of all errors of `crypto`; the message says what to do and never holds a secret."""


class BadSignature(CryptoError):
    """Raised when a signature does not belong to these bytes and this key; drop the message and ask the sender."""


class BadCiphertext(CryptoError):
    """Raised for ciphertext bytes of wrong size, count, word range or Merkle root; fetch them again or void the round.

    Only public bytes are looked at before it is raised, so its message may say what is wrong.
    """


class OutOfRange(CryptoError):
    """Raised for a value of our own that cannot be encoded (shape, NaN, range); correct the input."""


class CheckFailed(CryptoError):
    """Raised when decrypted numbers fail a check. It tells the name of the check only, never a number.

    Report the name, decrypt nothing else of this round, keep the old model.
    """

    NAMES = ("whole", "range", "tags", "sketch", "digest")

    def __init__(self, name: str) -> None:
        if name not in self.NAMES:
            raise ValueError(f"there is no check named {name!r}")
        super().__init__(name)
        self.name = name


class SealBroken(CryptoError):
    """Raised when a sealed secret or model does not open here; it was sealed for someone or something else."""


class KeyMismatch(CryptoError):
    """Raised for key material of another kind, federation, epoch or parameter set; ask for the right one."""
