"""Fixed features: what they are, which files are refused, and that a task takes no others."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from silo import cli, rootset
from silo.data import NumpySource
from silo.entropy import OsEntropy
from silo.errors import BadData, BadExtractor, BadTask
from silo.features import ExtractedSource, coefficients, fit, fit_file, load, parse
from silo.pack import pack_task
from silo.scattering import Shape, scatter
from silo.trainer import trainer_for
from tests.silo.examples import SPEC, description

SHAPE = Shape(16, 16, 2, 4)
IMAGES = np.random.default_rng(5).random((60, 256)).astype(np.float32)
FILE = fit(IMAGES[:40], SHAPE, 6)


def test_features_are_the_principal_components_of_the_public_images() -> None:
    extractor = parse(FILE)
    public = coefficients(IMAGES[:40], SHAPE, SHAPE.channels).astype(np.float64)
    _, values, rows = np.linalg.svd(public - public.mean(axis=0), full_matrices=False)
    # Half whitened: divided by the root of the standard deviation.
    rows = rows[:6] / np.sqrt(values[:6, None] / np.sqrt(40))
    assert np.abs(extractor.components) == pytest.approx(np.abs(rows), rel=0.02, abs=2e-3)
    projected = (coefficients(IMAGES[40:], SHAPE, SHAPE.channels) - public.mean(axis=0)) @ rows.T
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    assert np.abs(extractor.features(IMAGES[40:])) == pytest.approx(np.abs(projected), abs=1e-3)


def test_every_record_has_length_one_and_depends_on_itself_alone() -> None:
    extractor = parse(FILE)
    together = extractor.features(IMAGES)
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-5)
    assert extractor.features(IMAGES[7:8]) == pytest.approx(together[7:8], abs=1e-5)
    assert extractor.features(IMAGES[:0]).shape == (0, 6)


def test_groups_are_standardised_within_a_record() -> None:
    rows = coefficients(IMAGES[:3], SHAPE, 5).reshape(3, 5, -1)
    raw = scatter(IMAGES[:3].reshape(-1, 16, 16), SHAPE).astype(np.float64).reshape(3, 5, -1).var(axis=2)
    assert rows.mean(axis=2) == pytest.approx(0, abs=1e-4)
    assert rows.var(axis=2) == pytest.approx(raw / (raw + 1e-5), rel=1e-3)


def test_the_same_images_make_the_same_file() -> None:
    assert fit(IMAGES[:40], SHAPE, 6) == FILE
    assert parse(FILE).digest == hashlib.sha256(FILE).hexdigest()


def test_without_whitening_components_are_orthonormal_and_with_all_of_it_spread_alike() -> None:
    plain, white = (parse(fit(IMAGES[:40], SHAPE, 6, whiten=power)) for power in (0.0, 1.0))
    assert plain.components @ plain.components.T == pytest.approx(np.eye(6), abs=1e-4)
    projected = (coefficients(IMAGES[:40], SHAPE, SHAPE.channels) - white.mean) @ white.components.T
    assert projected.std(axis=0) == pytest.approx(np.ones(6), rel=1e-2)


@pytest.mark.parametrize(("outputs", "groups"), [(0, None), (40, None), (6, 4)])
def test_what_cannot_be_learned_is_refused(outputs: int, groups: int | None) -> None:
    with pytest.raises(BadExtractor):
        fit(IMAGES[:40], SHAPE, outputs, groups)


def damaged(**changes: np.ndarray) -> bytes:
    with np.load(io.BytesIO(FILE)) as archive:
        arrays = {name: archive[name] for name in archive.files} | changes
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"", FILE[:-40], b"PK" + FILE[2:500],
        damaged(mean=np.full(400, np.nan)), damaged(mean=np.zeros(3)), damaged(components=np.zeros((0, 400))),
        damaged(components=np.zeros((6, 400), dtype=int)), damaged(groups=np.array(7)), damaged(groups=np.array(0)),
        damaged(image=np.array([16, 16, 9, 4])), damaged(image=np.array([16, 16, 2])), damaged(image=np.array(3)),
        damaged(mean=np.array([{}], dtype=object)),
    ],
)  # fmt: skip
def test_file_of_another_form_is_refused(data: bytes) -> None:
    with pytest.raises(BadExtractor, match="again"):
        parse(data)


def test_records_of_another_shape_are_refused() -> None:
    with pytest.raises(BadData, match="16 x 16: reshape"):
        parse(FILE).features(IMAGES[:, :255])


def task_with(features: str | None) -> dict:
    model = {"kind": "linear", "sizes": [6, 3], "activation": "none"}
    return description(model=model | ({"features": features} if features else {}))


def test_task_takes_the_features_that_it_names_and_no_others(tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", x=IMAGES, y=np.arange(60) % 3)
    records = ExtractedSource(NumpySource(tmp_path / "r.npz"), parse(FILE)).load()
    raw = NumpySource(tmp_path / "r.npz").load()
    assert np.array_equal(records.labels, raw.labels)
    assert records.holdout_features == pytest.approx(parse(FILE).features(raw.holdout_features), abs=1e-5)
    named, _ = pack_task(task_with(parse(FILE).digest))
    assert trainer_for(named, records, OsEntropy()).embed(np.zeros(21, np.float32))[0].shape[1] == 6
    for task, wrong, words in [
        (named, replace(records, extractor=None), "give the file with SHA-256 "),
        (named, replace(records, extractor="0" * 64), "give the file with SHA-256 "),
        (pack_task(task_with(None))[0], records, "give none as --features"),
    ]:
        with pytest.raises(BadData, match=words):
            trainer_for(task, wrong, OsEntropy())


def test_task_names_features_by_a_digest_only() -> None:
    with pytest.raises(BadTask, match="features"):
        pack_task(task_with("features.npz"))


def test_command_learns_a_file_and_says_what_the_task_must_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "public.npz", x=IMAGES[:40].reshape(-1, 16, 16))
    out = tmp_path / "features.npz"
    assert cli.run(["task", "features", str(tmp_path / "public.npz"), str(out), "--keep", "5"]) == 0
    assert f'features = "{load(out).digest}"' in capsys.readouterr().out
    assert load(out).outputs == 5


def pack(directory: Path, line: str, *arguments: str) -> int:
    (directory / "spec.toml").write_text(SPEC.replace("[16, 4]", "[6, 3]") + line)
    np.savez(directory / "public.npz", x=IMAGES[:30].reshape(-1, 16, 16), y=np.arange(30) % 3)
    (directory / "features.npz").write_bytes(FILE)
    given = [str(directory / one) if one.endswith(".npz") else one for one in arguments]
    return cli.run(["task", "pack", str(directory / "spec.toml"), str(directory / "out"), *given])


def test_public_examples_are_packed_as_the_features_that_silos_train_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = f'features = "{parse(FILE).digest}"'
    assert pack(tmp_path, named, "--root", "public.npz", "--features", "features.npz") == 0
    assert "patches on images are not" in capsys.readouterr().out
    root = rootset.from_bytes((tmp_path / "out" / "root.bin").read_bytes(), 6)
    assert np.array_equal(root.features, parse(FILE).features(IMAGES[:30]))
    assert root.labels.tolist() == [0, 1, 2] * 10


@pytest.mark.parametrize(
    ("line", "arguments", "words"),
    [
        ("", ["--root", "public.npz", "--features", "features.npz"], f'say features = "{parse(FILE).digest}"'),
        (
            f'features = "{"0" * 64}"',
            ["--root", "public.npz", "--features", "features.npz"],
            "not what the model names",
        ),
        (f'features = "{parse(FILE).digest}"', ["--root", "public.npz"], "say --features"),
        (f'features = "{parse(FILE).digest}"', ["--features", "features.npz"], "say --root"),
        (f'features = "{parse(FILE).digest}"', ["--root", "public.npz", "--features", "none.npz"], "cannot be read"),
    ],
)
def test_public_examples_and_features_that_do_not_fit_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, arguments: list[str], words: str
) -> None:
    assert pack(tmp_path, line, *arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("x", [IMAGES[:40], 255 * IMAGES.reshape(-1, 16, 16), np.full((40, 16, 16), np.nan)])
def test_images_that_are_none_are_refused(x: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "public.npz", x=x)
    with pytest.raises(BadExtractor, match=r"grey in \[0, 1\]"):
        fit_file(tmp_path / "public.npz", tmp_path / "out.npz", 5)
    assert not (tmp_path / "out.npz").exists()
    assert cli.run(["task", "features", str(tmp_path / "none.npz"), str(tmp_path / "out.npz")]) == 2
