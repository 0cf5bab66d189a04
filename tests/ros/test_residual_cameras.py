"""A residual that looks at cameras is not for a graph yet: the nodes that would need to see say so and end."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from residual_lab import BASE_ID, LEARNER, nodes_of, view_and_normalizer

from armature.spec import CAMERA_WRIST
from policies.actor_weights import ActorWeights
from policies.residual_encoder import ResidualEncoder
from policies.residual_folder import ResidualFolder, ResidualSettings, save_residual
from policies.residual_sight import Sight
from policies.residual_td3 import ResidualActor
from policies.residual_view import ResidualView
from sim.defaults import limits_for
from sim.tasks import SimConfig, robot_spec

pytestmark = pytest.mark.ros


@pytest.fixture
def seeing(tmp_path: Path) -> Path:
    """Write a residual that sees by the camera at the wrist."""
    robot, sight = robot_spec(SimConfig()), Sight((CAMERA_WRIST,), 32)
    _, normalizer = view_and_normalizer()
    view = ResidualView(robot, limits_for(robot.action), normalizer)
    actor = ResidualActor(view.observation_dim + sight.features, view.action_dim, (16, 16))
    arrays = {name: tensor.numpy() for name, tensor in actor.state_dict().items()}
    settings, weights = ResidualSettings(0.5, 3, 0.99), ActorWeights(0, 1.0, 0.0, BASE_ID, arrays)
    encoder = ResidualEncoder(sight).arrays()
    folder = ResidualFolder.of("lift", view, normalizer, settings, weights, LEARNER, sight, encoder)
    save_residual(tmp_path / "seeing", folder)
    return tmp_path / "seeing"


@pytest.mark.parametrize("name", ["residual_node", "learner_node"])
def test_a_node_refuses_a_residual_that_looks_at_cameras_with_2_and_says_what_to_do(
    seeing: Path, environment: dict[str, str], name: str
) -> None:
    (node,) = nodes_of(seeing, name)
    done = subprocess.run(node.command(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert f"the residual looks at camera/wrist, which {name} cannot yet: learn one from vectors" in done.stderr
    assert "Traceback" not in done.stderr
