"""What ends a process in which no Python code runs any more."""

from __future__ import annotations

import subprocess
import sys

# A call that keeps Python's own lock, as sending to a lock of a dead process does.
STUCK = "import ctypes; ctypes.PyDLL(None).sleep(60)"


def run(code: str) -> subprocess.CompletedProcess[str]:
    program = f"from armature_ros import last_resort; {code}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)


def test_a_process_that_is_stuck_as_a_whole_ends_with_the_stacks_of_its_threads():
    done = run(f"last_resort.postpone(0.5); {STUCK}")
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert "most recent call first" in done.stderr


def test_postponed_again_and_again_or_cancelled_it_lives():
    alive = "import time; [(last_resort.postpone(0.5), time.sleep(0.1)) for _ in range(10)]"
    done = run(f"{alive}; last_resort.cancel(); time.sleep(0.8); print('alive')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")
