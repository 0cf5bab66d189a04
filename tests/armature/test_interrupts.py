"""Signals are ignored meanwhile, and heard again after it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from armature.interrupts import ignored


def test_an_interrupt_is_ignored_meanwhile_and_heard_after_it():
    with ignored(signal.SIGINT):
        os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_what_is_started_meanwhile_ignores_it_too():
    script = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    with ignored(signal.SIGINT):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_another_thread_changes_nothing():
    found = []

    def look():
        with ignored(signal.SIGINT):
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    before = signal.getsignal(signal.SIGINT)
    thread.start()
    thread.join()
    assert found == [before]
