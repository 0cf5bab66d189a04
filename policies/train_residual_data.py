"""Demonstrations as transitions: at every step the frozen policy says what it would have done there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from armature.errors import DatasetError
from armature.normalizer import FieldStats, Normalizer
from armature.spec import RobotSpec, require_compatible
from armature.types import Observation
from data_collection.store import Episode, open_dataset
from data_collection.windows import ACTION, aligned_episode
from policies.action_frame import ActionFrame
from policies.camera_frames import can_show, frame_of
from policies.chunk_policy import ChunkPolicy
from policies.detour import Detour
from policies.frame_replay import FrameReplay
from policies.replay import Layout, NStep, Replay, Step, Vector
from policies.residual_sight import Sight
from policies.residual_td3 import ResidualConfig
from policies.residual_view import ResidualView
from policies.standing import Standing
from policies.train_data import is_successful

TOGETHER = 64
"""Questions to the policy that are answered in one batch."""
SPREAD_MIN = 0.01
"""Deviation of a value that hardly varies in the demonstrations [rad, m or 1]: later it may, and is no outlier."""

Arrays = dict[str, NDArray[Any]]
FRAMES = "frames"
"""Of an episode for a residual that looks at cameras: what they show, (T, cameras, image_px, image_px, 3)."""


def shown_px(path: Path, sight: Sight) -> int:
    """Return the edge [px] of the images of demonstrations; raise DatasetError naming a camera that they lack.

    Or one whose images are too small, are no squares as a simulation's are, or of another size than those of others.
    """
    offered = {image.name: image.shape[:2] for image in open_dataset(path).spec.observation.images}
    for name in sight.cameras:
        if name not in offered:
            valid = f"it has {', '.join(offered) or 'no images'}"
            raise DatasetError(f"{path}: has no images of {name}, {valid}: collect demonstrations with --cameras")
        height, width = offered[name]
        if not can_show(sight, offered[name]):
            wanted = f"the residual is to see squares of {sight.image_px} px"
            raise DatasetError(f"{path}: images of {name} are {height} x {width}, {wanted}: they are never enlarged")
        if offered[name] != offered[sight.cameras[0]]:
            first = f"those of {sight.cameras[0]} {offered[sight.cameras[0]][0]}"
            raise DatasetError(f"{path}: images of {name} are {height} px wide, {first}: a simulation has one size")
    return offered[sight.cameras[0]][0]


def origins_of(base_id: str, dataset: Path | None) -> dict[str, str | None]:
    """Return what a training begins with, wherever that lies."""
    return {"base policy": base_id, "demonstrations": None if dataset is None else open_dataset(dataset).fingerprint}


def open_demonstrations(
    path: Path, spec: RobotSpec, task: str, sight: Sight | None = None, base_sees: Sequence[str] = ()
) -> list[Arrays]:
    """Return the successful episodes as arrays by name, `action` (T, D) among them, and FRAMES for a `sight`.

    What is in the frames is not kept in its own size, unless the base sees it.

    Raises DatasetError where there is none, one is of another task, or a number is not finite; SpecMismatch where they
    are of another robot.
    """
    dataset = open_dataset(path)
    require_compatible(spec, dataset.spec, "the residual")
    episodes = [episode for episode in dataset.episodes if is_successful(episode)]
    if not episodes:
        raise DatasetError(f"{path}: has {len(dataset.episodes)} episodes, none successful: nothing to learn from")
    for episode in episodes:
        # What was imported may not say.
        if (shown := episode.metadata.get("task") or task) != task:
            raise DatasetError(f"{path}: episode {episode.index} shows task '{shown}', to be learned is '{task}'")
    return [_arrays(episode, spec, sight, base_sees) for episode in episodes]


def _arrays(episode: Episode, spec: RobotSpec, sight: Sight | None, base_sees: Sequence[str]) -> Arrays:
    arrays = aligned_episode(episode, spec)
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0])
            raise DatasetError(f"{episode.dataset}: episode {episode.index}, {name}, step {row}: not finite")
    if sight is not None:
        images = {name: arrays[name] if name in base_sees else arrays.pop(name) for name in sight.cameras}
        moments = (dict(zip(images, each, strict=True)) for each in zip(*images.values(), strict=True))
        arrays[FRAMES] = np.stack([frame_of(sight, moment) for moment in moments])
    return arrays


def statistics_of(episodes: list[Arrays], spec: RobotSpec) -> Normalizer:
    """Return mean and deviation of every vector of the robot over the demonstrations, the deviation floored."""
    fields: dict[str, FieldStats] = {}
    for array in spec.observation.vectors:
        stats = FieldStats.of(np.concatenate([episode[array.name] for episode in episodes]))
        std = tuple(max(each, SPREAD_MIN) for each in stats.std)
        fields[array.name] = FieldStats(stats.minimum, stats.maximum, stats.mean, std, stats.count)
    return Normalizer(fields, dict.fromkeys(fields, "gaussian"))


def demonstration_rows(
    episodes: list[Arrays],
    base: ChunkPolicy | Standing,
    view: ResidualView,
    config: ResidualConfig,
    execute_steps: int,
    sight: Sight | None = None,
) -> Replay | FrameReplay:
    """Return the demonstrations as transitions, with the base's actions beside those of the demonstrator.

    The base begins every episode anew and is asked every `execute_steps`, as it is on the robot.
    """
    layout = Layout(view.observation_dim, view.action_dim)
    count = sum(len(episode[ACTION]) for episode in episodes)
    replay = Replay(layout, count) if sight is None else FrameReplay(layout, count, sight.frame_shape)
    for episode in track(episodes, "relabelling demonstrations", transient=True):
        every = min(execute_steps, base.chunk_shape[0])
        planned = _base_actions(episode, base, every)
        asked = _led_actions(planned, episode[ACTION].astype(np.float64), every, view.frame)
        replay.add(_rows(episode, asked, view, NStep(replay.layout, config.steps, config.discount), replay))
    return replay


def _base_actions(episode: Arrays, base: ChunkPolicy | Standing, execute_steps: int) -> NDArray[np.float64]:
    """Return what the base plans for every step (T, D)."""
    steps, period_ns = len(episode[ACTION]), base.spec.action.period_ns
    starts = range(0, steps, execute_steps)
    questions = [_observation(episode, base, start, start * period_ns) for start in starts]
    state = base.begin(0)
    chunks = [
        chunk
        for first in range(0, len(questions), TOGETHER)
        for chunk in base.infer_batch(
            questions[first : first + TOGETHER], [state] * len(questions[first : first + TOGETHER])
        )
    ]
    return np.concatenate([chunk.actions[:execute_steps] for chunk in chunks])[:steps]


def _led_actions(
    planned: NDArray[np.float64], executed: NDArray[np.float64], every: int, frame: ActionFrame
) -> NDArray[np.float64]:
    """Return what the base asks for at every step (T, D), led as far off each plan as the demonstrator went before."""
    asked, detour = np.empty_like(planned), Detour(frame)
    for step in range(len(planned)):
        if step % every == 0:
            detour.follow(step)
        asked[step] = planned[step] + detour.distance
        detour.lead(step, planned[step], executed[step] - asked[step])
    return asked


def _observation(episode: Arrays, base: ChunkPolicy | Standing, step: int, stamp_ns: int) -> Observation:
    """Return what the policy sees at a step; before the first one the world stood still."""
    rows = np.maximum(np.arange(step - base.obs_steps + 1, step + 1), 0)
    return Observation(stamp_ns, {array.name: episode[array.name][rows] for array in base.spec.observation})


def _rows(
    episode: Arrays, asked: NDArray[np.float64], view: ResidualView, nstep: NStep, replay: Replay | FrameReplay
) -> list[Vector]:
    measured, executed = _measured(episode, view), episode[ACTION].astype(np.float64)
    before = np.concatenate((measured[:1], executed[:-1]))
    last = len(executed) - 1
    seen = [
        view.observe({name: episode[name][t] for name in view.names}, measured[t], before[t]) for t in range(last + 1)
    ]
    if isinstance(replay, FrameReplay):
        seen = [replay.show(vector, frame) for vector, frame in zip(seen, episode[FRAMES], strict=True)]
    base = view.frame.encode(asked, measured)
    done = view.frame.encode(executed, measured)
    rows: list[Vector] = []
    for t in range(last + 1):
        following = min(t + 1, last)
        step = Step(seen[t], base[t], done[t], float(t == last))
        rows += nstep.add(step, seen[following], base[following], terminated=t == last)
    return rows


def _measured(episode: Arrays, view: ResidualView) -> NDArray[np.float64]:
    """Return where the robot was at every step, in the layout of the action (T, D)."""
    steps = len(episode[ACTION])
    parts = {part.name: episode.get(part.name, np.zeros((steps, part.size))) for part in view.spec.action.arrays}
    return view.spec.action.join(parts).astype(np.float64)
