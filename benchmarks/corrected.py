"""A residual whose corrections never rest, and how to tell from outside which commands they act on."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path

import numpy as np
import torch
from graph_probe import GraphProbe
from numpy.typing import NDArray
from swinging import fer_spec
from trajectory_msgs.msg import JointTrajectory

from armature.control.blending import interpolate
from armature.normalizer import FieldStats, Normalizer
from armature.types import ActionChunk
from armature_ros.conversions import action_from_msg, chunk_from_msg, ns_from_time
from armature_ros.qos import reliable_qos
from policies.actor_weights import ActorWeights
from policies.checkpoint import load_policy
from policies.residual_folder import ResidualFolder, ResidualSettings, save_residual
from policies.residual_td3 import ResidualActor
from policies.residual_view import ResidualView
from sim.defaults import robot_limits

HIDDEN = (256, 256)
# A correction is tens of millirad; what differs by less from the policy's action is that action.
SAME = 1e-6
CHUNKS, REQUESTS = 16, 1000
START = "residual_node/start"
ASKED_AGAIN_S = 0.2
# A tenth of a second in which every command was corrected.
SETTLED = 10


def restless_residual(folder: Path, checkpoint: Path) -> Path:
    """Write a residual of a policy for the Franka arm: random weights, so that it corrects every action."""
    spec, limits = fer_spec(), robot_limits("fer").safety("run")
    seen = {array.name: FieldStats.of(np.array([array.low, array.high])) for array in spec.observation.vectors}
    normalizer = Normalizer(seen, dict.fromkeys(seen, "limits"))
    view = ResidualView(spec, limits, normalizer)
    torch.manual_seed(0)
    actor = ResidualActor(view.observation_dim, view.action_dim, HIDDEN)
    with torch.no_grad():
        torch.nn.init.normal_(actor.layers[-2].weight, std=HIDDEN[-1] ** -0.5)
    arrays = {name: tensor.numpy().copy() for name, tensor in actor.state_dict().items()}
    weights = ActorWeights(0, 1.0, 0.0, load_policy(checkpoint).policy_id, arrays)
    settings = ResidualSettings(scale=0.5, steps=1, discount=0.99)
    save_residual(folder, ResidualFolder.of("swing", view, normalizer, settings, weights))
    return folder


class CorrectionWatch:
    """Compares what the gate is asked for with what the policy planned: where they differ, a correction acts."""

    def __init__(self, probe: GraphProbe) -> None:
        self._probe, self._spec = probe, fer_spec().action
        self._chunks: deque[ActionChunk] = deque(maxlen=CHUNKS)
        self._requests: deque[tuple[float, int, NDArray[np.float64]]] = deque(maxlen=REQUESTS)
        probe.listen(JointTrajectory, "chunk", reliable_qos(100), self._on_chunk)
        probe.listen(JointTrajectory, "control/requested", reliable_qos(100), self._on_request)

    def begin(self, timeout_s: float) -> None:
        """Return once every command is corrected, beginning an episode if need be; raise TimeoutError if that fails."""
        asked_s = begin_s = time.monotonic()
        while not self._is_settled():
            now_s = time.monotonic()
            if now_s - begin_s > timeout_s:
                raise TimeoutError(f"no corrections act for {timeout_s:g} s")
            if now_s - asked_s > ASKED_AGAIN_S or asked_s == begin_s:
                self._probe.call(START)
                asked_s = now_s
            time.sleep(0.02)

    def last_corrected_s(self, since_s: float) -> float:
        """Return when the last corrected request was seen, `since_s` where there was none since."""
        seen_s = [at_s for at_s, stamp_ns, asked in list(self._requests) if self._is_corrected(stamp_ns, asked)]
        return max(since_s, *seen_s[-1:])

    def _is_settled(self) -> bool:
        newest = list(self._requests)[-SETTLED:]
        return len(newest) == SETTLED and all(self._is_corrected(stamp_ns, asked) for _, stamp_ns, asked in newest)

    def _is_corrected(self, stamp_ns: int, asked: NDArray[np.float64]) -> bool:
        """Tell whether something was asked for that no chunk has planned for that time."""
        planned = [chunk for chunk in list(self._chunks) if chunk.start_ns <= stamp_ns < chunk.end_ns]
        is_planned = any(np.abs(asked - interpolate(chunk, stamp_ns)).max() < SAME for chunk in planned)
        return bool(planned) and not is_planned and bool(np.isfinite(asked).all())

    def _on_chunk(self, message: JointTrajectory) -> None:
        self._chunks.append(chunk_from_msg(message, self._spec))

    def _on_request(self, message: JointTrajectory) -> None:
        asked = action_from_msg(message, self._spec.labels)
        self._requests.append((time.monotonic(), ns_from_time(message.header.stamp), asked))
