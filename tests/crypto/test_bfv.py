"""BFV behind the same interface: SEAL's own BFV as an oracle, a noise that is bounded, and the same checks."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tenseal import sealapi

from crypto import ckks, ring
from crypto.bfv import LARGEST_NOISE, SCALE_LOG2, BfvKey, BfvSum, PackedBfv
from crypto.ckks import MAX_SLOT, Transform
from crypto.ckks_key import key_words
from crypto.errors import BadCiphertext, KeyMismatch, OutOfRange
from crypto.packing import Packing, pack
from crypto.scheme import BFV_SCHEME
from crypto.secure_sum import PackedCkks, Protected
from crypto.tags import tag
from redteam.simulator import Seat
from tests.crypto.conftest import EPOCH, FEDERATION, PLAN, KeepingBfv, encrypt_reals, random_values
from tests.crypto.sums import Fields, add_up, check, contributions, fails, protect_all
from tests.integration.federation import SILOS, federation, records

T = 2**37


@pytest.fixture(scope="module")
def bfv_key(seed: bytes) -> BfvKey:
    loaded = BfvKey.load(seed)
    assert isinstance(loaded, BfvKey)
    return loaded


@pytest.fixture(scope="module")
def bfv_keys() -> BfvSum:
    return KeepingBfv(PackedBfv().deal(FEDERATION, EPOCH))


def seal_bfv_reads(seed: bytes, words: ring.Words, directory: Path) -> NDArray[np.int64]:
    """A chunk decrypted by SEAL's BFV with plain modulus 2^37, which is q/2^23 but for one part in 2^46."""
    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV)
    parameters.set_poly_modulus_degree(4096)
    parameters.set_coeff_modulus(sealapi.CoeffModulus.Create(4096, [60, 49]))
    parameters.set_plain_modulus(T)
    context = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)
    path, secret = directory / "object", sealapi.SecretKey()
    key = struct.pack("<4Q", *context.key_parms_id()) + ckks._KEY_HEAD[32:] + key_words(seed).astype("<u8").tobytes()
    path.write_bytes(ckks._seal(key))
    secret.load(context, str(path))
    # Not transformed, as SEAL's BFV has its ciphertexts.
    plain = np.concatenate([Transform().inverse(words[:4096]), Transform().inverse(words[4096:])])
    head = struct.pack("<4Q", *context.first_parms_id()) + b"\0" + ckks._BFV_TAIL
    path.write_bytes(ckks._seal(head + ring.to_bytes(plain)))
    cipher, message = sealapi.Ciphertext(context), sealapi.Plaintext()
    cipher.load(context, str(path))
    sealapi.Decryptor(context, secret).decrypt(cipher, message)
    found = np.array([message[index] for index in range(message.coeff_count())], dtype=np.int64)
    found = np.concatenate([found, np.zeros(4096 - found.size, np.int64)])
    return np.where(found >= T // 2, found - T, found)


def test_seals_own_bfv_reads_a_chunk_and_a_sum(
    bfv_key: BfvKey, seed: bytes, rng: np.random.Generator, tmp_path: Path
) -> None:
    slots = [rng.integers(-(2**24), 2**24, 4096) for _ in range(2)]
    words = [ring.parse_fresh(bfv_key.encrypt(one)) for one in slots]
    assert np.array_equal(seal_bfv_reads(seed, words[0], tmp_path), slots[0])
    (total,) = ring.weighted_sum([[one] for one in words], [700, 324])
    assert np.array_equal(seal_bfv_reads(seed, total, tmp_path), 700 * slots[0] + 324 * slots[1])


def test_transform_and_its_inverse_agree_with_the_product_of_polynomials(rng: np.random.Generator) -> None:
    transform, power = Transform(), 5
    values = rng.integers(0, ring.Q, 4096, dtype=np.uint64)
    assert np.array_equal(transform.inverse(transform.forward(values)), values)
    monomial = np.zeros(4096, np.uint64)
    monomial[power] = 1
    product = [
        int(a) * int(b) % ring.Q for a, b in zip(transform.forward(values), transform.forward(monomial), strict=True)
    ]
    # Times X^5 modulo X^4096 + 1.
    shifted = np.roll(values, power)
    shifted[:power] = np.uint64(ring.Q) - shifted[:power]
    assert np.array_equal(transform.inverse(np.array(product, np.uint64)), shifted)


def test_noise_is_bounded_and_has_the_variance_of_the_library(bfv_key: BfvKey, rng: np.random.Generator) -> None:
    slots = rng.integers(-(2**24), 2**24, (50, 4096))
    noise = np.array([bfv_key.decrypt(ring.parse_fresh(bfv_key.encrypt(row))) - row for row in slots]) * 2**SCALE_LOG2
    assert np.array_equal(noise, np.rint(noise))
    assert np.abs(noise).max() <= LARGEST_NOISE
    # 204,800 draws of variance 10.5: five standard errors.
    assert abs(noise.var() - LARGEST_NOISE / 2) < 5 * 10.5 * (2 / noise.size) ** 0.5


def test_all_weight_on_one_silo_is_off_by_less_than_three_thousandths(bfv_key: BfvKey) -> None:
    extreme = np.resize([1, -1], 4096) * 127 * (1 + 2**18)
    words = ring.parse_fresh(bfv_key.encrypt(extreme))
    (total,) = ring.weighted_sum([[words]], [1032])
    assert (
        np.abs(bfv_key.decrypt(total) - 1032 * extreme).max() <= LARGEST_NOISE * 1032 / 2**SCALE_LOG2 + 2.0**-17 < 0.003
    )


def test_slots_at_the_limit_are_exact_and_beyond_refused(bfv_key: BfvKey) -> None:
    extreme = np.resize([MAX_SLOT - 1, 1 - MAX_SLOT], 4096)
    assert np.array_equal(np.rint(bfv_key.decrypt(ring.parse_fresh(bfv_key.encrypt(extreme)))), extreme)
    with pytest.raises(OutOfRange):
        bfv_key.encrypt(np.full(4096, MAX_SLOT))


def test_any_values_and_weights_decode_exactly(bfv_keys: BfvSum, small: Packing, rng: np.random.Generator) -> None:
    updates = [random_values(rng, 100), rng.choice([-127, 127], 100), np.full(100, 127)]
    parts = protect_all(bfv_keys, updates, small)
    for weights in ([1024, 0, 0], [682, 171, 171], [1, 2, 3]):
        facts = contributions(parts, weights)
        opened = bfv_keys.open_sum(
            add_up(parts, weights), small, plan=PLAN, contributions=facts, total_weight=sum(weights)
        )
        assert np.array_equal(opened, sum(w * update for w, update in zip(weights, updates, strict=True)))


def test_honest_update_passes_the_folds_and_the_trace(bfv_keys: BfvSum, demo: Packing, update: Fields) -> None:
    made = bfv_keys.protect(update, demo, plan=PLAN, silo="north")
    check(bfv_keys, made, update, demo)
    check(bfv_keys, made, None, demo)


@pytest.mark.parametrize("shift", [0.5, 0.3, 2e-4, 2e-5])
def test_fraction_that_ckks_would_forgive_is_caught(
    bfv_keys: BfvSum, demo: Packing, update: Fields, shift: float
) -> None:
    slots = pack(update).astype(np.float64)
    slots[20, 4] += shift
    chunks = [encrypt_reals(bfv_keys._key, row) for row in slots]
    tags = tag(update, bfv_keys._tag_secret, plan=PLAN, silo="north", salt=bytes(32))
    with fails("whole"):
        check(bfv_keys, Protected(chunks, tags), update, demo)


def test_false_sketch_and_foreign_tags_are_caught(bfv_keys: BfvSum, demo: Packing, update: Fields) -> None:
    made = bfv_keys.protect(update, demo, plan=PLAN, silo="north")
    other = update.copy()
    other[3, 3] += 1 if other[3, 3] < 0 else -1
    with fails("sketch"):
        check(bfv_keys, made, other, demo)
    with fails("tags"):
        check(bfv_keys, made, update, demo, silo="south")


def test_the_two_schemes_do_not_read_each_other(bfv_keys: BfvSum, demo: Packing, update: Fields) -> None:
    with pytest.raises(KeyMismatch, match="2x18"):
        PackedBfv().join(PackedCkks().deal(FEDERATION, EPOCH))
    with pytest.raises(KeyMismatch, match="4x18"):
        PackedCkks().join(PackedBfv().deal(FEDERATION, EPOCH))
    with pytest.raises(BadCiphertext):
        bfv_keys._key.decrypt_all([b""])


def test_library_of_other_formats_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ckks, "_BFV_TAIL", bytes(len(ckks._BFV_TAIL)))
    with pytest.raises(KeyMismatch):
        BfvKey.load(bytes(32))


@pytest.mark.integration
def test_federation_under_bfv_adopts_every_round(tmp_path: Path) -> None:
    seats = {name: Seat(records(index), scheme=PackedBfv) for index, name in enumerate(SILOS)}
    history = federation(tmp_path, seats, rounds=2).run()
    assert history.deal is not None
    assert history.deal.deal.body["scheme"] == BFV_SCHEME
    results: list[Any] = [view.outcome.result for view in history.rounds if view.outcome]
    assert results == ["adopted", "adopted"]
