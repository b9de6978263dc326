"""Ten thousand random small federations against plain integers: sums, folds, sketches, tags and the new model.

A thousand go the whole way with a layout of their own; nine thousand are one chunk each, so that weights and numbers
of silos get more draws. The oracle knows Python's integers and nothing of rings, slots or fields.
"""

from __future__ import annotations

import numpy as np
import pytest

from crypto import ring, tags
from crypto.packing import FIELDS_PER_CHUNK, LEVELS, MAX_MULTIPLE, Packing, pack, unpack
from crypto.quantise import apply_aggregate
from crypto.scheme import BFV_SCHEME
from crypto.secure_sum import SiloSum, deal
from crypto.sketch import rows, signs, sketch, trace_signs
from crypto.tags import Contribution
from tests.crypto.conftest import PLAN, KeepingBfv, KeepingSum, make_layout
from tests.crypto.sums import add_up, contributions, fails, fold, protect_all

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(3600)]

WHOLE, SINGLE, BATCH = 1000, 9000, 100


def draw_weights(rng: np.random.Generator, silos: int) -> list[int]:
    """Any weights with any total up to what a field holds, zeros and all on one silo included."""
    total = int(rng.integers(1, MAX_MULTIPLE + 1))
    cuts = sorted(int(cut) for cut in rng.integers(0, total + 1, silos - 1))
    return [b - a for a, b in zip([0, *cuts], [*cuts, total], strict=True)]


def draw_values(rng: np.random.Generator, size: int) -> list[int]:
    """Quantised values: of the whole range, small, or extreme."""
    kind = rng.integers(3)
    drawn = rng.integers(-LEVELS, LEVELS + 1, size) if kind == 0 else rng.integers(-2, 3, size)
    return [int(v) for v in (rng.choice([-LEVELS, LEVELS], size) if kind == 2 else drawn)]


@pytest.fixture
def own_keys(request: pytest.FixtureRequest) -> SiloSum:
    """Fresh keys for every batch, of BFV in every third."""
    if request.node.callspec.params["batch"] % 3 == 2:
        return KeepingBfv(deal("nightly", 1, BFV_SCHEME))
    return KeepingSum(deal("nightly", 1))


@pytest.mark.parametrize("batch", range(WHOLE // BATCH))
def test_whole_federations_agree_with_plain_integers(own_keys: SiloSum, batch: int) -> None:
    rng = np.random.default_rng([1, batch])
    for _ in range(BATCH):
        size, folds = int(rng.integers(4, 400)), int(rng.integers(2, 4))
        output = int(rng.integers(1, size + 1))
        packing = Packing.of(make_layout(size, int(rng.integers(0, size - output + 1)), output), folds)
        silos = int(rng.integers(2, 6))
        weights = draw_weights(rng, silos)
        plain = [draw_values(rng, size) for _ in range(silos)]
        parts = protect_all(own_keys, [np.array(values) for values in plain], packing)
        expected = [sum(w * values[k] for w, values in zip(weights, plain, strict=True)) for k in range(size)]
        facts = contributions(parts, weights)
        opened = own_keys.open_sum(
            add_up(parts, weights), packing, plan=PLAN, contributions=facts, total_weight=sum(weights)
        )
        assert opened.tolist() == expected
        _check_one(own_keys, packing, plain[0], parts[0], rng)
        model = rng.standard_normal(size).astype(np.float32)
        step, total = int(rng.integers(-20, 1)), sum(weights)
        new = apply_aggregate(model, opened, step, total)
        naive = [np.float32(float(g) + 2.0**step * a / total) for g, a in zip(model, expected, strict=True)]
        assert new.tolist() == [float(value) for value in naive]


def _check_one(keys: SiloSum, packing: Packing, values: list[int], part: object, rng: np.random.Generator) -> None:
    """One silo's sketch by plain integers, its folds and trace rows, and one lie about each."""
    drawn = signs(rng.bytes(32), packing.folds, packing.body_chunks)
    said = sketch(packing.to_fields(np.array(values)), packing, drawn)
    naive = [[0] * packing.width for _ in range(packing.folds)]
    for value, place in zip(values, packing.places.tolist(), strict=True):
        chunk, column = divmod(place, FIELDS_PER_CHUNK)
        for fold_ in range(packing.folds if chunk < packing.body_chunks else 0):
            naive[fold_][column] += int(drawn[fold_, chunk]) * value
    assert said[0].tolist() == naive
    matrix = rows(drawn, packing)
    facts = {"plan": PLAN, "silo": "silo-0", "tags": part.tags}  # type: ignore[attr-defined]
    folded = fold(part.chunks, matrix)  # type: ignore[attr-defined]
    keys.check_folded(folded, matrix, packing, sketch=said, **facts)
    trace = trace_signs(rng.bytes(32), 4, packing.chunks)
    keys.check_folded(fold(part.chunks, trace), trace, packing, sketch=None, **facts)  # type: ignore[attr-defined]
    said[0][rng.integers(packing.folds), rng.integers(packing.width)] += 1
    with fails("sketch"):
        keys.check_folded(folded, matrix, packing, sketch=said, **facts)


@pytest.mark.parametrize("batch", range(SINGLE // (10 * BATCH)))
def test_single_chunks_of_federations_agree_with_plain_integers(own_keys: SiloSum, batch: int) -> None:
    rng = np.random.default_rng([2, batch])
    key, secret = own_keys._key, b"n" * 32
    largest = 0.0
    for _ in range(10 * BATCH):
        silos = int(rng.integers(2, 9))
        weights = draw_weights(rng, silos)
        fields = np.stack([draw_values(rng, FIELDS_PER_CHUNK) for _ in range(silos)])
        expected = (np.array(weights, dtype=object) @ fields.astype(object)).tolist()
        (total,) = ring.weighted_sum([[ring.parse_fresh(key.encrypt(pack(row)))] for row in fields], weights)
        slots = key.decrypt(total)
        got = unpack(np.rint(slots).astype(np.int64)[None])
        assert got[0].tolist() == expected
        largest = max(largest, float(np.abs(slots - np.rint(slots)).max()) / float(np.linalg.norm(weights)))
        made = [
            Contribution(f"s{i}", w, tags.tag(row[None], secret, plan=PLAN, silo=f"s{i}", salt=rng.bytes(32)))
            for i, (w, row) in enumerate(zip(weights, fields, strict=True))
        ]
        tags.verify_sum(got, secret, plan=PLAN, contributions=made)
        got[0, rng.integers(FIELDS_PER_CHUNK)] += rng.choice([-1, 1])
        with fails("tags"):
            tags.verify_sum(got, secret, plan=PLAN, contributions=made)
    # Four million slots: the bound gives 4.1e6 * 2 exp(-6.5^2 / 2) = 0.006, a Gaussian 0.0003.
    assert largest < 6.5 * key.noise_std
