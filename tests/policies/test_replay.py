"""Rows of n steps and the ring that keeps them, in literal numbers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from armature.errors import ConfigError, InvalidValue
from policies.replay import Layout, NStep, Replay, Step

LAYOUT = Layout(observation_dim=2, action_dim=1)


def seen(number: float) -> np.ndarray:
    return np.array([number, -number], dtype=np.float32)


def act(number: float) -> np.ndarray:
    return np.array([number], dtype=np.float32)


def episode(nstep: NStep, rewards, **end) -> list[np.ndarray]:
    """Return the rows of an episode whose step k sees k, has base 10 k and executes 100 k."""
    rows = []
    for k, reward in enumerate(rewards):
        step = Step(seen(k), act(10 * k), act(100 * k), reward)
        is_last = k == len(rewards) - 1
        rows += nstep.add(step, seen(k + 1), act(10 * (k + 1)), **(end if is_last else {}))
    return rows


def batch_of(rows):
    return LAYOUT.split(torch.from_numpy(np.stack(rows)))


def test_rewards_of_n_steps_are_discounted_and_what_follows_counts_by_the_rest():
    batch = batch_of(episode(NStep(LAYOUT, 3, 0.5), [1.0, 2.0, 4.0, 8.0], cut=True))
    assert batch.reward.tolist() == [1 + 1 + 1, 2 + 2 + 2, 4 + 4, 8]
    assert batch.discount.tolist() == [0.125, 0.125, 0.25, 0.5]
    assert batch.observation[:, 0].tolist() == [0, 1, 2, 3]
    assert batch.base[:, 0].tolist() == [0, 10, 20, 30]
    assert batch.action[:, 0].tolist() == [0, 100, 200, 300]
    assert batch.next_observation.tolist() == [[3, -3], [4, -4], [4, -4], [4, -4]]
    assert batch.next_base[:, 0].tolist() == [30, 40, 40, 40]


def test_nothing_follows_a_terminated_episode():
    batch = batch_of(episode(NStep(LAYOUT, 3, 0.5), [0.0, 0.0, 0.0, 1.0], terminated=True))
    assert batch.reward.tolist() == [0, 0.25, 0.5, 1]
    assert batch.discount.tolist() == [0.125, 0, 0, 0]


def test_no_row_reaches_into_the_next_episode():
    nstep = NStep(LAYOUT, 3, 1.0)
    assert len(episode(nstep, [0.0, 1.0], terminated=True)) == 2
    batch = batch_of(episode(nstep, [0.0, 0.0, 0.0, 0.0], cut=True))
    assert batch.reward.tolist() == [0, 0, 0, 0]
    assert len(batch.reward) == 4


@given(rewards=st.lists(st.integers(0, 3), min_size=1, max_size=9), steps=st.integers(1, 4), terminated=st.booleans())
def test_every_step_of_an_episode_begins_exactly_one_row(rewards, steps, terminated):
    rows = episode(NStep(LAYOUT, steps, 1.0), [float(r) for r in rewards], terminated=terminated, cut=not terminated)
    batch = batch_of(rows)
    assert batch.observation[:, 0].tolist() == list(range(len(rewards)))
    expected = [sum(rewards[k : k + steps]) for k in range(len(rewards))]
    assert batch.reward.tolist() == expected
    assert (batch.discount == 0).sum() == (min(steps, len(rewards)) if terminated else 0)


@pytest.mark.parametrize("spoilt", ["reward", "observation", "action"])
def test_a_transition_that_is_not_finite_is_refused_by_name(spoilt):
    values = {"observation": seen(0), "base": act(0), "action": act(0), "reward": 0.0}
    values[spoilt] = values[spoilt] * np.nan
    nstep = NStep(LAYOUT, 1, 1.0)
    with pytest.raises(InvalidValue, match=f"transition with {spoilt}"):
        nstep.add(Step(**values), seen(1), act(1))
    assert len(nstep.add(Step(seen(0), act(0), act(0), 0.0), seen(1), act(1))) == 1


def test_a_full_ring_forgets_its_oldest_rows_and_draws_from_all_others():
    replay = Replay(LAYOUT, capacity=4)
    replay.add(episode(NStep(LAYOUT, 1, 1.0), [0.0] * 6, cut=True))
    assert (len(replay), replay.total) == (4, 6)
    drawn = replay.sample(200, torch.Generator().manual_seed(0))
    assert set(drawn.observation[:, 0].tolist()) == {2, 3, 4, 5}


def test_nothing_can_be_drawn_from_an_empty_ring():
    with pytest.raises(InvalidValue, match="replay buffer is empty"):
        Replay(LAYOUT, capacity=4).sample(1, torch.Generator())


def test_what_was_flushed_is_there_when_the_folder_is_opened_again(tmp_path):
    replay = Replay(LAYOUT, 8, tmp_path / "replay", task="lift")
    rows = episode(NStep(LAYOUT, 1, 1.0), [0.0, 0.0, 1.0], terminated=True)
    replay.add(rows)
    replay.flush()
    replay.add(rows)
    again = Replay(LAYOUT, 8, tmp_path / "replay", task="lift")
    assert (len(again), again.total) == (3, 3)
    drawn = again.sample(50, torch.Generator().manual_seed(0))
    assert set(drawn.observation[:, 0].tolist()) == {0, 1, 2}
    again.add(rows)
    assert again.total == 6


@pytest.mark.parametrize(
    ("layout", "capacity", "task", "named"),
    [
        (LAYOUT, 8, "can", "task is 'lift', expected 'can'"),
        (LAYOUT, 9, "lift", "capacity is 8, expected 9"),
        (Layout(3, 1), 8, "lift", "observation_dim is 2, expected 3"),
        (Layout(2, 2), 8, "lift", "action_dim is 1, expected 2"),
    ],
)
def test_a_ring_of_another_task_or_shape_is_refused(tmp_path, layout, capacity, task, named):
    Replay(LAYOUT, 8, tmp_path, task="lift").flush()
    with pytest.raises(ConfigError, match=named):
        Replay(layout, capacity, tmp_path, task=task)


def test_a_note_is_kept_with_the_rows_that_it_speaks_of(tmp_path):
    Replay(LAYOUT, 8, tmp_path).flush({"block": 7})
    assert json.loads((tmp_path / "state.json").read_text())["note"] == {"block": 7}


def test_the_files_of_a_replay_are_one_with_the_rows_that_are_there(tmp_path):
    replay = Replay(LAYOUT, 100)
    replay.add(episode(NStep(LAYOUT, 3, 0.5), [1.0, 2.0, 4.0, 8.0], cut=True))
    for name, content in replay.files("lift").items():
        (tmp_path / name).write_bytes(content)
    found = Replay(LAYOUT, 4, tmp_path, "lift")
    assert (len(found), found.total) == (4, 4)
    assert torch.equal(found.rows, replay.rows)


FULL = """
import sys
from pathlib import Path
from armature.errors import ConfigError
from policies.replay import Layout, Replay
folder = Path(sys.argv[1]) / "replay"
try:
    Replay(Layout(20, 5), 100_000, folder, "lift")
except ConfigError as error:
    print(error)
print(sorted(path.name for path in folder.iterdir()))
Replay(Layout(20, 5), 100, folder, "lift").flush()
"""


def test_a_replay_for_which_the_disk_has_no_room_is_refused_before_anything_is_learned(tmp_path):
    within = ["unshare", "-Urm", "sh", "-c", f'mount -t tmpfs -o size=1m small {tmp_path} && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*within, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a tmpfs in a name space of one's own (unshare -Urm)")
    command = [*within, sys.executable, "-c", FULL, str(tmp_path)]
    said, left = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert re.search(r"rows\.npy: a replay of this capacity takes 23 MB: No space left", said), said
    assert left == "[]"
