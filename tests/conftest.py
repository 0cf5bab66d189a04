"""Settings of all tests."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# The plugin beside this file, and the helpers of the fault tests, are imported by name.
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "faults")]
pytest_plugins = ("fault_matrix",)

# No deadline, because a loaded machine is no failure; the same examples on every run, so that a failure repeats.
settings.register_profile("armature", deadline=None, derandomize=True)
# For HYPOTHESIS_PROFILE: other examples every time, and a hundred times as many; or few, for every mutant.
settings.register_profile("nightly", deadline=None, max_examples=10_000, print_blob=True)
settings.register_profile("mutation", deadline=None, derandomize=True, max_examples=1, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "armature"))

# A shell starts background jobs with Ctrl-C ignored, and everything that the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real recordings that lies beside the checkout; they are no part of the project."""
    folder = Path(os.environ.get("ARMATURE_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real recordings are not at {folder}; set ARMATURE_SHARED_DATA to their folder")
    return folder
