"""What the demonstration trains and by which rules."""

from __future__ import annotations

import tomllib

from coordinator.policy import policy_from
from protos.task import Policy
from redteam.digits import Digits, Split

PUBLIC = 100
"""Of the images that no silo has, so many are public: the root set of searches. The others test the model."""

POLICY = """\
quorum_minimum = 3
privacy_minimum = 3
floor = 0.5
cap = 2
fdr = 0.01
defense = "guard"

[deadlines]
commit_s = 60
open_s = 30
check_s = 30
verify_s = 30
"""

_SPEC = """\
# Everything else follows: the noise of DP-SGD is solved for the whole plan.
name = "digits"
rounds = {rounds}
sample_rate = 0.5
steps = 1
learning_rate = 2.5
clip = 1.0
evaluation_noise = 2.0
evaluation_every = {rounds}
counts_noise = 6.0
epsilon = 7.95
delta = 0.0001
range = 0.99
folds = 8

[model]
kind = "mlp"
sizes = [64, 32, 10]
activation = "tanh"

[prototypes]
clip = 4.0
noise = 6.8
every = 2
"""


def spec(rounds: int) -> str:
    """The task's description, for `concordat-silo task pack`."""
    return _SPEC.format(rounds=rounds)


def public_and_test(data: Digits) -> tuple[Split, Split]:
    """The public root set and the test set."""
    features, labels = data.test
    return (features[:PUBLIC], labels[:PUBLIC]), (features[PUBLIC:], labels[PUBLIC:])


def policy(defense: str) -> Policy:
    """The demonstration's policy with another defence."""
    return policy_from(tomllib.loads(POLICY) | {"defense": defense})
