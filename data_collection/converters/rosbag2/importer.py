"""`armature data import rosbag2 SOURCE DATASET --mapping FILE.yaml`: one bag, one episode.

SOURCE is a bag's folder, a single .mcap or .db3 file, or a folder of them. Every message has its acquisition stamp from
header.stamp (or the log time where there is no header) and the bag's log time as its receive time.
"""

from __future__ import annotations

import json
from array import array as numbers
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console

from armature.config import to_plain
from armature.errors import ConfigError, DatasetError, InvalidValue
from armature.spec import ArraySpec
from data_collection.converters.rosbag2 import messages as ros
from data_collection.converters.rosbag2.mapping import MAPPING_NAME, BagMapping, load_mapping
from data_collection.converters.rosbag2.message_types import Decoder
from data_collection.converters.rosbag2.reader import Bag, Message, describe_bag, find_bags, open_bag, read_messages
from data_collection.converters.rosbag2.streams import StreamPlan, plan_streams
from data_collection.converters.source import Block, Source
from data_collection.streams import ACTION_EXECUTED

EXAMPLE = Path(__file__).parents[1] / "mappings" / "bag_panda.yaml"
EPISODE_KEY = "armature_episode"
"""Under `custom_data` of metadata.yaml: the episode's metadata as JSON, where our export wrote the bag."""

_BLOCK_BYTES, _BLOCK_ROWS_MAX = 4 << 20, 4096
_STRINGS = ("prompt", "operator", "outcome", "termination")
_RESTORED = (*_STRINGS, "success", "seed", "calibration", "counts")


@dataclass(frozen=True)
class ImportConfig:
    """Import rosbag2 recordings, one episode per bag."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A bag's folder, a single .mcap or .db3 file, or a folder of either."""
    dataset: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """The new dataset."""
    mapping: Path | None = None
    """YAML file: which topics become which streams. Default: mapping.yaml in the source; without it, the topics are
    listed."""
    each_file: bool = False
    """A folder of storage files without metadata.yaml is one bag in pieces; with this, every file is an episode."""


def open_source(config: ImportConfig) -> Source:
    """Open and check all bags: their counts, their stamps and the types of the mapped topics."""
    paths = find_bags(config.source, config.each_file)
    mapping = load_mapping(_mapping_path(config, paths))
    bags = [open_bag(path) for path in paths]
    spec, plans = plan_streams(mapping, bags)
    episodes = [BagEpisode(bag, plans, mapping) for bag in bags]
    encodings = {name: stream.encoding for name, stream in mapping.streams.items() if stream.encoding != "lossless"}
    attributes = {"format": "rosbag2", "streams": episodes[0].sources, "mapping": to_plain(mapping)}
    return Source(config.source, mapping.task, spec, episodes, attributes, encodings)


class BagEpisode:
    """One bag. All stamps are read at once; the values follow when the episode is copied."""

    def __init__(self, bag: Bag, plans: list[StreamPlan], mapping: BagMapping) -> None:
        """Raise DatasetError naming file, topic and message where topics are missing or stamps go backwards."""
        self.name = bag.path.name
        self._bag = bag
        self._streams: dict[str, list[StreamPlan]] = {}
        for plan in plans:
            self._streams.setdefault(plan.mapping.topic, []).append(plan)
        self._decoders = {name: _decoder(bag, name, mapping.definitions) for name in self._streams}
        self._received = {plan.mapping.received: numbers("q") for plan in plans if plan.mapping.received}
        order = self._scan(plans)
        self.steps = order.kept[ACTION_EXECUTED]
        labels = {"prompt": mapping.prompt, "operator": mapping.operator}
        self.metadata: Mapping[str, Any] = labels | _restored(bag) | {"import_counts": order.counts()}

    @property
    def sources(self) -> dict[str, dict[str, str]]:
        """Return topic, type and clock of every stream."""
        plans = [plan for plans in self._streams.values() for plan in plans]
        return {
            plan.array.name: {
                "topic": plan.mapping.topic,
                "type": self._decoders[plan.mapping.topic].type_name,
                "clock": self._clock(plan),
            }
            for plan in plans
        }

    def blocks(self) -> Iterator[Block]:
        """Read the bag in blocks of up to 4 MiB."""
        order = _Order()
        buffers = {plan.array.name: _Buffer(plan.array) for plans in self._streams.values() for plan in plans}
        for message in read_messages(self._bag, set(self._streams)):
            with _naming(message):
                for plan, stamp_ns, values in self._samples(message, order):
                    buffer = buffers[plan.array.name]
                    buffer.add(stamp_ns, self._received_ns(plan, message), values)
                    if buffer.is_full:
                        yield buffer.take()
        yield from (buffer.take() for buffer in buffers.values() if buffer.stamps_ns)

    def _samples(self, message: Message, order: _Order) -> Iterator[tuple[StreamPlan, int, Any]]:
        decoder, decoded = self._decoders[message.topic], None
        for plan in self._streams[message.topic]:
            stamp_ns = self._stamp_ns(plan, message)
            if order.accepts(plan, stamp_ns):
                decoded = decoder(message.data) if decoded is None else decoded
                yield plan, stamp_ns, plan.values(decoder.type_name, decoded)

    def _scan(self, plans: list[StreamPlan]) -> _Order:
        """Read every stamp, so that what is wrong with them is known before anything is written."""
        order = _Order()
        decoders = {name: _decoder(self._bag, name, {}) for name in self._received}
        for message in read_messages(self._bag, {*self._streams, *self._received}):
            with _naming(message):
                for plan in self._streams.get(message.topic, ()):
                    order.accepts(plan, self._stamp_ns(plan, message))
                if message.topic in self._received:
                    time_ns = ros.field_of(decoders[message.topic](message.data), ["data"])
                    self._received[message.topic].append(int(ros.exactly(time_ns, (), "int64")))
        for plan in plans:
            name, count = plan.mapping.received, self._bag.topic(plan.mapping.topic).count
            if name and len(self._received[name]) != count:
                times = f"{len(self._received[name])} receive times for {count} messages of {plan.mapping.topic}"
                raise DatasetError(f"{self._bag.path}: topic {name}: {times}")
        return order

    def _clock(self, plan: StreamPlan) -> str:
        has_header = self._decoders[plan.mapping.topic].has_header
        if plan.mapping.clock == "header" and not has_header:
            raise DatasetError(f"{self._bag.path}: topic {plan.mapping.topic}: clock is 'header', it has no header")
        return plan.mapping.clock or ("header" if has_header else "log")

    def _stamp_ns(self, plan: StreamPlan, message: Message) -> int:
        return ros.stamp_ns_of(message.data) if self._clock(plan) == "header" else message.log_ns

    def _received_ns(self, plan: StreamPlan, message: Message) -> int:
        return self._received[plan.mapping.received][message.number] if plan.mapping.received else message.log_ns


class _Order:
    """Lets through the samples whose stamps rise, and counts the others."""

    def __init__(self) -> None:
        self.kept: Counter[str] = Counter()
        self._repeated: Counter[str] = Counter()
        self._out_of_order: Counter[str] = Counter()
        self._last_ns: dict[str, int] = {}

    def accepts(self, plan: StreamPlan, stamp_ns: int) -> bool:
        name = plan.array.name
        last_ns = self._last_ns.get(name, -1)
        if stamp_ns > last_ns:
            self._last_ns[name] = stamp_ns
            self.kept[name] += 1
            return True
        if stamp_ns == last_ns == 0:
            raise InvalidValue("the stamp is 0 again: its publisher does not stamp; set `clock: log` for this stream")
        if stamp_ns < last_ns and plan.mapping.out_of_order == "refuse":
            raise InvalidValue(
                f"the stamp goes back from {last_ns} to {stamp_ns} ns; cut the bag there, or leave such messages out "
                "with `out_of_order: drop`"
            )
        (self._repeated if stamp_ns == last_ns else self._out_of_order)[name] += 1
        return False

    def counts(self) -> dict[str, dict[str, int]]:
        return {
            name: {"kept": kept, "repeated": self._repeated[name], "out_of_order": self._out_of_order[name]}
            for name, kept in sorted(self.kept.items())
        }


class _Buffer:
    """Gathers the samples of one stream to a block."""

    def __init__(self, array: ArraySpec) -> None:
        self._array = array
        row_bytes = max(1, array.size * np.dtype(array.dtype).itemsize)
        self._rows_max = max(1, min(_BLOCK_ROWS_MAX, _BLOCK_BYTES // row_bytes))
        self.stamps_ns: list[int] = []
        self._received_ns: list[int] = []
        self._values: list[Any] = []

    @property
    def is_full(self) -> bool:
        return len(self.stamps_ns) >= self._rows_max

    def add(self, stamp_ns: int, received_ns: int, values: Any) -> None:
        self.stamps_ns.append(stamp_ns)
        self._received_ns.append(received_ns)
        self._values.append(values)

    def take(self) -> Block:
        times = (np.array(self.stamps_ns, np.int64), np.array(self._received_ns, np.int64))
        block = (self._array.name, *times, np.stack(self._values))
        self.stamps_ns, self._received_ns, self._values = [], [], []
        return block


@contextmanager
def _naming(message: Message) -> Iterator[None]:
    try:
        yield
    except (InvalidValue, DatasetError) as error:
        raise DatasetError(f"{message.file}: {message.topic}: message {message.number}: {error}") from error


def _decoder(bag: Bag, name: str, definitions: Mapping[str, str]) -> Decoder:
    topic = bag.topic(name)
    try:
        return Decoder(topic.type, topic.definition, definitions)
    except DatasetError as error:
        raise DatasetError(f"{bag.path}: topic {name}: {error}") from error


def _mapping_path(config: ImportConfig, paths: list[Path]) -> Path:
    """Return the mapping that was given or lies in the source; else list the topics and raise ConfigError."""
    if config.mapping is not None:
        return config.mapping
    folder = config.source if config.source.is_dir() else config.source.parent
    if (folder / MAPPING_NAME).is_file():
        return folder / MAPPING_NAME
    Console(stderr=True).print(describe_bag(paths[0]))
    raise ConfigError(f"{config.source}: needs --mapping FILE.yaml (or a {MAPPING_NAME} in it) that says which topics "
                      f"become which streams; {EXAMPLE} is an example")  # fmt: skip


def _restored(bag: Bag) -> dict[str, Any]:
    """Return the episode's metadata, where our export wrote the bag."""
    if EPISODE_KEY not in bag.custom:
        return {}
    where = f"{bag.path}: custom_data.{EPISODE_KEY}"
    try:
        data = json.loads(bag.custom[EPISODE_KEY])
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where} is no JSON: {error}") from error
    kept = {key: data[key] for key in _RESTORED if key in data} if isinstance(data, dict) else None
    if kept is None or not all(isinstance(kept.get(key, ""), str) for key in _STRINGS):
        raise DatasetError(f"{where} is no episode's metadata")
    for key, valid in (("success", (True, False, None)), ("outcome", ("success", "failure", "incomplete", ""))):
        if kept.get(key, valid[-1]) not in valid:
            raise DatasetError(f"{where}: {key} is {kept[key]!r}. Valid: {', '.join(map(repr, valid))}")
    return kept
