"""A silo's part of a round holds a small multiple of the model: measured in a process of its own, by what it allocates.

The bound is on the growth of the high-water mark, from a process that has imported everything and has its keys. Helper
processes are switched off: they are processes of their own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.processes import environment

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
MILLION = 1_000_000
_ROUND = """
import json, sys
from pathlib import Path
import numpy as np
from crypto import memory, merkle, ring, sketch
from crypto.packing import Packing
from crypto.quantise import apply_aggregate
from crypto.secure_sum import Contribution, SiloSum, deal
from silo.workspace import Chunks, Update, Workspace
from tests.crypto.conftest import make_layout
from tools.round_silo import memory_kb

size, directory = int(sys.argv[1]), Path(sys.argv[2])
memory.keep_little()
packing, keys = Packing.of(make_layout(size, size - 5130, 5130), 8), SiloSum(deal("memory", 1))
space = Workspace(directory)
keys._prepare = lambda packing: None
random, facts = np.random.default_rng(3), dict(plan="a1" * 32)
space.save_model(np.zeros(size, np.float32))
digest = next(directory.glob("*.f32")).stem
idle = memory_kb("VmHWM")
peaks = {}

values = random.integers(-127, 128, size, dtype=np.int8)
made = keys.protect(packing.to_fields(values), packing, silo="north", **facts)
space.save_update(1, Update(values, made.tags, None), made.chunks)
root = merkle.root(space.ciphertext(1))
peaks["protect"] = memory_kb("VmHWM") - idle

update = space.load_update(1)
signs = sketch.signs(bytes(32), packing.folds, packing.body_chunks)
said = sketch.sketch(packing.to_fields(update.values), packing, signs)
peaks["sketch"] = memory_kb("VmHWM") - idle
del update, values

words = (ring.parse_fresh(chunk) for chunk in space.ciphertext(1))
total = (ring.to_bytes(chunk) for chunk in ring.weighted_sum([words], [3]))
with space.received(total, packing.chunks) as chunks:
    whole = keys.open_sum(chunks, packing, contributions=[Contribution("north", 3, made.tags)], total_weight=3, **facts)
folds, _ = sketch.sketch(packing.to_fields(whole), packing, signs)
assert np.array_equal(folds, 3 * said[0])
model = space.load_model(size, digest)
space.save_model(apply_aggregate(model, whole, -10, 3, out=model))
peaks["open"] = memory_kb("VmHWM") - idle
print(json.dumps(peaks))
"""


def test_round_of_two_million_parameters_takes_three_models_and_some(tmp_path: Path) -> None:
    size = 2 * MILLION
    program = [sys.executable, "-c", _ROUND, str(size), str(tmp_path / "silo")]
    done = subprocess.run(program, capture_output=True, text=True, check=True, cwd=ROOT, env=environment())
    peaks = {name: 1024 * kb for name, kb in json.loads(done.stdout).items()}
    # An update that is laid out in 64-bit fields alone takes two models, its floats two more.
    assert all(peak < 3 * 4 * size + 24 * MILLION for peak in peaks.values()), peaks
    assert peaks["open"] >= peaks["protect"] > 4 * size
