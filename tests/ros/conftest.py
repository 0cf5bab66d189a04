"""Every ROS test has a domain of its own, so that no two graphs on this machine hear each other."""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

# ROS's message generator imports a parser that still uses a deprecated module of the standard library.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import rosidl_generator_py  # noqa: F401

import torch

from armature.normalizer import FieldStats, Normalizer
from armature.spec import RobotSpec
from armature_ros.graph import graph_environment
from policies.checkpoint import save_checkpoint
from policies.chunk_policy import ChunkPolicy
from policies.diffusion import DiffusionConfig, UnetConfig
from policies.nets.observation import VisionConfig
from policies.policy_config import PolicyConfig

# What several of these tests share is imported by name.
sys.path.insert(0, str(Path(__file__).parent))

# Above 101 the ports of Fast DDS run into those that Linux gives to clients.
DOMAINS = range(1, 102)
# Each test takes the next one: what an earlier test has left in this process knows nothing of the present graph. Up to
# four processes of pytest-xdist begin far apart, so that none takes what another has only just given back.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_next_domains = itertools.islice(itertools.cycle(DOMAINS), 25 * _WORKER, None)


@contextmanager
def own_domain() -> Iterator[int]:
    """Hold a domain id that no other test process on this machine uses."""
    for domain in itertools.islice(_next_domains, len(DOMAINS)):
        with (Path(tempfile.gettempdir()) / f"armature-test-domain-{domain}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            _forget_killed_processes(domain)
            yield domain
            return
    raise RuntimeError(f"all ROS domains {DOMAINS} are in use")


def _forget_killed_processes(domain: int) -> None:
    """Remove the shared-memory ports of a domain that nobody uses.

    A process that was killed while it held the lock of one blocks every later one of the domain (Fast DDS #3535).
    """
    ports = range(7400 + 250 * domain, 7400 + 250 * (domain + 1))
    for file in Path("/dev/shm").glob("*fastrtps_port*"):
        digits = re.search(r"port(\d+)", file.name)
        if digits and int(digits[1]) in ports:
            file.unlink(missing_ok=True)


@contextmanager
def ros_environment(logs: Path) -> Iterator[dict[str, str]]:
    """Set the variables of a graph of its own for this process and its children."""
    with own_domain() as domain, pytest.MonkeyPatch.context() as patch:
        environment = {**graph_environment(domain), "ROS_LOG_DIR": str(logs)}
        for name, value in environment.items():
            patch.setenv(name, value)
        yield environment


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Variables of one test's own graph."""
    with ros_environment(tmp_path / "ros_log") as variables:
        yield variables


@pytest.fixture(scope="module")
def module_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Variables of the graph that the tests of one file share."""
    with ros_environment(tmp_path_factory.mktemp("ros_log")) as variables:
        yield variables


@pytest.fixture(scope="session")
def write_checkpoint() -> Callable[..., Path]:
    """A function that writes a small diffusion policy with random weights."""
    return _write_checkpoint


def _write_checkpoint(
    path: Path,
    spec: RobotSpec,
    observations: tuple[str, ...],
    obs_steps: int = 1,
    vision: VisionConfig | None = None,
    around: NDArray[np.float64] | None = None,
) -> Path:
    """Write the policy, which sees `observations` of `spec`; it acts anywhere, or within 0.05 of `around`."""
    vision = vision or VisionConfig(channels=(4, 8), strides=(2, 2), features=8, crop_margin_px=4)
    config = PolicyConfig(observations, obs_steps, chunk_steps=8, vision=vision)
    unet = UnetConfig(dims=(16, 32), kernel=3, groups=4, step_dim=16)
    rng = np.random.default_rng(0)
    vectors = spec.observation.select(observations).vectors
    fields = {a.name: FieldStats.of(rng.normal(size=(64, a.size))) for a in vectors}
    low, high = (spec.action.low, spec.action.high) if around is None else (around - 0.05, around + 0.05)
    fields["action"] = FieldStats.of(rng.uniform(low, high, (64, spec.action.dim)))
    torch.manual_seed(0)
    method = DiffusionConfig(sampling_steps=2, unet=unet)
    policy = ChunkPolicy("diffusion", config, method, spec, Normalizer(fields, dict.fromkeys(fields, "limits")))
    return save_checkpoint(path, policy, {"dataset_fingerprint": "none", "command": "test"})
