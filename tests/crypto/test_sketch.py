"""The map R: linear, drawn from the seed, the same for fields, tags and ciphertext."""

from __future__ import annotations

import hashlib
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from crypto.errors import CheckFailed, OutOfRange
from crypto.packing import Packing
from crypto.sketch import checkers, from_bytes, rows, seed_of, signs, sketch, to_bytes, trace_signs
from tests.crypto.conftest import make_layout, random_values

SEED = bytes(range(32))
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "sketch.json").read_text())


def test_stored_vectors() -> None:
    seed = bytes.fromhex(VECTORS["seed"])
    assert signs(seed, 2, 16).tolist() == VECTORS["signs_2_16"]
    assert trace_signs(seed, 2, 17).tolist() == VECTORS["trace_2_17"]
    assert list(checkers(seed, "b", ("a", "b", "c", "d", "e", "f"))) == VECTORS["checkers_of_b_in_a_to_f"]


def test_seed_is_the_hash_of_nonce_and_list() -> None:
    assert seed_of("ab" * 32, b"list") == hashlib.sha256(b"\xab" * 32 + b"list").digest()


def test_signs_are_plus_and_minus_one_and_balanced() -> None:
    drawn = signs(SEED, 8, 1000)
    assert drawn.shape == (8, 1000)
    assert set(np.unique(drawn)) == {-1, 1}
    assert abs(int(drawn.sum())) < 6 * 8000**0.5


def test_sketch_of_a_weighted_sum_is_the_weighted_sum_of_sketches(demo: Packing, rng: np.random.Generator) -> None:
    drawn = signs(SEED, 8, demo.body_chunks)
    parts = [demo.to_fields(random_values(rng, demo.size)) for _ in range(4)]
    weights = (3, 100, 0, 921)
    whole = sketch(sum(w * x for w, x in zip(weights, parts, strict=True)), demo, drawn)  # type: ignore[arg-type]
    for k in range(2):
        total = sum(w * sketch(x, demo, drawn)[k].astype(np.int64) for w, x in zip(weights, parts, strict=True))
        assert np.array_equal(whole[k], total)


def test_sketch_is_the_sum_over_signed_coordinates(small: Packing, rng: np.random.Generator) -> None:
    values = random_values(rng, 100)
    drawn = signs(SEED, 2, small.body_chunks)
    expected = [[0] * small.width for _ in range(2)]
    for value, place in zip(values.tolist(), small.places.tolist(), strict=True):
        chunk, column = divmod(place, 8192)
        if chunk < small.body_chunks:
            for f in range(2):
                expected[f][column] += int(drawn[f, chunk]) * value
    folds, output = sketch(small.to_fields(values), small, drawn)
    assert folds.tolist() == expected
    assert output.tolist() == values[40:60].tolist()
    assert folds.dtype == output.dtype == np.int32


def test_sketch_of_a_model_without_exact_output_is_folds_only(rng: np.random.Generator) -> None:
    packing = Packing.of(make_layout(60, 0, 60), folds=2)
    folds, output = sketch(packing.to_fields(random_values(rng, 60)), packing, signs(SEED, 2, packing.body_chunks))
    assert folds.shape == (2, packing.width)
    assert output.shape == (0,)


def test_opposite_chunks_hide_in_all_folds_as_often_as_their_signs_agree() -> None:
    hidden = 0
    for trial in range(600):
        drawn = signs(trial.to_bytes(4, "little"), 3, 16)
        hidden += bool((drawn[:, 0] == drawn[:, 1]).all())
    # 600 trials of 1/8: mean 75, standard deviation 8.1.
    assert 75 - 6 * 8.1 < hidden < 75 + 6 * 8.1


def test_rows_fold_the_body_and_keep_output_chunks_apart(demo: Packing) -> None:
    matrix = rows(signs(SEED, 8, 64), demo)
    assert matrix.shape == (9, 65)
    assert not matrix[:8, 64].any()
    assert matrix[8].tolist() == [0] * 64 + [1]
    with pytest.raises(OutOfRange):
        rows(signs(SEED, 8, 65), demo)


def test_trace_rows_hold_at_least_eight_chunks_and_leave_some_out() -> None:
    drawn = trace_signs(SEED, 200, 17)
    members = np.count_nonzero(drawn, axis=1)
    assert set(np.unique(drawn)) == {-1, 0, 1}
    assert 8 <= members.min() < members.max() < 17
    assert np.count_nonzero(trace_signs(SEED, 3, 5)) == 15


@pytest.mark.parametrize("halves", [(0,), (0, 1), (3, 9, 30, 31), tuple(range(64)), tuple(range(65))])
def test_halves_on_any_chunks_are_odd_in_about_half_of_the_trace_rows(halves: tuple[int, ...]) -> None:
    drawn = trace_signs(SEED, 1000, 65)
    odd = int((np.count_nonzero(drawn[:, list(halves)], axis=1) % 2).sum())
    assert abs(odd - 500) < 6 * 250**0.5


def test_checkers_are_three_distinct_others_and_change_with_seed_and_subject() -> None:
    silos = tuple(f"silo-{i}" for i in range(12))
    drawn = {}
    for subject, number in [(s, n) for s in silos for n in range(20)]:
        chosen = checkers(bytes([number]), subject, silos)
        assert len(set(chosen)) == 3
        assert subject not in chosen
        drawn[subject, number] = frozenset(chosen)
    assert all(len({drawn[s, n] for n in range(20)}) > 10 for s in silos)
    assert len({drawn[s, 0] for s in silos}) > 6
    assert {pair for chosen in drawn.values() for pair in combinations(sorted(chosen), 2)}


def test_checkers_do_not_depend_on_the_order_and_may_be_fewer_than_three() -> None:
    assert checkers(SEED, "b", ("c", "a", "b", "e", "d")) == checkers(SEED, "b", ("a", "b", "c", "d", "e"))
    assert set(checkers(SEED, "b", ("a", "b", "c"))) == {"a", "c"}


def test_sketch_bytes_come_back_and_other_lengths_are_refused(demo: Packing, rng: np.random.Generator) -> None:
    folds, output = sketch(demo.to_fields(random_values(rng, 2410)), demo, signs(SEED, 8, 64))
    data = to_bytes(folds, output)
    back = from_bytes(*data, demo, 8)
    assert np.array_equal(back[0], folds)
    assert np.array_equal(back[1], output)
    for bad in [(data[0][:-4], data[1]), (data[0], data[1] + b"\0"), (b"", b"")]:
        with pytest.raises(CheckFailed, match=r"^sketch$"):
            from_bytes(*bad, demo, 8)
