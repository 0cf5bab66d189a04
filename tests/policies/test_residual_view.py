"""What a residual sees, in literal numbers, and the weights of its actor: the same answers as in torch, or refused."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from residual_arm import LIMITS, NORMALIZER, SPEC, actor_weights
from safetensors.numpy import save

from armature.errors import CheckpointError
from armature.normalizer import FieldStats, Normalizer
from armature.spec import GRIPPER_OPENING, JOINT_POSITION, OBJECT_POSE, TCP_POSE
from policies.actor_weights import ActorWeights
from policies.residual_td3 import ResidualActor
from policies.residual_view import ResidualView
from sim.defaults import limits_for
from sim.tasks import SimConfig, robot_spec

VALUES = {"joint/position": np.zeros(2), "object/pose": np.array([0.75, 0.5, 0.0])}
RNG = np.random.default_rng(0)


def test_an_observation_is_what_has_statistics_and_how_far_the_command_is_ahead():
    view = ResidualView(SPEC, LIMITS, NORMALIZER)
    seen = view.observe(VALUES, np.array([0.1, 0.0, 0.04]), np.array([0.2, -0.4, 0.08]))
    # 0.1 of 2 x 1 rad/s x 0.1 s; -0.4 of 0.8; the gripper from the middle of its range.
    assert seen.tolist() == pytest.approx([1.0, 0.0, -2.0, 0.5, -0.5, 1.0])
    assert (seen.dtype, view.names, view.observation_dim, view.action_dim) == (np.float32, ("object/pose",), 6, 3)


def test_between_two_poses_of_one_frame_stands_the_way_in_small_units():
    robot = robot_spec(SimConfig("lift", cameras=False))
    fields = {array.name: FieldStats((-1.0,) * array.size, (1.0,) * array.size, (0.0,) * array.size,
                                     (1.0,) * array.size, 9) for array in robot.observation.vectors}  # fmt: skip
    view = ResidualView(robot, limits_for(robot.action), Normalizer(fields, dict.fromkeys(fields, "gaussian")))
    tcp, cube = np.array([0.5, 0.1, 0.3, 0, 1, 0, 0]), np.array([0.515, 0.1, 0.0, 0, 0, 0, 1])
    values = {JOINT_POSITION: np.zeros(7), GRIPPER_OPENING: np.zeros(1), TCP_POSE: tcp, OBJECT_POSE: cube}
    seen = view.observe(values, np.zeros(8), np.zeros(8))
    assert view.observation_dim == len(seen) == 7 + 1 + 7 + 7 + 3 + 8
    # 15 mm are half of the unit, 30 cm just far.
    assert seen[22:25].tolist() == pytest.approx([0.5, 0.0, -5.0])


def test_what_is_far_out_says_no_more_than_that():
    view = ResidualView(SPEC, LIMITS, NORMALIZER)
    seen = view.observe({"object/pose": np.array([1e6, -1e6, 0.5])}, np.zeros(3), np.zeros(3))
    assert seen[:3].tolist() == [5.0, -5.0, 0.0]


@pytest.mark.parametrize("share", [1.0, 0.3, 0.0])
def test_the_actor_answers_without_torch_as_with_it_cut_to_its_share(share):
    weights = actor_weights(share=share)
    actor = ResidualActor(6, 3, (8, 8))
    actor.load_state_dict({name: torch.from_numpy(array) for name, array in weights.arrays.items()})
    for _ in range(50):
        seen, base = RNG.normal(size=6).astype(np.float32), RNG.normal(size=3).astype(np.float32)
        with torch.no_grad():
            expected = actor(torch.from_numpy(seen)[None], torch.from_numpy(base)[None])[0].numpy()
        np.testing.assert_allclose(weights.residual(seen, base), expected.clip(-share, share), atol=2e-6)


def test_weights_come_back_from_their_bytes():
    weights = actor_weights(version=12, share=0.25, noise_std=0.1, base_id="diffusion")
    found = ActorWeights.from_bytes(weights.to_bytes())
    assert (found.version, found.share, found.noise_std, found.base_id) == (12, 0.25, 0.1, "diffusion")
    assert (found.input_dim, found.action_dim) == (9, 3)
    assert all(np.array_equal(found.arrays[name], array) for name, array in weights.arrays.items())


def test_every_changed_or_missing_byte_is_found():
    content = actor_weights().to_bytes()
    for place in range(0, len(content), 7):
        with pytest.raises(CheckpointError, match="damaged"):
            ActorWeights.from_bytes(content[:place] + bytes([content[place] ^ 64]) + content[place + 1 :])
    for size in (0, 31, 32, len(content) - 1):
        with pytest.raises(CheckpointError, match="damaged"):
            ActorWeights.from_bytes(content[:size])


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ({"share": "1.5"}, "share is 1.5, must be 0 to 1"),
        ({"share": "nan"}, "share is nan"),
        ({"noise_std": "-0.1"}, "noise_std is -0.1"),
        ({"version": "new"}, "cannot be read"),
    ],
)
def test_weights_that_cannot_be_are_refused_even_if_their_hash_is_right(told, named):
    plain = {"version": "1", "share": "1.0", "noise_std": "0.0", "base_id": "bc"}
    content = save(dict(actor_weights().arrays), metadata={**plain, **told})
    with pytest.raises(CheckpointError, match=named):
        ActorWeights.from_bytes(hashlib.sha256(content).digest() + content)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_naming_the_layer(value):
    weights = actor_weights(version=3)
    weights.arrays["layers.3.bias"][1] = value
    with pytest.raises(CheckpointError, match=r"version 3: layers\.3\.bias is not finite"):
        ActorWeights.from_bytes(weights.to_bytes())
