"""Rollouts hold when a policy misbehaves, and refuse one that does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from armature.control.chunk_scheduler import SchedulerConfig
from armature.errors import ConfigError, SpecMismatch
from armature.types import ActionChunk, Command, CommittedActions, Observation, Reason
from sim.corrected_world import PolicyNeeds
from sim.defaults import default_scheduler, limits_for, panda_limits
from sim.environment import make_env
from sim.rollout import SimEpisode, rollout
from sim.tasks import STATE, SimConfig, robot_spec

CONFIG = SimConfig(cameras=False, horizon_steps=12)
REACHABLE = (0.0, 0.2, 0.0, -2.6, 0.0, 2.9, 0.8, 0.08)


class Constant:
    """Asks for the same actions whatever it sees."""

    obs_steps = 2
    policy_id = "constant"

    def __init__(self, action: Any, config: SimConfig = CONFIG, chunk_steps: int = 16) -> None:
        self.spec = robot_spec(config).select(STATE)
        self.actions = np.tile(np.asarray(action, dtype=np.float64), (chunk_steps, 1))
        self.stamps_ns: list[int] = []
        self.committed: list[CommittedActions | None] = []

    def reset(self, seed: int | None = None) -> None:
        self.stamps_ns.clear()
        self.committed.clear()

    def infer(self, observation: Observation, committed: CommittedActions | None = None) -> ActionChunk:
        self.stamps_ns.append(observation.stamp_ns)
        self.committed.append(committed)
        assert observation.values["tcp/pose"].shape == (2, 7)
        return ActionChunk(observation.stamp_ns, observation.stamp_ns, 50_000_000, self.actions, self.policy_id)


@pytest.fixture(scope="module")
def env() -> Iterator[Any]:
    env = make_env(CONFIG)
    yield env
    env.close()


def test_policy_is_asked_every_execute_steps(env: Any) -> None:
    policy = Constant(REACHABLE)
    result = rollout(env, policy, 0, default_scheduler(), panda_limits())
    assert policy.stamps_ns == [0, 400_000_000]
    assert (result.steps, result.success, result.duration_s) == (12, False, pytest.approx(0.6))
    assert result.commands.shape == (12, 8)


def test_an_answer_counts_from_its_arrival_on_and_no_other_is_asked_for_meanwhile(env: Any) -> None:
    policy = Constant(REACHABLE)
    episode = SimEpisode(env, policy, 0, default_scheduler(), panda_limits())
    stamps_ns: list[int | None] = []
    while not episode.is_done:
        observation = episode.observe()
        if observation is not None:
            episode.take(policy.infer(observation), delay_ns=120_000_000)
        episode.step(lambda _, command: stamps_ns.append(command.chunk_stamp_ns))
    assert policy.stamps_ns == [0, 400_000_000]
    # Asked at ticks 0 and 8, answered before ticks 3 and 11.
    assert stamps_ns == [None] * 3 + [0] * 8 + [400_000_000]


def test_an_answer_that_arrives_at_a_tick_counts_at_that_tick(env: Any) -> None:
    policy = Constant(REACHABLE)
    episode = SimEpisode(env, policy, 0, default_scheduler(), panda_limits())
    observation = episode.observe()
    assert observation is not None
    episode.take(policy.infer(observation), delay_ns=50_000_000)
    stamps_ns: list[int | None] = []
    for _ in range(2):
        assert episode.observe() is None
        episode.step(lambda _, command: stamps_ns.append(command.chunk_stamp_ns))
    assert stamps_ns == [None, 0]


def test_in_real_time_chunking_a_policy_is_told_what_is_executed_meanwhile(env: Any) -> None:
    policy = Constant(REACHABLE)
    rollout(env, policy, 0, SchedulerConfig("real_time_chunking", 8), panda_limits())
    first, second = policy.committed
    assert first is None
    assert second is not None
    assert (second.start_ns, second.period_ns) == (400_000_000, 50_000_000)
    np.testing.assert_array_equal(second.actions, np.tile(REACHABLE, (8, 1)))
    rollout(env, policy, 0, default_scheduler(), panda_limits())
    assert policy.committed == [None, None]


def test_nan_actions_hold_the_arm_where_it_started(env: Any) -> None:
    env.reset(seed=1)
    start = env.measured_action()
    result = rollout(env, Constant(np.full(8, np.nan)), 1, default_scheduler(), panda_limits())
    assert result.reasons == {Reason.NO_CHUNK: 12}
    np.testing.assert_array_equal(result.commands, np.tile(start, (12, 1)))


def test_a_first_request_far_away_latches_and_nothing_moves(env: Any) -> None:
    env.reset(seed=1)
    start = env.measured_action()
    result = rollout(env, Constant(np.append(np.zeros(7), 0.08)), 1, default_scheduler(), panda_limits())
    assert result.reasons == {Reason.FIRST_COMMAND: 12, Reason.LATCHED: 12}
    np.testing.assert_array_equal(result.commands, np.tile(start, (12, 1)))


def test_requests_are_followed_within_speed_and_acceleration(env: Any) -> None:
    env.reset(seed=1)
    target = env.measured_action() + np.append(np.full(7, 0.2), 0.0)
    result = rollout(env, Constant(target), 1, default_scheduler(), panda_limits())
    steps = np.diff(result.commands[:, :7], axis=0)
    assert (np.abs(steps) <= np.array([1.0875] * 4 + [1.305] * 3) / 20 + 1e-9).all()
    changes = np.abs(np.diff(steps, axis=0))
    assert (changes <= np.array([7.5, 3.75, 5.0, 6.25, 7.5, 10.0, 10.0]) / 400 + 1e-9).all()
    assert result.reasons[Reason.VELOCITY_LIMIT] > 0
    assert result.commands[-1, :7] == pytest.approx(target[:7], abs=1e-9)


def test_every_tick_is_reported_with_the_observation_before_it(env: Any) -> None:
    seen: list[tuple[Any, Command]] = []
    policy = Constant(REACHABLE)
    result = rollout(
        env, policy, 2, default_scheduler(), panda_limits(), lambda values, command: seen.append((values, command))
    )
    assert [command.stamp_ns for _, command in seen] == [k * 50_000_000 for k in range(12)]
    np.testing.assert_array_equal(np.stack([command.action for _, command in seen]), result.commands)
    first = env.reset(seed=2)[0]
    np.testing.assert_array_equal(seen[0][0]["joint/position"], first["joint/position"])


def test_policy_for_another_action_is_refused(env: Any) -> None:
    policy = Constant(np.zeros(7), SimConfig(action="tcp_delta", cameras=False))
    with pytest.raises(SpecMismatch, match=r"constant does not fit.*needs tcp_delta, offered joint_position"):
        rollout(env, policy, 0, default_scheduler(), panda_limits())


def test_limits_are_those_of_the_arm_with_these_joints() -> None:
    limits = limits_for(robot_spec(SimConfig(robot="ur5e")).action)
    assert limits.velocity_max == (1.570795,) * 6 + (np.inf,)
    assert limits.acceleration_max == (2.5,) * 6 + (np.inf,)
    assert limits_for(robot_spec(SimConfig()).action) == panda_limits()


def test_panda_limits_are_half_of_the_robots_speed_and_inside_its_range() -> None:
    limits = panda_limits()
    assert limits.position_high[0] == pytest.approx(2.8473)
    assert limits.position_low[3] == pytest.approx(-3.0218)
    assert limits.velocity_max[:7] == (1.0875, 1.0875, 1.0875, 1.0875, 1.305, 1.305, 1.305)
    assert limits.acceleration_max[:7] == (7.5, 3.75, 5.0, 6.25, 7.5, 10.0, 10.0)
    assert (limits.position_low[7], limits.position_high[7]) == (0.0, 0.08)


def test_limits_of_other_robots_are_the_actions_own_bounds() -> None:
    limits = limits_for(robot_spec(SimConfig(task="pusht")).action)
    assert limits.position_high == (512.0, 512.0)
    assert limits.request.chunk_age_max_s == 2.0
    assert limits_for(robot_spec(SimConfig(action="tcp_delta")).action).request == panda_limits().request


def pusht_episode(execute_steps: int, chunk_steps: int = 32) -> SimEpisode:
    """Run until the first chunk asks for the next."""
    config = SimConfig("pusht", cameras=False)
    env: Any = make_env(config)
    schedule = SchedulerConfig("receding_horizon", execute_steps)
    needs = PolicyNeeds(env.robot_spec, 1, "none")
    episode = SimEpisode(env, needs, 0, schedule, limits_for(env.robot_spec.action))
    actions = np.linspace(episode.measured, (256.0, 256.0), chunk_steps)
    episode.observe()
    episode.take(ActionChunk(0, 0, 100_000_000, actions, "none"))
    while episode.observe() is None:
        episode.step()
    return episode


def test_pusht_executes_sixteen_actions_of_a_chunk() -> None:
    result = pusht_episode(16).result()
    assert (result.steps, result.reasons) == (16, {})
    np.testing.assert_allclose(np.diff(result.commands, axis=0), np.diff(result.commands, axis=0)[:1].repeat(15, 0))


def test_a_schedule_that_the_gate_does_not_let_through_is_refused() -> None:
    assert pusht_episode(99, chunk_steps=21).result().reasons == {}
    with pytest.raises(ConfigError, match=r"execute_steps is 25: action 25 .* 2\.4 s after.*chunk_age_max_s is 2$"):
        pusht_episode(25)
