"""Signals that have to wait until something is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def ignored(*signals: signal.Signals) -> Generator[None, None, None]:
    """Ignore signals meanwhile, as do processes that are started meanwhile.

    On another thread than the main one, which alone may say so, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
