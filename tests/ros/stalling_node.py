"""Runs a node that can be made to stall: stalling_node.py MODULE [ARGUMENT ...].

SIGUSR1 begins a collection of garbage that has piled up, which stops every thread of Python for as long as it takes.
SIGUSR2 keeps the thread of the executor busy, as a callback does that waits for something that does not come.
"""

import gc
import runpy
import signal
import sys
import time

PILED_UP = 6_000_000
BLOCKED_S = 1.0


def collect(*_: object) -> None:
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def block(*_: object) -> None:
    time.sleep(BLOCKED_S)


if __name__ == "__main__":
    gc.disable()
    heap = [[] for _ in range(PILED_UP)]
    gc.freeze()  # until the signal nobody looks at it
    gc.enable()
    signal.signal(signal.SIGUSR1, collect)
    signal.signal(signal.SIGUSR2, block)
    sys.argv[:] = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
