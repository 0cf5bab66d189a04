"""What is said of an episode, as JSON in a String: that it begins, how it went, and how a person says that it went.

`fields_from_msg` reads such a text of whatever fields.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from std_msgs.msg import String

from armature.errors import InvalidValue

EPISODE_LABEL = "episode_label"
"""Topic on which it is told how an episode went, once a person has said so: JSON, its number and success."""
_QUOTED_MAX = 60
_INTEGER_END = 2**63
"""Above what seeds and stamps can be."""
_ANNOUNCED = {"episode": int, "seed": int, "begin_ns": int}
_RESULT = {
    "episode": int, "seed": int, "steps": int, "end_ns": int, "success": bool, "fault": str, "published": dict,
}  # fmt: skip
_LABEL = {"episode": int, "success": bool}


@dataclass(frozen=True)
class Episode:
    """What the topic `episode` announces: number, seed and the stamp of the first tick."""

    episode: int
    seed: int
    begin_ns: int

    def to_msg(self) -> String:
        """Return the announcement."""
        return String(data=json.dumps(asdict(self)))

    @classmethod
    def from_msg(cls, message: String) -> Episode:
        """Read an announcement; raise InvalidValue on a text that is none."""
        found = fields_from_msg(message, _ANNOUNCED)
        return cls(**{name: found[name] for name in _ANNOUNCED})


def result_from_msg(message: String) -> dict[str, Any]:
    """Return all that `episode_result` says of an episode; raise InvalidValue where it lacks how it went."""
    result = fields_from_msg(message, _RESULT)
    for stream, count in result["published"].items():
        _require_kind(f"published.{stream}", count, int, message)
    return result


def label_from_msg(message: String) -> dict[str, Any]:
    """Return what a person says of how an episode went; raise InvalidValue on a text that does not."""
    return fields_from_msg(message, _LABEL)


def fields_from_msg(message: String, kinds: Mapping[str, type]) -> dict[str, Any]:
    """Return a JSON object; raise InvalidValue where one of the fields `kinds` is missing or of another kind."""
    expected = f"expected JSON with {', '.join(f'{name} ({kind.__name__})' for name, kind in kinds.items())}"
    try:
        found = json.loads(message.data)
    except (ValueError, RecursionError) as error:
        raise InvalidValue(f"text {_quoted(message)} is no JSON, {expected}") from error
    missing = [name for name in kinds if name not in found] if isinstance(found, dict) else list(kinds)
    if missing:
        raise InvalidValue(f"text {_quoted(message)} lacks {', '.join(missing)}, {expected}")
    for name, kind in kinds.items():
        _require_kind(name, found[name], kind, message)
    return found


def _require_kind(name: str, value: Any, kind: type, message: String) -> None:
    # To Python, true is an integer.
    if type(value) is not kind:
        raise InvalidValue(f"{name} of text {_quoted(message)} is {type(value).__name__}, expected {kind.__name__}")
    if kind is int and not 0 <= value < _INTEGER_END:
        raise InvalidValue(f"{name} of text {_quoted(message)} is out of range. Valid: 0 to 2**63 - 1")


def _quoted(message: String) -> str:
    text = message.data
    return repr(text if len(text) <= _QUOTED_MAX else f"{text[:_QUOTED_MAX]}...")
