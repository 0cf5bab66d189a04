"""Ends a process that is stuck as a whole, where no Python code runs any more that could.

A process that is killed while it holds a lock in shared memory can block every other one that sends to it for good
(Fast DDS #3535), inside a call that holds Python's own lock. What ends the process then is a thread of `faulthandler`,
which needs no lock: it writes the stacks of all threads to stderr, and the graph notices the exit.
"""

from __future__ import annotations

import faulthandler
import sys

STUCK_S = 5.0


def postpone(stuck_s: float = STUCK_S) -> None:
    """Let the process live for another `stuck_s`; to be called several times in that time, cheap at 10 Hz."""
    faulthandler.dump_traceback_later(stuck_s, exit=True, file=sys.__stderr__)


def cancel() -> None:
    """Let the process live as long as it likes."""
    faulthandler.cancel_dump_traceback_later()
