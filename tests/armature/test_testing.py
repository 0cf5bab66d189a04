from __future__ import annotations

import numpy as np
import pytest

from armature.errors import InvalidValue
from armature.policy import Policy
from armature.spec import JOINT_POSITION, ActionSpec, ArraySpec, ObservationSpec, RobotSpec
from armature.testing import check_policy, check_spec_roundtrip, random_observation
from armature.types import ActionChunk, Observation

JOINTS = ArraySpec(JOINT_POSITION, (2,), "float32", "rad", low=(-1.0, -2.0), high=(1.0, 2.0), labels=("a", "b"))
SPEC = RobotSpec("arm", ObservationSpec((JOINTS,), 10.0), ActionSpec("joint_position", (JOINTS,), 10.0))


class Wandering:
    """Adds a random walk, drawn from the seed of the episode, to the newest joint positions."""

    spec = SPEC
    obs_steps = 2
    policy_id = "wandering"

    def reset(self, seed: int | None = None) -> None:
        self.rng = np.random.default_rng(seed)

    def infer(self, observation: Observation) -> ActionChunk:
        walk = self.rng.normal(0, 0.01, (4, 2)).cumsum(axis=0)
        actions = observation.latest()[JOINT_POSITION] + walk
        return ActionChunk(observation.stamp_ns, observation.stamp_ns, 100_000_000, actions, self.policy_id)


class Unseeded(Wandering):
    def reset(self, seed: int | None = None) -> None:
        self.rng = np.random.default_rng()


class Meddling(Wandering):
    def infer(self, observation: Observation) -> ActionChunk:
        observation.values[JOINT_POSITION][:] = 0
        return super().infer(observation)


class Late(Wandering):
    def infer(self, observation: Observation) -> ActionChunk:
        return super().infer(Observation(observation.stamp_ns - 1, observation.values))


def test_a_policy_that_keeps_the_protocol_passes():
    assert isinstance(Wandering(), Policy)
    check_policy(Wandering())


@pytest.mark.parametrize(
    ("policy", "message"),
    [(Unseeded, "actions differ"), (Meddling, "infer changed the observation joint/position"), (Late, "stamped 999")],
)
def test_a_policy_that_breaks_the_protocol_is_named(policy, message):
    with pytest.raises(InvalidValue, match=message):
        check_policy(policy())


def test_a_random_observation_is_valid():
    observation = random_observation(SPEC, 3, np.random.default_rng(0), 5)
    assert observation.stamp_ns == 5
    assert observation.values[JOINT_POSITION].shape == (3, 2)
    SPEC.observation.validate(observation.latest())


def test_a_spec_without_a_label_for_every_action_element_is_refused():
    unlabelled = ActionSpec("joint_position", (ArraySpec(JOINT_POSITION, (2,), "float32", "rad"),), 10.0)
    with pytest.raises(InvalidValue, match="action part joint/position: 0 labels"):
        check_spec_roundtrip(RobotSpec("arm", SPEC.observation, unlabelled))
