"""The film of a dataset: the cameras of every episode side by side, and which episode it is and how it ended.

Frames come from the recorded dataset, so the film shows what the recorder kept and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from armature.alignment import newest_not_after
from armature.spec import RobotSpec
from data_collection.store import Dataset, Episode

Image = NDArray[np.uint8]

INK, PAPER, MUTED = (24, 28, 36), (244, 246, 250), (150, 160, 176)
GREEN, RED = (46, 178, 110), (222, 84, 76)
FONT, FONT_SCALE = cv2.FONT_HERSHEY_DUPLEX, 0.56


@dataclass(frozen=True)
class VideoConfig:
    """Size and quality of the film; `hold_s` is how long an episode's last frame stays with its outcome."""

    tile_px: int = 400
    strip_px: int = 48
    hold_s: float = 0.8
    crf: int = 23


@dataclass(frozen=True)
class _Caption:
    """What the strip says under one frame; `outcome` is None until the episode has ended."""

    number: int
    total: int
    seed: int
    time_s: float
    progress: float
    successes: int
    outcome: bool | None


def write_video(
    path: Path, dataset: Dataset, config: VideoConfig | None = None, on_episode: Callable[[], None] | None = None
) -> int:
    """Write all episodes of `dataset` as H.264 at the speed they were recorded; return the number of frames.

    `on_episode` is called after each episode, for progress bars.
    """
    config = config or VideoConfig()
    rate_hz = round(dataset.spec.observation.rate_hz)
    count = 0
    with av.open(str(path), "w") as container:
        stream = _video_stream(container, dataset.spec, config, rate_hz)
        for frame in film(dataset, config, on_episode):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            count += 1
        container.mux(stream.encode(None))
    return count


def _video_stream(
    container: av.container.OutputContainer, spec: RobotSpec, config: VideoConfig, rate_hz: int
) -> av.VideoStream:
    stream = container.add_stream("libx264", rate=rate_hz, options={"crf": str(config.crf), "preset": "veryfast"})
    stream.width = config.tile_px * len(spec.observation.images)
    stream.height = config.tile_px + config.strip_px
    stream.pix_fmt = "yuv420p"
    return stream


def film(dataset: Dataset, config: VideoConfig, on_episode: Callable[[], None] | None = None) -> Iterator[Image]:
    """Yield the frames (tile + strip, tile x cameras, 3) of all episodes in order."""
    cameras = [array.name for array in dataset.spec.observation.images]
    episodes = [episode for episode in dataset.episodes if episode.is_complete]
    hold_frames = round(config.hold_s * dataset.spec.observation.rate_hz)
    successes = 0
    for number, episode in enumerate(episodes, start=1):
        success = bool(episode.metadata["success"])
        frames = list(aligned_frames(episode, cameras))
        for k, (time_s, images) in enumerate(frames, start=1):
            ended = k == len(frames)
            successes += success and ended
            seed = int(episode.metadata["seed"])
            caption = _Caption(
                number, len(episodes), seed, time_s, k / len(frames), successes, success if ended else None
            )
            frame = _frame(images, caption, config)
            yield from [frame] * (hold_frames if ended else 1)
        if on_episode:
            on_episode()


def aligned_frames(episode: Episode, cameras: Sequence[str]) -> Iterator[tuple[float, list[Image]]]:
    """Yield (time since the first frame [s], one image per camera) for every frame of the first camera.

    The other cameras show their newest frame that is not after it.
    """
    streams = [episode.read(name) for name in cameras]
    ticks_ns = np.asarray(streams[0][0])
    age_ns = np.iinfo(np.int64).max
    index = [newest_not_after(np.asarray(stamps), ticks_ns, age_ns) for stamps, _, _ in streams]
    for k, tick_ns in enumerate(ticks_ns):
        yield (
            (tick_ns - ticks_ns[0]) / 1e9,
            [data[max(i[k], 0)] for (_, _, data), i in zip(streams, index, strict=True)],
        )


def _frame(images: Sequence[Image], caption: _Caption, config: VideoConfig) -> Image:
    size = (config.tile_px, config.tile_px)
    tiles = [cv2.resize(image, size, interpolation=cv2.INTER_LANCZOS4) for image in images]
    picture = np.hstack(tiles)
    return np.vstack([picture, _strip(picture.shape[1], caption, config.strip_px)])


def _strip(width_px: int, caption: _Caption, height_px: int) -> Image:
    strip = np.full((height_px, width_px, 3), INK, np.uint8)
    cv2.rectangle(strip, (0, 0), (round(width_px * caption.progress), 3), _bar_colour(caption), -1)
    compact = width_px < 700
    left = f"{caption.number}/{caption.total}" if compact else f"Episode {caption.number} of {caption.total}"
    _write(strip, left, 20, PAPER)
    _write(strip, f"{caption.time_s:5.2f} s", round(width_px * (0.24 if compact else 0.29)), PAPER)
    if not compact:
        _write(strip, f"seed {caption.seed}", round(width_px * 0.43), MUTED)
    if caption.outcome is not None:
        _write(strip, "success" if caption.outcome else "failed", round(width_px * 0.6), _bar_colour(caption))
    _write_right(strip, f"{caption.successes} succeeded", width_px - 20, MUTED)
    return strip


def _bar_colour(caption: _Caption) -> tuple[int, int, int]:
    return MUTED if caption.outcome is None else GREEN if caption.outcome else RED


def _write(strip: Image, text: str, x_px: int, colour: tuple[int, int, int]) -> None:
    cv2.putText(strip, text, (x_px, strip.shape[0] // 2 + 8), FONT, FONT_SCALE, colour, 1, cv2.LINE_AA)


def _write_right(strip: Image, text: str, x_px: int, colour: tuple[int, int, int]) -> None:
    (width_px, _), _ = cv2.getTextSize(text, FONT, FONT_SCALE, 1)
    _write(strip, text, x_px - width_px, colour)
