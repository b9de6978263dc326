"""The defence on real digits: the honest are left alone, the attacker is not."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from defenses.decide import decide
from defenses.evidence import Earlier, Exhibit, Setting, earlier_of
from protos.records import Judgement
from tests.defenses.digits import ATTACKER, rounds
from tests.defenses.simulate import COUNTS, DEMO, direction, drawn, exhibit_of, honest


def decided(seed: int, number: int, boost: float | None = None) -> list[dict[str, Judgement]]:
    history: list[Earlier] = []
    for setting, exhibits in rounds(seed, number, boost):
        history.append(earlier_of(setting, exhibits, decide(setting, exhibits, "guard", {}, history)))
    return [{one.silo: one for one in earlier.judgements} for earlier in history]


def test_honest_digits_are_never_excluded_and_rarely_suspected() -> None:
    verdicts = Counter((silo, one.verdict) for found in decided(11, 40) for silo, one in found.items())
    for silo in COUNTS:
        assert verdicts[silo, "excluded"] == 0
        assert verdicts[silo, "suspected"] <= 2


@pytest.mark.parametrize("boost", [2, 8, 12])
def test_backdoor_by_a_scaled_update_is_excluded_in_every_round(boost: float) -> None:
    for found in decided(12, 12, boost):
        assert found[ATTACKER].verdict == "excluded"
        assert found[ATTACKER].weight == 0
        assert all(found[silo].verdict != "excluded" for silo in COUNTS if silo != ATTACKER)


def test_boost_inside_the_law_is_suspected_and_held_near_the_floor() -> None:
    found = [judged[ATTACKER] for judged in decided(13, 12, 5)]
    assert all(one.verdict in ("suspected", "excluded") for one in found)
    assert all(one.weight <= 110 for one in found)


def test_two_thousand_honest_silo_rounds_lose_no_more_than_the_level(rng: np.random.Generator) -> None:
    rounds_made, struck = 340, 0
    for _ in range(rounds_made):
        setting = drawn(DEMO, rng)
        shown = [honest(setting, silo, count, rng) for silo, count in COUNTS.items()]
        struck += any(one.verdict == "excluded" for one in decide(setting, shown, "guard", {}))
    # 0.01 of the rounds at most; 10 of 340 would come by chance once in a thousand times.
    assert struck <= 10


def test_reason_says_number_bound_and_p(setting: Setting, exhibits: list[Exhibit], rng: np.random.Generator) -> None:
    size = setting.body_size + setting.output_size
    exhibits[3] = exhibit_of(setting, "d150", 150, 40 * direction(size, rng), rng)
    exhibits[4] = exhibit_of(setting, "e100", 100, np.zeros(size), rng)
    reasons = {one.silo: one.reason for one in decide(setting, exhibits, "guard", {}) if one.verdict == "excluded"}
    assert re.fullmatch(r"norm 4\d\.\d is above the bound 7\.4 that clipping gives, p < 1e-1[45]", reasons["d150"])
    assert re.fullmatch(r"norm 0\.0 is below the 9\.3 that the noise alone makes, p < 1e-1[45]", reasons["e100"])


def test_output_update_off_the_prototypes_is_suspected_only_with_prototypes(
    round_with_prototypes: tuple[Setting, list[Exhibit]], rng: np.random.Generator
) -> None:
    setting, exhibits = round_with_prototypes
    output = exhibits[2].output.copy()
    output += np.rint(1.8 / setting.step * direction(output.size, rng)).astype(np.int64)
    exhibits[2] = replace(exhibits[2], output=output)
    judged = decide(setting, exhibits, "guard", {})
    assert [one.silo for one in judged if one.verdict == "suspected"] == ["silo2"]
    assert "explained by no class prototype" in judged[2].reason
    blind = decide(replace(setting, prototype_noise=0.0), exhibits, "guard", {})
    assert all(one.verdict == "retained" for one in blind)
