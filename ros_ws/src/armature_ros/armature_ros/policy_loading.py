"""What `policy_node` is told, and the policy that it loads for it: found to fit the robot, and warmed up."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from armature.errors import ConfigError
from armature.policy import Policy
from armature.spec import RobotSpec, require_compatible
from armature.testing import random_observation
from armature.types import CommittedActions
from armature_ros.graph_config import EXPERT
from armature_ros.robot import RobotConfig, load_robot_spec
from armature_ros.streams import StreamConfig
from sim.tasks import require_learned


@dataclass(frozen=True)
class PolicyNodeConfig:
    """Parameters of `policy_node`."""

    streams: dict[str, StreamConfig]
    policy: str
    """`expert` (scripted, simulated robots only) or the folder of a checkpoint."""
    prompt: str = ""
    """What to tell a checkpoint that was trained with prompts; empty for any other policy."""
    robot: RobotConfig = field(default_factory=RobotConfig)
    device: str = "cpu"
    engine: str = "eager"
    """How a checkpoint computes: eager, auto, openvino, compiled or cuda_graph; see `policies/engine.py`."""
    lockstep: bool = False
    execute_steps: int = 8
    """How many actions of a chunk are executed before the next observation is answered."""
    max_age_s: float = 0.15
    """Real time: an observation older than this is not acted upon; lockstep takes only exact stamps."""
    inference_timeout_s: float = 2.0
    """An answer that takes longer counts as stuck: the heartbeat ends, though the process lives."""
    future_max_s: float = 0.02
    """Real time: how far a stamp may be ahead of the clock."""
    skew_max_s: float = 0.05
    """Real time: how far apart the streams of one observation may lie."""
    guidance: bool = False
    """Let every chunk go on from what the arm executes meanwhile; goes with control_node's mode real_time_chunking."""


def require_usable(config: PolicyNodeConfig) -> None:
    """Raise what `load_warm_policy` would where a policy cannot be used as asked for; loads no weights into memory."""
    if config.policy == EXPERT:
        _require_untold(config)
        if not config.robot.spec_file:
            _expert(config, load_robot_spec(config.robot))
        return
    from policies.checkpoint import require_prompted
    from policies.chunk_policy import require_committed_family

    _require_same_task(config)
    family = require_prompted(Path(config.policy), config.prompt)
    if config.guidance:
        require_committed_family(family)
    if config.engine != "eager":
        from policies.engine import require_known

        require_known(config.engine)


def _expert(config: PolicyNodeConfig, offered: RobotSpec) -> Policy:
    from sim.expert import make_expert

    policy = make_expert(config.robot.sim)
    require_compatible(policy.spec, offered, "the expert")
    return policy


def _require_untold(config: PolicyNodeConfig) -> None:
    if config.prompt:
        raise ConfigError(f"parameters of policy_node: prompt '{config.prompt}': the scripted expert takes none")
    if config.guidance:
        raise ConfigError("parameters of policy_node: guidance: the scripted expert cannot be guided")


def _require_same_task(config: PolicyNodeConfig) -> None:
    """Raise ConfigError where a simulated robot is to do another task than the checkpoint has learned."""
    from policies.checkpoint import read_document

    if not config.robot.spec_file:
        path = Path(config.policy)
        require_learned(config.robot.task, read_document(path)["provenance"], path)


def load_warm_policy(config: PolicyNodeConfig, offered: RobotSpec) -> Policy:
    """Return the policy, warmed up.

    Raises SpecMismatch naming the fields in which it does not fit the robot, ConfigError on a prompt too few or many,
    where it cannot be guided as asked for, and for a simulated robot on a checkpoint of another task.
    """
    # Each import is heavy and only one of them is needed.
    if config.policy == EXPERT:
        _require_untold(config)
        return _expert(config, offered)
    from policies.checkpoint import load_policy

    _require_same_task(config)
    policy = load_policy(config.policy, config.device, config.prompt or None, config.engine)
    require_compatible(policy.spec, offered, f"checkpoint {config.policy}")
    # The first answer of an episode must not pay for lazy initialisation.
    observation = random_observation(policy.spec, policy.obs_steps, np.random.default_rng(0), 0)
    chunk = policy.infer(observation)
    if config.guidance:
        policy.infer(observation, CommittedActions(chunk.start_ns, chunk.period_ns, chunk.actions, chunk.period_ns))
    policy.reset()
    return policy
