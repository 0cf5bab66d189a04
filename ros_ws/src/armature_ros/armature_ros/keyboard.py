"""Single keys of a terminal, without waiting for Enter; Ctrl-C still interrupts."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from types import TracebackType

from armature.errors import ConfigError

ARROWS = {"\x1b[A": "up", "\x1b[B": "down", "\x1b[C": "right", "\x1b[D": "left"}
APPLICATION_ARROWS = {sequence.replace("[", "O"): name for sequence, name in ARROWS.items()}


class Keyboard:
    """The terminal at standard input, else that of the process. A `with` block gives it back as it was."""

    def __init__(self) -> None:
        self._descriptor = sys.stdin.fileno() if sys.stdin.isatty() else _controlling_terminal()

    def __enter__(self) -> Keyboard:
        self._before = termios.tcgetattr(self._descriptor)
        tty.setcbreak(self._descriptor)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)

    def read(self) -> list[str]:
        """Return the keys pressed since the last call, arrows as up, down, left, right; never waits."""
        ready, _, _ = select.select([self._descriptor], [], [], 0)
        return decode_keys(os.read(self._descriptor, 1024).decode(errors="ignore")) if ready else []


def _controlling_terminal() -> int:
    """Open the terminal that the process belongs to: `ros2 launch` gives its nodes another standard input."""
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        raise ConfigError("the keyboard is read from a terminal, and there is none") from None


def decode_keys(text: str) -> list[str]:
    """Split what a terminal sent into keys: "a\\x1b[Ab" is a, up, b; unknown escape sequences are left out."""
    named = ARROWS | APPLICATION_ARROWS
    keys: list[str] = []
    while text:
        size = _sequence_length(text)
        sequence, text = text[:size], text[size:]
        if size == 1:
            keys.append(sequence.lower())
        elif sequence in named:
            keys.append(named[sequence])
    return keys


def _sequence_length(text: str) -> int:
    """Return how many characters the first key takes: an escape sequence ends with a letter or a tilde."""
    if text[0] != "\x1b" or len(text) < 2 or text[1] not in "[O":
        return 1
    for size, character in enumerate(text[2:], start=3):
        if character.isalpha() or character == "~":
            return size
    return len(text)
