"""What became of the samples of each stream, from the publisher to the disk, live and at the end of an episode.

Every message that was published is committed or dropped. Of the reasons, `transport` counts gaps in the publisher's
sequence numbers and `malformed` messages that did not hold what they should; the others are the recorder's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from armature_ros.recorder_channel import Channel
from armature_ros.recorder_qos import qos_text
from data_collection.take import StreamCounts


def stream_report(channels: Sequence[Channel], counts: Mapping[str, StreamCounts]) -> dict[str, dict[str, str]]:
    """Return the diagnostics of every stream: its counts, and how its topic is doing."""
    report: dict[str, dict[str, str]] = {}
    for channel in channels:
        topic = _topic_figures(channel)
        for name in channel.topic.streams:
            report[name] = {**_count_figures(counts.get(name, StreamCounts())), **topic}
            report[name]["fault"] = "; ".join(part for part in (topic["obstacle"], report[name]["loss"]) if part)
    return report


def plain_counts(counts: Mapping[str, StreamCounts]) -> dict[str, Any]:
    """Return as JSON data the counts of the streams of which anything was heard."""
    return {name: asdict(count) for name, count in counts.items() if count.received or count.dropped}


def _topic_figures(channel: Channel) -> dict[str, str]:
    monitor = channel.monitor.report()
    return {
        **{key: monitor[key] for key in ("rate_hz", "jitter_ms", "age_s")},
        "topic": channel.full_name,
        "publishers": channel.publisher_text(),
        "requested_qos": "" if channel.requested is None else qos_text(channel.requested),
        "obstacle": channel.obstacle(),
    }


def _count_figures(count: StreamCounts) -> dict[str, str]:
    dropped = {f"dropped_{reason}": str(number) for reason, number in count.dropped.items()}
    total = sum(count.dropped.values())
    numbers = ("received", "recorded", "committed", "repeated", "late")
    reasons = ", ".join(f"{number} {reason}" for reason, number in count.dropped.items())
    return {
        **{name: str(getattr(count, name)) for name in numbers},
        "dropped": str(total),
        **dropped,
        "loss": f"{total} dropped: {reasons}" if total else "",
    }
