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


class NeedsPlaintext(UnknownDefense):
    """Raised for an aggregation rule named as a defence: it changes single updates, which nobody may read; choose a
    weighting rule, or run the rule on plaintext updates in the simulator."""


class NeedsArgument(UnknownDefense):
    """Raised for a weighting rule that reads something which is in no log; register an instance that was given it."""


class MissingEvidence(DefenseError):
    """Raised where a round lacks what a rule reads, such as the exact output layer; choose another defence."""


class TooFewSilos(DefenseError):
    """Raised where a rule's bound on liars leaves too few silos; let more silos take part, or assume fewer liars."""
