"""Errors of the defences. Nothing of ours is imported here."""


class DefenseError(Exception):
    """Base of all errors of `defenses`; the message says what to do."""


class UnknownDefense(DefenseError):
    """Raised for a defence that the registry does not hold; choose one of those that the message names."""


class InfeasibleWeights(DefenseError):
    """Raised where no integer weights obey floor, cap and total; widen the policy, or let more silos take part."""


class WrongWeights(DefenseError):
    """Raised for weights on record that break floor, cap or total; do not adopt the sum that they make."""


class MalformedExhibit(DefenseError):
    """Raised for an exhibit whose arrays do not fit the setting; reject the opening that it came from."""
