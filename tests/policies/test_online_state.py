"""What a training in simulation is gone on from: the next step is the one that would have come, bit by bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from armature.errors import CheckpointError, ConfigError
from policies.chunk_replay import ChunkLayout
from policies.dsrl import Dsrl, DsrlConfig
from policies.dsrl_learner import DsrlLearner, DsrlLearnerConfig
from policies.online_state import FOLDER, Before, OnlineState, require_state
from policies.replay import Layout, Replay
from policies.residual_learner import LearnerConfig, ResidualLearner
from policies.residual_td3 import ResidualConfig, ResidualTd3

CHUNKS = ChunkLayout(observation_dim=3, action_dim=2, noise_dim=4, draws=2)
STEPS = Layout(observation_dim=3, action_dim=2)
PACE = {"batch_size": 8, "warmup_steps": 10, "critic_warmup_updates": 4}


def steering(base_id="base"):
    config = DsrlConfig(hidden=(8, 8), critics=3, draws=2)
    networks, online = Dsrl(config, CHUNKS, lambda seen, noise: noise[:, :2]), Replay(CHUNKS, 20)
    return networks, online, DsrlLearner(DsrlLearnerConfig(dsrl=config, **PACE), networks, base_id, online, None)


def correcting(base_id="base"):
    config = ResidualConfig(hidden=(8, 8), critics=3)
    networks, online = ResidualTd3(config, 3, 2), Replay(STEPS, 20)
    return networks, online, ResidualLearner(LearnerConfig(td3=config, **PACE), networks, base_id, online, None)


def experience(learner, online, count):
    """Take so many transitions, learn what is due of them, and judge some episodes."""
    rng = np.random.default_rng(online.total)
    for _ in range(count):
        row = rng.uniform(-1, 1, sum(online.layout.sizes)).astype(np.float32)
        learner.take(row, 1) if isinstance(learner, DsrlLearner) else learner.take([row])
        while learner.is_due:
            learner.update()
    learner.guard.record_base(success=True)
    for success in (True, False, True):
        learner.judge(learner.guard.share, success=success)


def state_of(path, networks, online, base_policy="base", **config):
    told = {"task": "lift", "seed": 0, "steps": 100, "learner": {"device": "cpu", "batch_size": 8}, **config}
    return OnlineState(path, told, {"base policy": base_policy, "demonstrations": None}, networks, online)


@pytest.mark.parametrize("make", [steering, correcting])
@pytest.mark.parametrize("count", [15, 30], ids=["the replay not full", "the replay gone round"])
def test_the_next_updates_are_those_that_would_have_come(tmp_path, make, count):
    networks, online, learner = make()
    experience(learner, online, count)
    before = Before(7, ({"step": 0, "successes": 3}, {"step": 10, "successes": 4}))
    state_of(tmp_path, networks, online).save(learner, before)
    others, replay, again = make()
    assert state_of(tmp_path, others, replay, steps=900).load(again) == before
    assert (again.steps, again.updates, again.share) == (learner.steps, learner.updates, learner.share)
    assert again.guard.state() == learner.guard.state()
    for each, its_replay in ((learner, online), (again, replay)):
        experience(each, its_replay, 6)
    for name, tensor in networks.state_dict().items():
        assert torch.equal(others.state_dict()[name], tensor), name
    assert torch.equal(replay.rows, online.rows)
    assert again.guard.state() == learner.guard.state()


def test_what_is_configured_otherwise_is_named(tmp_path):
    networks, online, learner = correcting()
    state_of(tmp_path, networks, online).save(learner, Before())
    for changes, words in (
        ({"seed": 3}, "--resume: seed is 3, the training began with 0"),
        ({"base_policy": "other"}, "--resume: base policy is other, the training began with base"),
        ({"learner": {"device": "cuda", "batch_size": 4}}, r"--resume: learner\.batch_size is 4, .* began with 8"),
    ):
        with pytest.raises(ConfigError, match=words):
            state_of(tmp_path, networks, online, **changes).load(learner)
    state_of(tmp_path, networks, online, learner={"device": "cuda", "batch_size": 8}).load(learner)


def test_a_damaged_state_and_one_that_is_not_there_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=f"--resume: {tmp_path} holds no state"):
        require_state(tmp_path)
    networks, online, learner = correcting()
    state_of(tmp_path, networks, online).save(learner, Before())
    require_state(tmp_path)
    file = tmp_path / FOLDER / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"state\.safetensors: damaged"):
        state_of(tmp_path, networks, online).load(learner)


def test_networks_of_another_size_are_refused(tmp_path):
    networks, online, learner = correcting()
    state_of(tmp_path, networks, online).save(learner, Before())
    wide = ResidualTd3(replace(networks.config, hidden=(16,)), 3, 2)
    with pytest.raises(CheckpointError, match="does not fit what is learned"):
        state_of(tmp_path, wide, online).load(learner)
