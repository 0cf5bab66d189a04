"""Cameras of a MuJoCo world, drawn offscreen without robosuite's own renderer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sim.backend import mujoco

RenderProfile = Literal["fast", "full"]
COLLISION_GEOM_GROUP = 0


def default_profile() -> RenderProfile:
    """Return `full` where an NVIDIA GPU can render, else `fast`."""
    return "full" if Path("/proc/driver/nvidia/version").exists() else "fast"


@dataclass(frozen=True)
class CameraPose:
    """Where a fixed camera stands and looks: world frame [m], vertical field of view [deg]."""

    position: tuple[float, float, float]
    target: tuple[float, float, float]
    fovy_deg: float

    @property
    def quaternion(self) -> NDArray[np.float64]:
        """Return the orientation (w, x, y, z): the camera looks along its -z axis with +y up."""
        backward = np.subtract(self.position, self.target)
        backward /= np.linalg.norm(backward)
        right = np.cross((0.0, 0.0, 1.0), backward)
        right /= np.linalg.norm(right)
        rotation = np.column_stack((right, np.cross(backward, right), backward))
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, rotation.ravel())
        return quaternion


def place_camera(model: Any, name: str, pose: CameraPose) -> None:
    """Move the world-fixed camera `name` of a MuJoCo model to `pose`."""
    camera = model.camera(name)
    camera.pos[:], camera.quat[:], camera.fovy[:] = pose.position, pose.quaternion, pose.fovy_deg


class Cameras:
    """Draws named cameras of one model as square uint8 images."""

    def __init__(self, model: Any, names: Mapping[str, str], size: int, profile: RenderProfile) -> None:
        """Prepare a renderer; `names` maps the observation's name to the camera's name in the model."""
        self._names = dict(names)
        fast = profile == "fast"
        # The framebuffer is created with the renderer, so multisampling can only be chosen before it.
        model.vis.quality.offsamples = 0 if fast else 4
        # So can its size, which models limit to 640 x 480.
        for side in ("offwidth", "offheight"):
            setattr(model.vis.global_, side, max(size, getattr(model.vis.global_, side)))
        self._renderer = mujoco.Renderer(model, size, size)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._renderer.scene.flags[flag] = not fast
        self._option = mujoco.MjvOption()
        self._option.geomgroup[COLLISION_GEOM_GROUP] = 0
        self._option.sitegroup[:] = 0

    def draw(self, data: Any) -> dict[str, NDArray[np.uint8]]:
        """Return every camera's image, (S, S, 3) RGB."""
        return {name: self._draw_one(data, camera) for name, camera in self._names.items()}

    def close(self) -> None:
        """Release the OpenGL context."""
        self._renderer.close()

    def _draw_one(self, data: Any, camera: str) -> NDArray[np.uint8]:
        self._renderer.update_scene(data, camera, scene_option=self._option)
        return self._renderer.render()
