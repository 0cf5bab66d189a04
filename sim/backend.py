"""MuJoCo and robosuite, imported in the only order that works: the OpenGL backend is chosen at import."""

from __future__ import annotations

import logging

from sim.opengl import mujoco

# robosuite warns at import about optional parts (whole-body IK, mimicgen) that are not used here.
logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)

import robosuite  # noqa: E402

__all__ = ["mujoco", "robosuite"]
