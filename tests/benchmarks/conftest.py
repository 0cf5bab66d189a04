"""Benchmarks are scripts that import each other by name; what is tested here is how they judge, not what they find."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture
def of_the_graph() -> Callable[[str], ModuleType]:
    """Import a benchmark that speaks ROS, where that is installed."""

    def imported(name: str) -> ModuleType:
        with warnings.catch_warnings():
            # ROS's message generator imports a parser that still uses a deprecated module of the standard library.
            warnings.simplefilter("ignore", DeprecationWarning)
            pytest.importorskip("rclpy")
            return importlib.import_module(name)

    return imported
