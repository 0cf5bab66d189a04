"""Steps on their way from the robot's log to the learner: nothing is lost and nothing counts twice.

The sender numbers records as they lie in its log and sends blocks of what outlasts a power cut; the receiver says how
many of them it has made safe.
What is not acknowledged in time is sent again from there, whichever side was killed in between.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np

from armature.errors import InvalidValue
from policies.step_log import CUT, FIRST, TERMINATED, LogHead, Records, StepLog, count_whole

BLOCK_RECORDS = 256
RESEND_S = 3.0


@dataclass(frozen=True)
class Block:
    """Some consecutive records of a log."""

    head: LogHead
    first: int
    """Number of the first record in its log."""
    data: bytes

    def to_bytes(self) -> bytes:
        """Return a line of JSON, with the sha256 of the records, and the records; inverse of `from_bytes`."""
        told = {"first": self.first, "sha256": hashlib.sha256(self.data).hexdigest(), "head": asdict(self.head)}
        return json.dumps(told).encode() + b"\n" + self.data

    @classmethod
    def from_bytes(cls, content: bytes) -> Block:
        """Read a block; raise InvalidValue where it is damaged or none."""
        line, _, data = content.partition(b"\n")
        try:
            told = json.loads(line)
            block = cls(LogHead(**told["head"]), told["first"], data)
            sha256, size = told["sha256"], block.head.record.itemsize
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidValue(f"block of steps cannot be read: {error}") from error
        if not isinstance(block.first, int) or block.first < 0:
            raise InvalidValue(f"block of steps begins at {block.first!r}")
        if hashlib.sha256(data).hexdigest() != sha256:
            raise InvalidValue(f"block of steps from {block.first} on: damaged ({len(data)} bytes): its sha256 differs")
        if len(data) % size or count_whole(data, size) * size != len(data):
            raise InvalidValue(f"block of steps from {block.first} on: a record of it is damaged")
        return block

    @property
    def records(self) -> Records:
        """Return the records (n,)."""
        return np.frombuffer(self.data, self.head.record)


class StepSender:
    """Decides what of a log is sent when. Used by one thread."""

    def __init__(self, log: StepLog) -> None:
        self.taken = 0
        """So many records are safe with the learner."""
        self.resent = 0
        """How often it was begun anew at the last acknowledgement."""
        self._log = log
        self._sent = 0
        self._moved_s = -np.inf

    def acknowledge(self, log_id: str, count: int, now_s: float, *, asks: bool) -> None:
        """Note that the learner has `count` records of the log; `asks`: it has nothing else and wants what follows.

        Raises InvalidValue where there were never so many; what is said of another log does not matter.
        """
        if log_id != self._log.head.log_id:
            return
        if not 0 <= count <= len(self._log):
            raise InvalidValue(f"{count} records acknowledged, the log has {len(self._log)}")
        if count > self.taken:
            self._moved_s = now_s
        self.taken = count
        if asks or count > self._sent:
            self._sent = count

    def next_block(self, now_s: float) -> Block | None:
        """Return what is to be sent now, if anything."""
        if self._sent > self.taken and now_s - self._moved_s > RESEND_S:
            self._sent = self.taken
            self.resent += 1
        ready = self._log.synced - self._sent
        if ready <= 0:
            return None
        if self._sent == self.taken:
            self._moved_s = now_s
        block = Block(self._log.head, self._sent, self._log.read_bytes(self._sent, min(ready, BLOCK_RECORDS)))
        self._sent += len(block.records)
        return block


class StepReceiver:
    """Puts the blocks of one log in order. Used by one thread.

    A record is handed on once it is known whether its episode was broken off after it: when it says so itself, or when
    the next one has come.
    """

    def __init__(self, expected: LogHead, taken: int) -> None:
        """`expected` says what steps there have to be; `taken` records of the log were handed on before."""
        self._expected = expected
        self._next = taken
        self._held: list[Records] = []

    def take(self, block: Block) -> list[Records]:
        """Return the records that are to be learned from next, in order, each once.

        Raises ConfigError where the block is of another task, robot or policy, and InvalidValue where records before
        it are missing: the sender has to begin anew at what is taken.
        """
        self._expected.require(block.head, f"steps of log {block.head.log_id}")
        if block.first > self._next:
            raise InvalidValue(f"steps from {self._next} to {block.first} are missing")
        new = block.records[self._next - block.first :]
        self._next += len(new)
        decided: list[Records] = []
        for record in new:
            decided += self._decide(record.copy())
        return decided

    def _decide(self, record: Records) -> list[Records]:
        decided, self._held = self._held, []
        if decided and record["flags"] & FIRST:
            decided[0]["flags"] |= CUT
        if record["flags"] & (TERMINATED | CUT):
            return [*decided, record]
        self._held = [record]
        return decided
