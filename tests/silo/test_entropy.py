import pytest

from silo.entropy import OsEntropy, require_operating_system
from silo.errors import TestEntropyRefused
from tests.silo.entropy import SeededEntropy


def test_operating_system_is_accepted_and_never_repeats() -> None:
    entropy = OsEntropy()
    require_operating_system(entropy)
    assert len(entropy.take(32)) == 32
    assert entropy.take(32) != entropy.take(32)


def test_seeded_entropy_is_refused_in_production() -> None:
    with pytest.raises(TestEntropyRefused, match="OsEntropy"):
        require_operating_system(SeededEntropy(1))


def test_seeded_entropy_that_claims_to_be_the_system_is_refused() -> None:
    class Liar(SeededEntropy):
        is_operating_system = True

    with pytest.raises(TestEntropyRefused):
        require_operating_system(Liar(1))
