"""The sum decodes exactly; keys, noise and what a silo refuses to send."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crypto import tags
from crypto.ckks import NOISE_STD
from crypto.errors import KeyMismatch, OutOfRange
from crypto.packing import Packing
from crypto.secure_sum import SCHEME, PackedCkks, Protected, SiloSum, SumScheme, deal
from tests.crypto.conftest import (
    EPOCH,
    FEDERATION,
    PLAN,
    TOTAL_WEIGHT,
    make_layout,
    random_values,
)
from tests.crypto.sums import Fields, add_up, check, contributions, protect_all

# What must work


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_values_and_weights_decode_exactly(keys: SiloSum, small: Packing, data: st.DataObject) -> None:
    silos = data.draw(st.sampled_from([3, 4, 6, 20, 64]))
    total = data.draw(st.integers(8, TOTAL_WEIGHT))
    cuts = sorted(data.draw(st.lists(st.integers(0, total), min_size=silos - 1, max_size=silos - 1)))
    weights = [b - a for a, b in zip([0, *cuts], [*cuts, total], strict=True)]
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    extreme = data.draw(st.booleans())
    updates = [rng.choice([-127, 127], 100) if extreme else random_values(rng, 100) for _ in weights]
    parts = protect_all(keys, updates, small)
    opened = keys.open_sum(
        add_up(parts, weights), small, plan=PLAN, contributions=contributions(parts, weights), total_weight=total
    )
    assert opened.tolist() == [
        sum(w * int(u[k]) for w, u in zip(weights, updates, strict=True)) for k in range(small.size)
    ]


def test_all_silos_at_the_same_extreme_decode_exactly(keys: SiloSum, small: Packing) -> None:
    for value in (127, -127):
        parts = protect_all(keys, [np.full(100, value)] * 3, small)
        weights = [682, 171, 171]
        opened = keys.open_sum(
            add_up(parts, weights), small, plan=PLAN, contributions=contributions(parts, weights), total_weight=1024
        )
        assert set(opened.tolist()) == {value * 1024}


def test_honest_update_passes_step_five_and_the_trace(
    keys: SiloSum, secret: bytes, demo: Packing, update: Fields, protected: Protected
) -> None:
    check(keys, protected, update, demo)
    check(SiloSum(secret), protected, update, demo)
    check(keys, protected, None, demo)


def test_model_without_exact_output_passes(keys: SiloSum, rng: np.random.Generator) -> None:
    packing = Packing.of(make_layout(60, 0, 60), folds=2)
    fields = packing.to_fields(random_values(rng, 60))
    check(keys, keys.protect(fields, packing, plan=PLAN, silo="north"), fields, packing)


def test_extreme_update_passes_step_five(keys: SiloSum, demo: Packing) -> None:
    fields = demo.to_fields(np.full(demo.size, -127))
    check(keys, keys.protect(fields, demo, plan=PLAN, silo="north"), fields, demo)


def test_noise_under_all_weight_on_one_silo_is_within_the_bound(keys: SiloSum, demo: Packing) -> None:
    zero = np.zeros((demo.chunks, 8192), np.int64)
    part = keys.protect(zero, demo, plan=PLAN, silo="north")
    noise = keys._key.decrypt_all(add_up([part], [1024]))
    assert 0.96 * 1024 * NOISE_STD < noise.std() < 1.005 * 1024 * NOISE_STD
    assert np.abs(noise).max() < 6.5 * 1024 * NOISE_STD < 3 / 8


def test_two_protections_of_one_update_share_nothing(keys: SiloSum, demo: Packing, update: Fields) -> None:
    first, second = (keys.protect(update, demo, plan=PLAN, silo="north") for _ in range(2))
    assert not set(first.chunks) & set(second.chunks)
    assert not set(tags.parse(first.tags, 65)[1]) & set(tags.parse(second.tags, 65)[1])


def test_packed_ckks_is_a_scheme() -> None:
    scheme: SumScheme = PackedCkks()
    assert scheme.name == SCHEME == "ckks-4096-60-49/2^22/4x18/seeded"
    one = scheme.deal(FEDERATION, 1)
    assert scheme.join(one).key_check(FEDERATION, 1) == SiloSum(one).key_check(FEDERATION, 1)


# Keys


def test_key_checks_agree_exactly_when_all_secrets_do(secret: bytes, keys: SiloSum) -> None:
    value = keys.key_check(FEDERATION, EPOCH)
    assert SiloSum(secret).key_check(FEDERATION, EPOCH) == value
    other = json.loads(deal(FEDERATION, EPOCH))
    for name in ("ckks", "model", "tags"):
        mixed = json.dumps(json.loads(secret) | {name: other[name]}, sort_keys=True, separators=(",", ":"))
        assert SiloSum(mixed.encode()).key_check(FEDERATION, EPOCH) != value


def test_secrets_of_another_federation_or_epoch_are_refused(keys: SiloSum) -> None:
    for federation, epoch in [("banks", EPOCH), (FEDERATION, EPOCH + 1)]:
        with pytest.raises(KeyMismatch):
            keys.key_check(federation, epoch)


def test_damaged_secrets_are_refused(secret: bytes) -> None:
    blob = json.loads(secret)
    short = base64.b64encode(bytes(31)).decode()
    changes = [{"scheme": "other"}, {"tags": short}, {"model": short}, {"ckks": "AAAA"}, {"tags": 5}, {"more": 1}]
    damaged = [json.dumps(blob | change, sort_keys=True, separators=(",", ":")).encode() for change in changes]
    for bad in [b"", b"[]", b"5", b"garbage", secret[:-1], secret + b" ", *damaged]:
        with pytest.raises(KeyMismatch) as caught:
            SiloSum(bad)
        assert blob["tags"] not in str(caught.value)


def test_no_secret_stands_in_a_repr(secret: bytes, keys: SiloSum, protected: Protected) -> None:
    blob = json.loads(secret)
    shown = repr(keys) + str(keys) + repr(protected) + repr(PackedCkks())
    for name in ("ckks", "model", "tags"):
        raw = base64.b64decode(blob[name])
        for text in (blob[name][:16], raw.hex()[:16], repr(raw[:8])[2:-1]):
            assert text not in shown
    assert protected.tags.hex()[:16] not in shown


# What a silo must refuse to send


def test_update_out_of_range_is_not_protected(keys: SiloSum, demo: Packing, update: Fields) -> None:
    for place, value in [((0, 0), 128), ((64, 0), -128), ((0, 33), 1), ((64, 330), 1), ((0, 0), 2**40)]:
        bad = update.copy()
        bad[place] = value
        with pytest.raises(OutOfRange):
            keys.protect(bad, demo, plan=PLAN, silo="north")
    with pytest.raises(OutOfRange):
        keys.protect(update[:-1], demo, plan=PLAN, silo="north")
