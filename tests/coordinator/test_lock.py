"""One coordinator per directory, whatever kills the one before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.errors import AlreadyRunning
from coordinator.lock import Lock, holder

_HOLD = """
import sys, time
from pathlib import Path
from coordinator.lock import Lock
with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.processes
def test_second_process_is_told_who_serves_and_may_follow_after_a_kill(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    child = subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        assert holder(tmp_path) == child.pid
        with pytest.raises(AlreadyRunning, match=f"process {child.pid} already serves"), Lock(tmp_path):
            pass
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close() if child.stdout else None
    assert holder(tmp_path) is None
    with Lock(tmp_path):
        assert holder(tmp_path) == os.getpid()
    assert holder(tmp_path) is None
