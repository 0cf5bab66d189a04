"""Does a robot get better while it works? A weak policy on the graph `residual`, for 15 minutes, both learners killed.

The graph of `armature up residual` runs episodes of a simulated robot: all nodes, DDS between them, one robot. After
a third of the time the learner gets SIGKILL, after two thirds the residual node. Then, on 100 starts that were not
learned from, the policy alone and the policy with what was learned, from the same starts.

Every step counts: what the control node says that it executed of the policy's actions is one record of the log, in
order, and one row of the replay, the very row that a learner to which nothing ever happened makes of the log. The last
step of an episode that failed has none: nothing follows it. Nobody logs while the residual node is dead, nor what is
left of the episode in which it came back: how many steps that were is said.

    python benchmarks/residual_robot.py [--minutes 15] [--out runs/residual] [--quick] [--json FILE]
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from harness import ROOT, Arguments, Criterion, at_least, below, exactly, main, require_number
from judged import successes
from numpy.typing import NDArray
from residual import CASES, weak_base
from rich.console import Console
from trajectory_msgs.msg import JointTrajectory

from armature_ros.conversions import ns_from_time
from armature_ros.episodes import EpisodeDriver
from armature_ros.graph import graph_environment, make_graph
from armature_ros.graph_config import GraphConfig
from armature_ros.qos import latched_qos
from armature_ros.residual_node import LOG_NAME
from armature_ros.up import RunningGraph
from policies.checkpoint import load_policy
from policies.chunk_policy import ChunkPolicy
from policies.durable_learner import DurableLearner
from policies.replay import Layout, NStep, Step
from policies.residual_folder import load_residual
from policies.step_link import Block, StepReceiver
from policies.step_log import CUT, LATCHED, TERMINATED, LogHead, StepLog
from policies.train_residual import ResidualTrainConfig, train_residual
from sim.intervals import mean_interval

VICTIMS = ("learner_node", "residual_node")
FIRST_SEED, FIRST_TEST_SEED = 500_000, 1000
"""Of the starts to learn from, one after the other, and of those to judge by, which are never learned from."""
LIFT = CASES["lift"]
ONE_ROBOT = replace(LIFT.learner, updates_per_step=1.0)
"""One robot and its learner share two cores."""
QUICK_ROBOT = replace(ONE_ROBOT, warmup_steps=1000, critic_warmup_updates=2000)
QUICK_MINUTES, QUICK_EPISODES = 1.0, 8
STARTED_AGAIN_S = 20.0
"""After so long the residual node has to be back, and miss no episode any more."""
ON_ITS_WAY_S = 0.1
"""A step that was executed at most so long before a kill may have been on its way to the log."""


@dataclass(frozen=True, kw_only=True)
class RobotArguments(Arguments):
    """What can be asked of this benchmark."""

    out: Path = ROOT / "runs" / "residual"
    """Folder of demonstrations and base, shared with `residual.py`, and of what is learned."""
    minutes: float = 15.0
    episodes: int = 100
    """To judge by, each of both."""
    domain_id: int = 79


@dataclass
class Worked:
    """What the graph did. Times are since the beginning of the work [s]."""

    episodes: int = 0
    executed: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    """Stamps [ns] of the policy's actions that were executed, and when that was heard."""
    successes_ns: list[int] = field(default_factory=list[int])
    """When the episodes that succeeded ended."""
    killed_s: dict[str, float] = field(default_factory=dict[str, float])


def measure(arguments: RobotArguments, quick: bool) -> tuple[list[Criterion], dict[str, Any]]:
    """Let the robot work and learn, account for its steps, then judge what was learned."""
    require_number("episodes", arguments.episodes, 2)
    require_number("minutes", arguments.minutes, QUICK_MINUTES)
    torch.set_num_threads(1)
    minutes = min(arguments.minutes, QUICK_MINUTES) if quick else arguments.minutes
    root = arguments.out / "quick" if quick else arguments.out
    base_path, residual = _begun(root, quick)
    worked, base = work(base_path, residual, minutes * 60.0, arguments.domain_id), load_policy(base_path)
    account = account_of(residual, worked, base.spec.action.period_ns)
    count = QUICK_EPISODES if quick else arguments.episodes
    before, after, share = judged(base, residual, range(FIRST_TEST_SEED, FIRST_TEST_SEED + count))
    low, high = mean_interval(after - before)
    Console().print(
        f"{worked.episodes} episodes, {account['records']} steps in {minutes:g} min; policy alone {before.sum():.0f} "
        f"of {count}, corrected by a share of {share:.2f} {after.sum():.0f}; better by {low:+.2f} to {high:+.2f}"
    )
    criteria = [
        at_least("improvement, lower end of the 95 % interval of pairs", low, "of all", 1e-9),
        exactly("steps in order", account["in order"], "of all", 1.0),
        exactly("records that are rows of the replay, bit for bit", account["rows as logged"], "of all", 1.0),
        exactly("steps without a record, but while the residual node was dead", account["missing"], "steps", 0),
        exactly("records of what was not executed", account["invented"], "steps", 0),
        exactly("nodes killed", len(worked.killed_s), "", len(VICTIMS)),
        below("residual node back", account["back_s"], "s", STARTED_AGAIN_S),
    ]
    found = {"minutes": minutes, "before": before.tolist(), "after": after.tolist(), "share": share,
             "interval": [low, high], "account": account, "killed_s": worked.killed_s}  # fmt: skip
    return criteria, found


def judged(base: ChunkPolicy, residual: Path, seeds: range) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return the successes (seeds,) of the policy alone and corrected, and by which share."""
    learner, folder = DurableLearner.open(residual).learner, load_residual(residual)
    base.reset(0)
    alone, corrected = (successes(base, folder, learner.td3, share, seeds) for share in (0.0, learner.share))
    return alone, corrected, learner.share


def _begun(root: Path, quick: bool) -> tuple[Path, Path]:
    """Return the weak policy, and the folder of a residual that corrects nothing yet."""
    demonstrations, base = weak_base(root, LIFT, quick=quick)
    out = root / "lift" / "robot"
    shutil.rmtree(out, ignore_errors=True)
    config = ResidualTrainConfig(base=base, task="lift", dataset=demonstrations, out=out, steps=0,
                                 evaluate_episodes=1, learner=QUICK_ROBOT if quick else ONE_ROBOT)  # fmt: skip
    train_residual(config)
    return base, out / "actor"


def work(base: Path, residual: Path, duration_s: float, domain_id: int) -> Worked:
    """Run episodes for so long, each victim killed once meanwhile."""
    environment = graph_environment(domain_id)
    os.environ.update(environment)
    config = GraphConfig(task="lift", cameras=False, policy=str(base), residual=str(residual), seed=FIRST_SEED,
                         overrides=('control_node.flight_folder=""',))  # fmt: skip
    worked = Worked()
    with (
        RunningGraph(make_graph("residual", config), environment) as graph,
        EpisodeDriver(records=False, check=graph.check) as driver,
    ):
        begin_s = time.monotonic()

        def hear(message: JointTrajectory) -> None:
            worked.executed.append((ns_from_time(message.header.stamp), time.monotonic() - begin_s))

        def kill(name: str) -> None:
            os.kill(graph.pids()[name], signal.SIGKILL)
            worked.killed_s[name] = time.monotonic() - begin_s

        driver.node.create_subscription(JointTrajectory, "control/corrected", hear, latched_qos(1000))
        part_s = duration_s / (len(VICTIMS) + 1)
        timers = [threading.Timer((k + 1) * part_s, kill, (name,)) for k, name in enumerate(VICTIMS)]
        for timer in timers:
            timer.start()
        try:
            while time.monotonic() - begin_s < duration_s:
                result = driver.run_episode().result
                worked.episodes += 1
                if result["success"]:
                    worked.successes_ns.append(result["end_ns"])
        finally:
            # Where the graph has failed there is nobody left to kill.
            for timer in timers:
                timer.cancel()
        _wait_for_learner(driver, residual)
    return worked


def _wait_for_learner(driver: EpisodeDriver, residual: Path) -> None:
    """Return when the newest steps have had time to be made safe."""
    end_s = time.monotonic() + 10.0
    driver.spin_until(lambda: time.monotonic() > end_s, f"learner of {residual}")


def account_of(residual: Path, worked: Worked, period_ns: int) -> dict[str, Any]:
    """Compare what the arm did, what was logged, and what is learned from."""
    log, learner = _log_of(residual), DurableLearner.open(residual)
    stamps = log.read(0, len(log))["stamp_ns"]
    expected, kept = rows_of(log), np.array(learner._replay._rows[: learner.rows])
    is_same = len(expected) == len(kept) == learner.taken(log.head.log_id) and np.array_equal(expected, kept)
    log.close()
    logged = set(stamps.tolist())
    unlogged = _unlogged(worked, logged, period_ns)
    # NaN where it was not killed: then nothing is excused.
    killed_s = worked.killed_s.get("residual_node", math.nan)
    # What was on its way when it was killed is heard soon after.
    again_s = [at_s - killed_s for stamp_ns, at_s in worked.executed if stamp_ns in logged and at_s - killed_s > 1.0]
    back_s = min(again_s, default=math.nan)
    excused_s = [at_s for _, at_s in unlogged if -ON_ITS_WAY_S < at_s - killed_s < back_s]
    return {
        "executed": len(worked.executed),
        "records": len(stamps),
        "rows": learner.rows,
        "updates": learner.learner.updates,
        "missing": len(unlogged) - len(excused_s),
        "excused": len(excused_s),
        "back_s": back_s,
        "invented": len(logged - {stamp_ns for stamp_ns, _ in worked.executed}),
        "in order": float((np.diff(stamps) > 0).mean()),
        "rows as logged": float(is_same),
    }


def _unlogged(worked: Worked, logged: set[int], period_ns: int) -> list[tuple[int, float]]:
    """Return what was executed and has no record, but for the last step of each episode that failed."""
    executed = worked.executed
    following = [stamp_ns for stamp_ns, _ in executed[1:]] + [2**63]
    stamps = np.array([stamp_ns for stamp_ns, _ in executed])
    rewarded = set(stamps[np.searchsorted(stamps, worked.successes_ns, side="right") - 1].tolist())
    return [
        (stamp_ns, at_s)
        for (stamp_ns, at_s), next_ns in zip(executed, following, strict=True)
        if stamp_ns not in logged and (stamp_ns in rewarded or next_ns - stamp_ns <= 1.5 * period_ns)
    ]


def _log_of(residual: Path) -> StepLog:
    folder = load_residual(residual)
    learner = DurableLearner.open(residual)
    head = LogHead(folder.task, folder.spec.fingerprint, folder.base_id, learner.head.observation_dim,
                   learner.head.action_dim)  # fmt: skip
    return StepLog(residual / "log" / LOG_NAME, head)


def rows_of(log: StepLog) -> NDArray[np.float32]:
    """Return what a learner to which nothing ever happened makes of a log."""
    head = log.head
    nstep = NStep(Layout(head.observation_dim, head.action_dim), ONE_ROBOT.td3.steps, ONE_ROBOT.td3.discount)
    rows: list[Any] = []
    for record in StepReceiver(head, 0).take(Block(head, 0, log.read_bytes(0, len(log)))):
        flags = int(record["flags"])
        step = Step(record["observation"], record["base"], record["action"], float(record["reward"]))
        rows += nstep.add(step, record["next_observation"], record["next_base"],
                          terminated=bool(flags & (TERMINATED | LATCHED)), cut=bool(flags & CUT))  # fmt: skip
    return np.stack(rows)


if __name__ == "__main__":
    name = Path(__file__).stem
    arguments = tyro.cli(RobotArguments, prog=f"benchmarks/{name}.py", description=__doc__)
    sys.exit(main(name, partial(measure, arguments), arguments))
