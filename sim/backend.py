"""MuJoCo and robosuite, imported in the only order that works: the OpenGL backend is chosen at import."""

from __future__ import annotations

import ctypes.util
import logging
import os

os.environ.setdefault("MUJOCO_GL", "egl" if ctypes.util.find_library("EGL") else "osmesa")
os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])
# A cache of shaders saves no time with these scenes, but costs a thread per process and writes into the user's home.
os.environ.setdefault("MESA_SHADER_CACHE_DISABLE", "true")
# robosuite warns at import about optional parts (whole-body IK, mimicgen) that are not used here.
logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)

import mujoco  # noqa: E402
import robosuite  # noqa: E402

__all__ = ["mujoco", "robosuite"]
