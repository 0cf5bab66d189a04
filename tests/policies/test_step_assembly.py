"""Steps out of parts that come in any order; what is missing or no number breaks the episode off and nothing else."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from residual_arm import LIMITS, SPEC

from armature.errors import InvalidValue
from policies.action_frame import ActionFrame
from policies.step_assembly import Step, StepAssembly
from policies.step_log import CONTROL, CORRECTED, CUT, ENDED, FIRST, HELPED, HUMAN, LATCHED, TERMINATED

PERIOD_NS = 100_000_000
FRAME = ActionFrame(SPEC.action, LIMITS)
HERE = np.array([0.1, 0.2, 0.04])


class Bench:
    """An assembly in lockstep unless told otherwise, and what came of it."""

    def __init__(self, **changes: Any) -> None:
        self.records: list[dict[str, Any]] = []
        plain = {"is_rewarded": True, "lockstep": True, **changes}
        self.assembly = StepAssembly(FRAME, PERIOD_NS, self.records.append, **plain)
        self.assembly.begin(episode=3, version=7, share=0.5, flags=0)

    def step(self, k: int, now_s: float = 0.0, *, observation: float | None = None) -> None:
        seen = np.full(6, k if observation is None else observation, np.float32)
        self.assembly.begin_step(Step(k * PERIOD_NS, seen, seen[:3] + 0.5, HERE, now_s))

    def executed(self, k: int, now_s: float = 0.0, *, is_corrected: bool = True, is_latched: bool = False) -> None:
        action, whose = HERE + np.array([0.1, 0.0, 0.0]), {"is_corrected": is_corrected, "is_latched": is_latched}
        self.assembly.executed(k * PERIOD_NS, action, now_s, **whose)

    def reward(self, k: float, value: float = 0.0, now_s: float = 0.0) -> None:
        self.assembly.reward(round(k * PERIOD_NS), value, now_s)

    def run(self, *steps: int) -> None:
        for k in steps:
            self.step(k)
            self.executed(k)
            self.reward(k)

    def end(self, k: int, *, success: bool) -> None:
        self.assembly.end(k * PERIOD_NS, 0.0, success=success)

    @property
    def flags(self) -> list[int]:
        return [record["flags"] & ~CORRECTED for record in self.records]

    @property
    def steps(self) -> list[int]:
        return [record["stamp_ns"] // PERIOD_NS for record in self.records]


def test_a_record_holds_what_was_seen_asked_done_and_seen_after_it():
    bench = Bench()
    bench.run(0, 1, 2)
    bench.end(2, success=False)
    first = bench.records[0]
    assert first["action"].tolist() == pytest.approx([0.5, 0.0, 0.0])
    assert (first["observation"][0], first["base"][0]) == (0.0, 0.5)
    assert (first["next_observation"][0], first["next_base"][0]) == (1.0, 1.5)
    assert (first["episode"], first["version"], first["share"], first["reward"]) == (3, 7, 0.5, 0.0)
    assert [record["flags"] & CORRECTED for record in bench.records] == [CORRECTED, CORRECTED]


def test_a_failure_is_no_end_of_the_task_its_last_step_whose_end_nobody_saw_is_left_out():
    bench = Bench()
    bench.run(0, 1, 2, 3)
    bench.end(3, success=False)
    assert (bench.steps, bench.flags) == ([0, 1, 2], [FIRST, 0, CUT | ENDED])
    assert bench.assembly.dropped == {"last of its episode": 1}


@pytest.mark.parametrize(("is_rewarded", "success"), [(True, False), (True, True), (False, False), (False, True)])
def test_an_episode_that_ends_with_a_latched_gate_ends_the_task_well_or_not(is_rewarded, success):
    bench = Bench(is_rewarded=is_rewarded)
    bench.run(0, 1)
    bench.step(2)
    bench.executed(2, is_corrected=False, is_latched=True)
    bench.reward(2, 0.0)
    # The arm stands for the rest of the episode, without base actions.
    bench.reward(3, 0.0)
    bench.end(9, success=success)
    ending = TERMINATED if success else LATCHED | CUT
    assert (bench.steps, bench.flags) == ([0, 1, 2], [FIRST, 0, ending | ENDED])
    assert [record["reward"] for record in bench.records] == [0.0, 0.0, float(success and not is_rewarded)]
    assert not bench.assembly.dropped


def test_a_success_is_the_end_of_the_task_whenever_its_reward_comes():
    bench = Bench()
    bench.run(0, 1)
    bench.step(2)
    bench.executed(2)
    bench.end(2, success=True)
    assert bench.steps == [0]
    bench.reward(2, 1.0)
    assert (bench.steps, bench.flags) == ([0, 1, 2], [FIRST, 0, TERMINATED | ENDED])
    assert [record["reward"] for record in bench.records] == [0.0, 0.0, 1.0]


def test_where_no_topic_tells_rewards_the_label_does():
    for success, steps, reward in ((True, [0, 1], 1.0), (False, [0], 0.0)):
        bench = Bench(is_rewarded=False)
        for k in (0, 1):
            bench.step(k)
            bench.executed(k)
        bench.assembly.end(None, 0.0, success=success)
        assert bench.steps == steps
        assert bench.records[-1]["reward"] == reward


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_a_reward_that_is_no_number_of_the_log_breaks_the_episode_off_there_and_the_rest_begins_anew(value):
    bench = Bench()
    bench.run(0, 1)
    bench.step(2)
    bench.executed(2)
    with pytest.raises(InvalidValue, match=re.escape(f"reward of {2 * PERIOD_NS} ns is {value}, allowed +-1e+06")):
        bench.reward(2, value)
    bench.run(3, 4, 5)
    bench.end(5, success=False)
    assert (bench.steps, bench.flags) == ([0, 1, 3, 4], [FIRST, CUT, FIRST, CUT | ENDED])
    assert bench.assembly.dropped["reward is out of range"] == 1


def test_a_reward_that_does_not_come_is_not_taken_for_0():
    bench = Bench(patience_s=1.0)
    bench.run(0)
    bench.step(1)
    bench.executed(1)
    bench.run(2, 3)
    bench.assembly.look(0.9)
    assert bench.steps == []
    bench.assembly.look(1.1)
    bench.end(3, success=False)
    assert (bench.steps, bench.flags) == ([0, 2], [FIRST | CUT, FIRST | CUT | ENDED])
    assert bench.assembly.dropped["the reward did not come"] == 1


def test_a_step_whose_execution_is_not_known_is_left_out():
    bench = Bench(patience_s=1.0)
    bench.run(0)
    bench.step(1)
    bench.reward(1)
    bench.run(2, 3)
    bench.assembly.look(2.0)
    assert bench.assembly.dropped == {"what was executed did not come": 1}


def test_steps_that_do_not_follow_each_other_are_not_joined():
    bench = Bench()
    bench.run(0, 1, 3, 4)
    bench.end(4, success=False)
    assert (bench.steps, bench.flags) == ([0, 3], [FIRST | CUT, FIRST | CUT | ENDED])


def test_what_was_seen_and_is_no_number_is_in_no_record():
    bench = Bench()
    bench.run(0, 1)
    bench.step(2, observation=np.nan)
    bench.executed(2)
    bench.reward(2)
    bench.run(3, 4)
    bench.end(4, success=True)
    assert (bench.steps, bench.flags) == ([0, 3, 4], [FIRST | CUT, FIRST, TERMINATED | ENDED])


def test_a_new_episode_breaks_off_the_one_before_and_marks_are_each_episodes_own():
    bench = Bench()
    bench.run(0, 1, 2)
    bench.assembly.begin(episode=4, version=8, share=0.0, flags=CONTROL)
    bench.run(20, 21)
    bench.end(21, success=True)
    assert bench.flags == [FIRST, CUT, FIRST | CONTROL, TERMINATED | ENDED | CONTROL]
    assert [record["version"] for record in bench.records] == [7, 7, 8, 8]


@pytest.mark.parametrize("success", [True, False])
def test_steps_that_a_person_drove_say_so_and_so_does_the_end_of_their_episode(success):
    bench = Bench()
    bench.run(0)
    for k in (1, 2):
        bench.step(k)
        bench.assembly.executed(k * PERIOD_NS, HERE + 0.05, 0.0, is_corrected=False, is_human=True)
        bench.reward(k)
    bench.run(3, 4)
    bench.end(4, success=success)
    ends = [0, TERMINATED | ENDED | HELPED] if success else [CUT | ENDED | HELPED]
    assert bench.flags == [FIRST, HUMAN, HUMAN, *ends]
    assert [bool(record["flags"] & CORRECTED) for record in bench.records[:3]] == [True, False, False]
    assert bench.records[1]["action"].tolist() == pytest.approx(FRAME.encode(HERE + 0.05, HERE).tolist())
    bench.assembly.begin(episode=4, version=7, share=0.5, flags=0)
    bench.run(20, 21)
    bench.end(21, success=True)
    assert bench.flags[-1] == TERMINATED | ENDED


def test_in_real_time_a_step_has_the_rewards_until_the_next_one_and_none_is_lost():
    bench = Bench(lockstep=False)
    rewards = {0.4: 0.125, 1.3: 0.25, 1.8: 0.5, 3.2: 1.0}
    for k in range(4):
        bench.step(k)
        bench.executed(k)
    for k, value in rewards.items():
        bench.reward(k, value)
    bench.step(4)  # after the robot's last
    bench.assembly.end(round(3.2 * PERIOD_NS), 0.0, success=True)
    assert [record["reward"] for record in bench.records] == [0.125, 0.75, 0.0, 1.0]
    assert bench.flags[-1] == TERMINATED | ENDED


@settings(max_examples=200, deadline=None)
@given(order=st.permutations([(what, k) for k in range(4) for what in ("executed", "reward")]), success=st.booleans())
def test_the_order_in_which_the_parts_come_makes_no_difference(order, success):
    bench = Bench()
    for k in range(4):
        bench.step(k)
    bench.end(3, success=success)
    for what, k in order:
        bench.executed(k) if what == "executed" else bench.reward(k, float(k))
    assert bench.steps == ([0, 1, 2, 3] if success else [0, 1, 2])
    assert [record["reward"] for record in bench.records] == [float(k) for k in bench.steps]
    assert bench.flags[-1] == (TERMINATED | ENDED if success else CUT | ENDED)
