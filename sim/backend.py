"""MuJoCo and robosuite, imported in the only order that works: the OpenGL backend is chosen at import."""

from __future__ import annotations

import ctypes.util
import logging
import os

os.environ.setdefault("MUJOCO_GL", "egl" if ctypes.util.find_library("EGL") else "osmesa")
os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])
# robosuite warns at import about optional parts (whole-body IK, mimicgen) that are not used here.
logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)

import mujoco  # noqa: E402
import robosuite  # noqa: E402

__all__ = ["mujoco", "robosuite"]
