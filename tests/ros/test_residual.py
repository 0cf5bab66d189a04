"""A residual beside a running control node, in lockstep: what it says is what acts, and every step is in its log."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from residual_lab import BASE_ID, Watch, nodes_of, view_and_normalizer, write_residual
from std_srvs.srv import SetBool

from armature.control.limits import ROBOTS
from armature.errors import ConfigError
from armature.spec import JOINT_POSITION
from armature_ros.control_config import ControlNodeConfig
from armature_ros.episodes import EpisodeDriver
from armature_ros.residual_node import LOG_NAME
from armature_ros.up import RunningGraph
from policies.checkpoint import load_policy
from policies.residual_folder import load_residual
from policies.step_log import CORRECTED, CUT, ENDED, FIRST, LATCHED, LogHead, StepLog
from sim.environment import make_env
from sim.tasks import SimConfig, robot_spec

pytestmark = pytest.mark.ros

STEPS = 12
NO_CONTROL = ("residual_node.control_every=0",)
ANYWHERE = (
    "control_node.tcp.box_low_m=[-9.0,-9.0,-9.0]",
    "control_node.tcp.box_high_m=[9.0,9.0,9.0]",
    "control_node.tcp.wall_deceleration_m_s2=0.5",
    "control_node.tcp.condition_slow=1000.0",
    "control_node.tcp.condition_stop=2000.0",
)


def read_log(residual: Path) -> np.ndarray:
    """Return all records of a log whose writer has ended."""
    view, _ = view_and_normalizer()
    found = load_residual(residual)
    head = LogHead("lift", found.spec.fingerprint, BASE_ID, view.observation_dim, view.action_dim)
    log = StepLog(residual / "log" / LOG_NAME, head)
    records = log.read(0, len(log)).copy()
    log.close()
    return records


@pytest.mark.slow
def test_where_the_gate_latches_the_episode_ends_as_a_failure_after_which_nothing_follows(
    environment: dict[str, str], tmp_path: Path
) -> None:
    residual = write_residual(tmp_path / "residual")
    spec, limits = tmp_path / "robot.json", tmp_path / "watchful.yaml"
    spec.write_text(json.dumps(robot_spec(SimConfig(cameras=False)).to_json()))
    robot = yaml.safe_load((ROBOTS / "fer.yaml").read_text())
    robot["watch"] |= {"state_hold_s": 0.15, "state_latch_s": 0.75, "tracking_hold": 0.015, "tracking_latch": 0.02}
    limits.write_text(yaml.safe_dump(robot))
    files = f"control_node.robot.spec_file={spec}", f"control_node.robot.limits_file={limits}"
    nodes = nodes_of(residual, horizon_steps=STEPS, overrides=(*NO_CONTROL, *files, *ANYWHERE))
    with RunningGraph(nodes, environment) as graph, EpisodeDriver(records=False, check=graph.check) as driver:
        watch = Watch(driver)
        watch.wait(lambda: watch.status, "residual node")
        result = driver.run_episode().result
        watch.wait(lambda: watch.status["records"] == len(watch.base), "a record of every step")
        state = watch.control["state"]
    assert (result["success"], state) == (False, "latched")
    stamps = sorted(watch.base)
    assert 2 < len(stamps) < result["steps"]
    assert [watch.corrected[stamp][1] for stamp in stamps] == ["residual-v0"] * (len(stamps) - 1) + ["latched"]
    records = read_log(residual)
    assert records["stamp_ns"].tolist() == stamps
    assert int(records["flags"][-1]) == LATCHED | CUT | ENDED
    assert not any(int(flags) & (LATCHED | CUT) for flags in records["flags"][:-1])


def test_a_correction_acts_exactly_at_its_tick_and_every_step_is_logged(
    environment: dict[str, str], tmp_path: Path
) -> None:
    residual = write_residual(tmp_path / "residual")
    nodes = nodes_of(residual, horizon_steps=STEPS, overrides=NO_CONTROL)
    with RunningGraph(nodes, environment) as graph, EpisodeDriver(records=False, check=graph.check) as driver:
        watch = Watch(driver)
        watch.wait(lambda: watch.status, "residual node")
        result = driver.run_episode().result
        watch.wait(lambda: watch.status["records"] == STEPS - 1, "records")
        watch.wait(lambda: len(watch.requested) == STEPS, "requests")
        watch.wait(lambda: watch.control["counts"].get("residual: corrections used") == STEPS, "counts")
        label = driver._call(driver.node.create_client(SetBool, "residual_node/label"), SetBool.Request(data=True))
        assert (label.success, label.message.split(",")[0]) == (False, "the simulator tells how its episodes go")
    stamps = sorted(watch.base)
    assert result["steps"] == STEPS == len(stamps)
    for stamp in stamps:
        value, source = watch.corrections[stamp]
        assert source == "residual-v0"
        assert np.abs(value).max() > 1e-5
        assert np.array_equal(watch.requested[stamp], watch.base[stamp] + value)
        assert np.array_equal(watch.corrected[stamp][0], watch.executed[stamp])
    assert "residual_limit" not in watch.control["counts"]
    records = read_log(residual)
    assert records["stamp_ns"].tolist() == stamps[:-1]
    assert [int(flags) for flags in records["flags"]] == [
        CORRECTED | FIRST, *[CORRECTED] * (STEPS - 3), CORRECTED | CUT | ENDED,
    ]  # fmt: skip
    view, _ = view_and_normalizer()
    assert np.array_equal(records["next_observation"][:-1], records["observation"][1:])
    assert np.array_equal(records["next_base"][:-1], records["base"][1:])
    reach = records["action"] - records["base"]
    assert (np.abs(reach) <= 0.5 * view.frame.residual_max + 1e-6).all()


@pytest.mark.parametrize("mode", ["temporal_ensemble", "blend", "real_time_chunking"])
def test_a_scheduler_that_mixes_chunks_is_refused_with_a_residual(mode: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"scheduler {mode}: .* Valid: receding_horizon"):
        nodes_of(write_residual(tmp_path / "residual"), scheduler=mode)
    with pytest.raises(ConfigError, match=f"mode {mode}: .* Valid: receding_horizon"):
        ControlNodeConfig({}, "run", "", residual=True, mode=mode)


@pytest.mark.slow
def test_corrections_of_one_plan_go_on_from_each_other_and_begin_anew_with_the_next(
    environment: dict[str, str], tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    world = make_env(SimConfig(cameras=False))
    world.reset(seed=0)
    start, spec = world.measured_action(), world.robot_spec
    world.close()
    checkpoint = write_checkpoint(tmp_path / "policy", spec, (JOINT_POSITION,), around=start)
    residual = write_residual(tmp_path / "residual", base_id=load_policy(checkpoint).policy_id)
    nodes = nodes_of(residual, horizon_steps=STEPS, overrides=NO_CONTROL, policy=str(checkpoint))
    with RunningGraph(nodes, environment) as graph, EpisodeDriver(records=False, check=graph.check) as driver:
        watch = Watch(driver)
        watch.wait(lambda: watch.status, "residual node")
        driver.run_episode()
        watch.wait(lambda: len(watch.corrections) == len(watch.base) == STEPS, "corrections")
    stamps = sorted(watch.base)
    assert [watch.plans[stamp] for stamp in stamps] == [stamps[step // 8 * 8] for step in range(STEPS)]
    corrections = np.stack([watch.corrections[stamp][0] for stamp in stamps])
    motions = corrections.copy()
    for step in set(range(STEPS)) - {0, 8}:
        motions[step] -= corrections[step - 1]
    view, _ = view_and_normalizer()
    motion_max = 0.5 * view.frame.residual_max * view.frame.unit
    assert (np.abs(motions) <= motion_max + 1e-9).all()
    # Together they lead farther than one may, and the next plan begins where the arm is.
    assert (np.abs(corrections[7]) > motion_max).any()
