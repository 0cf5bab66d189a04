"""Episodes from the keyboard: the services that begin and end one, called in order without ever waiting for them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.task import Future
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from armature.errors import InvalidValue
from armature_ros.announcements import fields_from_msg

BEGIN = ("sim_node/reset", "control_node/reset", "recorder_node/start", "control_node/arm", "sim_node/start")
BEGIN_KEY = "n"
END_KEYS = {"y": True, "x": False}
DISCARD_KEYS = ("\x7f", "\b")
RETRY_S = 0.1
GIVE_UP_S = 10.0
TELL_S = 1.0
"""After so long a refusal is told while it is tried again: some pass by themselves."""
NO_RECORDER = "nothing is recorded: the graph has no --dataset"


@dataclass(frozen=True)
class _Step:
    """One service call that still has to be made."""

    name: str
    request: Any
    deadline_s: float


class TeleopEpisode:
    """Works through service calls one at a time; a refused one is tried again until it has taken too long.

    Services of nodes that are not `expected` are left out where nobody offers them: a real robot has no simulator, and
    recording is optional. Those of others are waited for, and without them no episode begins.
    """

    def __init__(self, node: Node, expected: Collection[str], on_reset: Callable[[], None]) -> None:
        """`expected` names nodes of the graph; `on_reset` is called once the arm is where an episode begins."""
        self._logger = node.get_logger()
        self._expected = expected
        self._on_reset = on_reset
        self._clients: dict[str, Any] = {name: node.create_client(Trigger, name) for name in BEGIN}
        self._clients["recorder_node/discard"] = node.create_client(Trigger, "recorder_node/discard")
        self._clients["recorder_node/end"] = node.create_client(SetBool, "recorder_node/end")
        self._steps: deque[_Step] = deque()
        self._answer: Future | None = None
        self._next_s = 0.0
        self._is_recorded = self._is_told = False

    def press(self, key: str) -> bool:
        """Take one key; return False when it is none of an episode's."""
        if key == BEGIN_KEY and self._is_recorded:
            self._logger.warning("an episode is recorded: y, x or Backspace ends it first")
        elif key == BEGIN_KEY:
            self._queue(*((name, Trigger.Request()) for name in BEGIN))
        elif key in END_KEYS:
            self._queue(("recorder_node/end", SetBool.Request(data=END_KEYS[key])))
        elif key in DISCARD_KEYS:
            self._queue(("recorder_node/discard", Trigger.Request()))
        else:
            return False
        return True

    def advance(self) -> None:
        """Make the next call when it is due, or look at its answer; returns at once."""
        if not self._steps or time.monotonic() < self._next_s:
            return
        step = self._steps[0]
        client = self._clients[step.name]
        if self._answer is None and not client.service_is_ready():
            self._miss(step)
        elif self._answer is None:
            self._answer = client.call_async(step.request)
        elif self._answer.done():
            self._finish(step, self._answer.result())
        elif time.monotonic() > step.deadline_s:
            self._give_up(f"{step.name}: no answer for {GIVE_UP_S:g} s")

    def _queue(self, *calls: tuple[str, Any]) -> None:
        if self._steps:
            self._logger.warning(f"busy with {self._steps[0].name}")
            return
        self._is_told = False
        deadline_s = time.monotonic() + GIVE_UP_S
        self._steps.extend(_Step(name, request, deadline_s) for name, request in calls)

    def _miss(self, step: _Step) -> None:
        """Wait for a service that nobody offers, or leave it out."""
        if step.name.partition("/")[0] not in self._expected:
            if step.name not in BEGIN:
                self._logger.warning(NO_RECORDER)
            self._complete(step)
        elif time.monotonic() > step.deadline_s:
            self._is_recorded &= not step.name.startswith("recorder_node/")
            what = "no episode is begun" if step.name in BEGIN else "it was not done"
            self._give_up(f"{step.name}: nobody has offered it for {GIVE_UP_S:g} s; {what}")

    def _finish(self, step: _Step, answer: Any) -> None:
        self._answer = None
        if step.name.startswith("recorder_node/"):
            # A recorder that has ended an episode by itself refuses to end it again.
            self._is_recorded = step.name in BEGIN and answer.success
        if answer.success:
            if said := in_words(step.name, answer.message):
                self._logger.info(said)
            self._complete(step)
        elif step.name in BEGIN and time.monotonic() < step.deadline_s:
            self._next_s = time.monotonic() + RETRY_S
            self._tell_refusal(step, answer.message)
        else:
            self._give_up(f"{step.name}: {answer.message}")

    def _complete(self, step: _Step) -> None:
        self._steps.popleft()
        if step.name == BEGIN[0]:
            self._on_reset()
        elif step.name == BEGIN[-1]:
            self._logger.info("armed: the keys move the arm" + ("" if self._is_recorded else f"; {NO_RECORDER}"))

    def _tell_refusal(self, step: _Step, reason: str) -> None:
        if not self._is_told and time.monotonic() > step.deadline_s - GIVE_UP_S + TELL_S:
            self._is_told = True
            self._logger.warning(f"{step.name}: {reason}; it is tried again")

    def _give_up(self, reason: str) -> None:
        self._logger.error(reason)
        self._answer = None
        self._steps.clear()


def in_words(service: str, answer: str) -> str:
    """Word what a service has answered for the person who drives; empty where it is no news."""
    say = _NEWS.get(service)
    try:
        return "" if say is None else say(answer)
    except InvalidValue:
        return f"{service}: {answer or 'done'}"


def _begun(answer: str) -> str:
    return f"episode {fields_from_msg(String(data=answer), {'episode': int})['episode']} is recorded"


def _ended(answer: str) -> str:
    """Say how the episode went, and of which streams something is lost."""
    kinds = {"episode": int, "success": bool, "steps": int, "duration_s": float, "counts": dict}
    said = fields_from_msg(String(data=answer), kinds)
    outcome = "success" if said["success"] else "failure"
    dropped = {stream: sum(counts["dropped"].values()) for stream, counts in said["counts"].items()}
    lost = ", ".join(f"{count} of {stream}" for stream, count in dropped.items() if count)
    text = f"episode {said['episode']}: {outcome}, {said['steps']} steps in {said['duration_s']:.1f} s"
    return f"{text}, LOST: {lost}" if lost else text


_NEWS: dict[str, Callable[[str], str]] = {
    "recorder_node/start": _begun,
    "recorder_node/end": _ended,
    "recorder_node/discard": lambda _: "the episode is thrown away",
}
