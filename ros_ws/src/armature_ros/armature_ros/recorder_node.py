"""Records every stream of the robot and what was sent to it, episode by episode, into a dataset."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger

from armature.errors import ArmatureError, ConfigError
from armature.spec import RobotSpec, differences
from armature_ros.conversions import Episode
from armature_ros.diagnostics import Diagnostics
from armature_ros.parameters import load_config
from armature_ros.robot import RobotConfig, load_robot_spec
from armature_ros.spin import run
from armature_ros.stream_reader import StreamReader, Window
from armature_ros.streams import StreamConfig
from data_collection.recorder import EpisodeSummary, Recorder
from data_collection.store import Dataset, create_dataset, open_dataset

QUIET_S = 0.3


@dataclass(frozen=True)
class RecorderNodeConfig:
    """Parameters of `recorder_node`."""

    streams: dict[str, StreamConfig]
    dataset: str
    """Folder; created when there is none."""
    robot: RobotConfig = field(default_factory=RobotConfig)
    operator: str = ""
    queue_mb: int = 256
    """How much may wait for the disk before samples are dropped and counted [MB]."""
    drain_timeout_s: float = 5.0
    """How long `~/end` waits for samples that were published and have not arrived."""


class RecorderNode(Node):
    """Begins, ends and discards episodes; the streams are read by a StreamReader."""

    def __init__(self) -> None:
        super().__init__("recorder_node", automatically_declare_parameters_from_overrides=True)
        self.config = load_config(self, RecorderNodeConfig)
        spec = load_robot_spec(self.config.robot)
        self._recorder = Recorder(_dataset(self.config, spec), self.config.queue_mb * 1_000_000)
        self._reader = StreamReader(self, spec, self.config.streams, self._recorder)
        self._episode: Episode | None = None
        self.create_service(Trigger, "~/start", self._answering(self._start))
        self.create_service(Trigger, "~/stop", self._answering(self._stop))
        self.create_service(Trigger, "~/discard", self._answering(self._discard))
        self.create_service(SetBool, "~/end", self._answering(self._end))
        Diagnostics(self, self._diagnose)
        self.get_logger().info(f"{self.config.dataset}: ready")

    def destroy_node(self) -> None:
        """Discard what is not committed and give the dataset back."""
        self._reader.close()
        self._recorder.close()
        super().destroy_node()

    def _answering(self, act: Callable[[Any], str]) -> Callable[[Any, Any], Any]:
        """Wrap an action as a service: its text is the message, an error of the user's is a refusal."""

        def on_request(request: Any, response: Any) -> Any:
            try:
                response.success, response.message = True, act(request)
            except ArmatureError as error:
                response.success, response.message = False, str(error)
            return response

        return on_request

    def _start(self, _request: Trigger.Request) -> str:
        """Begin an episode; the answer says from which stamp on, so that the caller can compare."""
        missing = self._reader.waiting_for()
        if missing:
            raise ConfigError(f"waiting for {', '.join(missing)}: nobody publishes it")
        announced = self._announced()
        begin_ns = self.get_clock().now().nanoseconds if announced is None else announced.begin_ns
        seed = {} if announced is None else {"seed": announced.seed}
        number = self._recorder.start({"operator": self.config.operator, **seed})
        self._episode = announced
        self._reader.window = Window(begin_ns)
        return json.dumps({"episode": number, "begin_ns": begin_ns})

    def _announced(self) -> Episode | None:
        """Return the episode that a simulator has announced; None on a robot that announces none."""
        announced = self._reader.episode
        if announced is None and self._reader.count_announcers():
            raise ConfigError("an episode is announced on `episode`, but has not arrived yet")
        if announced is not None and announced == self._episode:
            raise ConfigError(f"episode {announced.episode} was recorded already, and no new one is announced")
        return announced

    def _stop(self, _request: Trigger.Request) -> str:
        self._reader.window.end_ns = self._reader.window.newest_ns
        return "no further samples are taken; ~/end or ~/discard the episode"

    def _discard(self, _request: Trigger.Request) -> str:
        self._reader.window = Window()
        self._episode = None
        self._recorder.discard()
        return "discarded"

    def _end(self, request: SetBool.Request) -> str:
        published = self._drain() if self._recorder.is_recording else {}
        self._reader.window = Window()
        summary = self._recorder.end(request.data)
        return json.dumps({**_plain(summary), "published": published})

    def _drain(self) -> dict[str, int]:
        """Wait for samples in flight; return how many were published by stream, where the robot says so."""
        window, begin_s = self._reader.window, time.monotonic()
        while time.monotonic() < begin_s + self.config.drain_timeout_s:
            result = self._result()
            is_quiet = time.monotonic() - max(window.last_accepted_s, begin_s) > QUIET_S
            if result is not None and window.end_ns >= result["end_ns"]:
                window.end_ns = result["end_ns"]
                published = result["published"]
                knows_all = len(published) == len(self._recorder.counts())
                if not self._lost(published) if knows_all else is_quiet:
                    return published
            elif self._episode is None or is_quiet:
                # Nobody says when it ended, or ~/stop did: it ends with what is here.
                window.end_ns = min(window.end_ns, window.newest_ns)
                if is_quiet:
                    return {}
            time.sleep(0.005)
        published = (self._result() or {}).get("published", {})
        lost = ", ".join(f"{count} of {name}" for name, count in self._lost(published).items())
        self.get_logger().error(f"~/end: published but not received: {lost or 'nothing'}")
        return published

    def _lost(self, published: dict[str, int]) -> dict[str, int]:
        accepted = self._reader.window.accepted
        return {name: count - accepted[name] for name, count in published.items() if accepted[name] < count}

    def _result(self) -> dict[str, Any] | None:
        """Return the result of the episode that is recorded, once it is there."""
        result = self._reader.result
        is_ours = result is not None and self._episode is not None and result["episode"] == self._episode.episode
        return result if is_ours else None

    def _diagnose(self) -> dict[str, dict[str, str]]:
        counts = {name: _figures(count) for name, count in self._recorder.counts().items()}
        topics = {topic: monitor.report() for topic, monitor in self._reader.monitors.items()}
        malformed = {topic: {"malformed": str(count)} for topic, count in self._reader.malformed.items()}
        return {**counts, **{topic: {**values, **malformed.get(topic, {})} for topic, values in topics.items()}}


def _dataset(config: RecorderNodeConfig, spec: RobotSpec) -> Dataset:
    """Open or create the dataset; raise ConfigError when it is of another robot or task."""
    path = Path(config.dataset)
    if not config.dataset:
        raise ConfigError("parameters of recorder_node: 'dataset' is empty; give the folder to record into")
    if not path.exists():
        return create_dataset(path, spec, config.robot.task)
    dataset = open_dataset(path)
    if dataset.task != config.robot.task:
        raise ConfigError(f"{path}: holds task '{dataset.task}', not '{config.robot.task}'; choose another folder")
    if dataset.spec.fingerprint != spec.fingerprint:
        found = "; ".join(differences(dataset.spec, spec) + differences(spec, dataset.spec))
        raise ConfigError(f"{path}: was recorded with another robot: {found}")
    return dataset


def _plain(summary: EpisodeSummary) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(summary)))


def _figures(count: Any) -> dict[str, str]:
    dropped = sum(count.dropped.values())
    fault = f"{dropped} dropped: {count.dropped}" if dropped else ""
    return {"received": str(count.received), "recorded": str(count.recorded), "dropped": str(dropped), "fault": fault}


def main(args: list[str] | None = None) -> int:
    """Run the node; return the exit code."""
    return run(RecorderNode, args=args)


if __name__ == "__main__":
    raise SystemExit(main())
