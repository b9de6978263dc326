"""A silo whose first training waits, so that a test can kill it in the middle: `python -m ... DIR --data FILE`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.task import Task, Training
from silo.data import Records
from silo.desk import LocalPolicy
from silo.entropy import Entropy
from silo.runner import Work, run
from silo.trainer import trainer_for

MARK = "training-began"
PATIENCE_S = 60


class SlowTrainer:
    """The honest trainer, but the first time it leaves a mark and waits to be killed."""

    def __init__(self, directory: Path, honest: Any) -> None:
        self._mark, self._honest = directory / MARK, honest
        self.embed, self.evaluate = honest.embed, honest.evaluate

    def train(self, model: NDArray[np.float32], training: Training, count: int) -> NDArray[np.float64]:
        """The honest update, after a long wait the first time."""
        update: NDArray[np.float64] = self._honest.train(model, training, count)
        if not self._mark.exists():
            self._mark.touch()
            time.sleep(PATIENCE_S)
        return update


def main(directory: Path, data: Path) -> None:
    """Run the silo like the command line does, with the slow trainer."""

    def trainer(task: Task, records: Records, entropy: Entropy) -> SlowTrainer:
        return SlowTrainer(directory, trainer_for(task, records, entropy))

    ledger = data.with_name(data.name + ".ledger")
    run(Work(directory, data, ledger, LocalPolicy(), trainer=trainer), lambda session, progress: None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[3]))
