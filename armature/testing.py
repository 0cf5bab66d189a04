"""Conformance checks that every policy and every robot spec has to pass; tests of all rooms call them."""

from __future__ import annotations

import json

import numpy as np

from armature.errors import InvalidValue
from armature.policy import Policy
from armature.spec import RobotSpec, differences
from armature.types import ActionChunk, Observation


def random_observation(spec: RobotSpec, obs_steps: int, rng: np.random.Generator, stamp_ns: int) -> Observation:
    """Draw a valid observation of `spec`, every array (obs_steps, *shape)."""
    values = {array.name: np.stack([array.sample(rng) for _ in range(obs_steps)]) for array in spec.observation}
    return Observation(stamp_ns, values)


def check_policy(policy: Policy) -> None:
    """Raise InvalidValue unless the policy keeps the protocol: stamps, shapes, finite actions, repeatable by seed."""
    period_ns = policy.spec.action.period_ns
    rng = np.random.default_rng(0)
    observations = [random_observation(policy.spec, policy.obs_steps, rng, 1_000 + k * period_ns) for k in range(2)]
    first, again = (_infer_all(policy, observations) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        _require(np.array_equal(a.actions, b.actions), "actions differ after reset with the same seed")


def check_spec_roundtrip(spec: RobotSpec) -> None:
    """Raise InvalidValue unless the spec survives JSON, its samples are valid and its action parts join again."""
    restored = RobotSpec.from_json(json.loads(json.dumps(spec.to_json())))
    _require(restored == spec and restored.fingerprint == spec.fingerprint, "spec changes through JSON")
    _require(not differences(spec, restored), "spec differs from itself")
    rng = np.random.default_rng(0)
    for array in (*spec.observation, *spec.action.arrays):
        array.validate(array.sample(rng))
    for array in spec.action.arrays:
        _require(
            len(array.labels) == array.size,
            f"action part {array.name}: {len(array.labels)} labels, {array.size} elements",
        )
    action = np.arange(spec.action.dim, dtype=np.float64)
    _require(np.array_equal(spec.action.join(spec.action.split(action)), action), "action parts do not join again")


def _infer_all(policy: Policy, observations: list[Observation]) -> list[ActionChunk]:
    policy.reset(seed=0)
    return [_checked_infer(policy, observation) for observation in observations]


def _checked_infer(policy: Policy, observation: Observation) -> ActionChunk:
    before = {name: value.copy() for name, value in observation.values.items()}
    chunk = policy.infer(observation)
    spec, shape = policy.spec.action, chunk.actions.shape
    for name, value in observation.values.items():
        _require(np.array_equal(value, before[name]), f"infer changed the observation {name}")
    _require(chunk.stamp_ns == observation.stamp_ns, f"chunk is stamped {chunk.stamp_ns}, not {observation.stamp_ns}")
    _require(chunk.start_ns == observation.stamp_ns, f"chunk starts at {chunk.start_ns}, not {observation.stamp_ns}")
    _require(chunk.period_ns == spec.period_ns, f"chunk has period {chunk.period_ns} ns, not {spec.period_ns}")
    _require(len(shape) == 2 and shape[0] >= 1 and shape[1] == spec.dim, f"chunk {shape}, expected (T, {spec.dim})")
    _require(bool(np.isfinite(chunk.actions).all()), "chunk is not finite")
    _require(chunk.policy_id == policy.policy_id, f"chunk comes from '{chunk.policy_id}', not '{policy.policy_id}'")
    return chunk


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InvalidValue(message)
