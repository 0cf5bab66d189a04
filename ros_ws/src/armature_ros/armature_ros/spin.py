"""Runs one node in its process: one executor, clean ends, exit codes, and no life after the supervisor's death."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TypeVar

import rclpy
from rclpy.executors import Executor, ExternalShutdownException
from rclpy.experimental import EventsExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from armature.errors import ArmatureError
from armature_ros.qos import leave_shared_memory
from armature_ros.steady_loop import SWITCH_INTERVAL_S

NodeT = TypeVar("NodeT", bound=Node)

PARENT_VARIABLE = "ARMATURE_PARENT_PID"
EXIT_BAD_INPUT = 2
EXIT_FAULT = 3
_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
MMAP_THRESHOLD_BYTES, TRIM_THRESHOLD_BYTES = 32 << 20, 256 << 20


class StopRequest:
    """Remembers that SIGINT or SIGTERM asked the process to end.

    While a node is being built (loading a network takes seconds) the signal interrupts; later it sets a flag, so that
    no callback is cut in two.
    """

    def __init__(self) -> None:
        self.requested = False
        self._interrupts = True
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def defer(self) -> None:
        """From now on only set the flag."""
        self._interrupts = False

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
        if self._interrupts:
            raise KeyboardInterrupt


def spin(_node: Node, executor: Executor, stop: StopRequest) -> None:
    """Run callbacks until asked to stop."""
    # EventsExecutor.spin() runs no callback in the wheels of rclpy 7.1 and 9.1: time-outs are the way around it.
    while not stop.requested and rclpy.ok():
        executor.spin_once(timeout_sec=0.1)


def deadlines(period_s: float, executor: Executor, stop: StopRequest) -> Iterator[None]:
    """Yield at absolute deadlines until asked to stop, callbacks between them; late ones are not made up for."""
    deadline_s = time.monotonic()
    while not stop.requested:
        executor.spin_once(timeout_sec=max(0.0, deadline_s - time.monotonic()))
        if time.monotonic() >= deadline_s:
            deadline_s = max(deadline_s, time.monotonic() - period_s) + period_s
            yield


def run(
    make_node: Callable[[], NodeT],
    loop: Callable[[NodeT, Executor, StopRequest], int | None] = spin,
    args: Sequence[str] | None = None,
    *,
    shares_memory: bool = True,
) -> int:
    """Build a node, run `loop` on it until a signal, and return the exit code: that of `loop`, 2 on bad input.

    Without `shares_memory` no process that is stopped or killed can hold the node up; images are slower then.
    Any other exception leaves as it is (a traceback and exit code 1 are right for a fault).
    """
    stop = StopRequest()
    _die_with_parent()
    _keep_memory()
    # A thread that waits for Python's lock gets it after so long; by default, after 5 ms.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    if not shares_memory:
        leave_shared_memory()
    rclpy.init(args=list(args) if args is not None else None, signal_handler_options=SignalHandlerOptions.NO)
    node = None
    try:
        node = make_node()
        executor = EventsExecutor()
        executor.add_node(node)
        stop.defer()
        return loop(node, executor, stop) or 0
    except ArmatureError as error:
        # The rest of a launch may be ended by the same mistake: no traceback then.
        stop.defer()
        print(f"{node.get_name() if node else 'error'}: {error}", file=sys.stderr, flush=True)
        return EXIT_BAD_INPUT
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        stop.defer()
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()


def _die_with_parent() -> None:
    """Have the kernel kill this process when its supervisor dies, however that dies."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # It may have died before the call above.
    if os.getppid() != int(parent):
        os._exit(1)


def _keep_memory() -> None:
    """Have the allocator keep the memory of messages: got anew for every image, each of its pages faults first."""
    if sys.platform.startswith("linux"):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's alone
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
            mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)
