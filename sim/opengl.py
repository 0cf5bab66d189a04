"""MuJoCo alone, imported after the choice of the OpenGL backend that it renders with: later has no effect."""

from __future__ import annotations

import ctypes.util
import os

os.environ.setdefault("MUJOCO_GL", "egl" if ctypes.util.find_library("EGL") else "osmesa")
os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])
# A cache of shaders saves no time with these scenes, but costs a thread per process and writes into the user's home.
os.environ.setdefault("MESA_SHADER_CACHE_DISABLE", "true")

import mujoco

__all__ = ["mujoco"]
