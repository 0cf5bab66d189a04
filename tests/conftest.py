"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# No deadline, because a loaded machine is no failure; the same examples on every run, so that a failure repeats.
settings.register_profile("armature", deadline=None, derandomize=True)
settings.load_profile("armature")
