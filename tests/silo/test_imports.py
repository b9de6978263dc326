import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
SLOW = ("torch", "opacus", "dp_accounting", "sklearn", "scipy", "tenseal", "grpc", "sqlalchemy")
SILO = (
    "errors",
    "entropy",
    "sampling",
    "gaussian",
    "discrete",
    "data",
    "ledger",
    "releases",
    "trainer",
    "linear",
    "pack",
)
FAST = ("audit.accounting", *(f"silo.{name}" for name in SILO))


def test_fast_modules_import_nothing_slow() -> None:
    script = f"import sys, {', '.join(FAST)}; print(sorted(set({SLOW!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_linear_training_and_packing_need_no_torch() -> None:
    script = (
        "import sys\n"
        "from silo.pack import pack_task\n"
        "from silo.trainer import trainer_for\n"
        "from silo.entropy import OsEntropy\n"
        "from tests.silo.examples import description, records\n"
        "import numpy as np\n"
        "task, model = pack_task(description('linear'))\n"
        "trainer = trainer_for(task, records(30), OsEntropy())\n"
        "update = trainer.train(np.frombuffer(model, '<f4'), task.training, 30)\n"
        "print(update.shape, 'torch' in sys.modules, 'dp_accounting' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(21,) False True"
