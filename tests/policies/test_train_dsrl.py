"""`armature train-dsrl` from a checkpoint to an actor, in the real simulator of Push-T with a tiny untrained policy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from armature.errors import ArmatureError, ConfigError, SpecMismatch
from armature.normalizer import FieldStats, Normalizer
from armature.spec import AGENT_POSITION, OBJECT_KEYPOINTS, OBJECT_POSE
from data_collection.store import create_dataset
from policies.checkpoint import load_policy, save_checkpoint
from policies.chunk_policy import ChunkPolicy
from policies.chunk_replay import ChunkLayout
from policies.dsrl import Dsrl, DsrlConfig
from policies.dsrl_learner import DsrlLearnerConfig
from policies.noise_decoder import NoiseDecoder
from policies.presets.catalog import PRESETS
from policies.steered_policy import NoiseWeights, load_steered
from policies.train_dsrl import DsrlTrainConfig, main, train_dsrl
from policies.train_dsrl_data import demonstration_chunks
from policies.train_dsrl_robots import SteeredRobots
from policies.train_online import FIRST_SEED
from policies.train_residual_data import open_demonstrations
from policies.train_residual_robots import Style
from sim.corrected_world import PolicyNeeds
from sim.defaults import default_scheduler, limits_for
from sim.environment import make_env
from sim.rollout import rollout
from sim.tasks import SimConfig, robot_spec
from sim.world_processes import WorldProcesses

WORLD = SimConfig("pusht", cameras=False, horizon_steps=20)
SETTINGS = DsrlConfig(hidden=(16,), critics=2, draws=2)
LEARNER = DsrlLearnerConfig(dsrl=SETTINGS, batch_size=8, warmup_steps=24, critic_warmup_updates=4)
LENGTHS = (11, 12)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Write two successful episodes of Push-T that went anywhere."""
    path, rng = tmp_path_factory.mktemp("data") / "pusht", np.random.default_rng(0)
    with create_dataset(path, robot_spec(WORLD), "pusht").writer() as writer:
        for length in LENGTHS:
            episode, stamps = writer.begin({}), np.arange(length, dtype=np.int64) * 100_000_000
            for stream, size in ((AGENT_POSITION, 2), (OBJECT_POSE, 3), (OBJECT_KEYPOINTS, 18)):
                episode.append(stream, stamps, stamps, rng.uniform(0, 512, (length, size)).astype(np.float32))
            action = rng.uniform(0, 512, (length, 2))
            for stream in ("action/executed", "action/requested"):
                episode.append(stream, stamps, stamps, action)
            episode.end({"success": True})
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, new_pusht_policy):
    return save_checkpoint(tmp_path_factory.mktemp("base") / "checkpoint", new_pusht_policy(), {})


@pytest.fixture(scope="module")
def new_pusht_policy():
    """Return a function that makes an untrained policy for Push-T from its state."""

    def make(family="diffusion", **method):
        preset, spec = PRESETS[f"{family}_tiny"](Path(), Path()), robot_spec(WORLD)
        span = {array.name: np.array([np.zeros(array.size), np.full(array.size, 512.0)]) for array in spec.observation}
        fields = {name: FieldStats.of(value) for name, value in {**span, "action": span[AGENT_POSITION]}.items()}
        statistics = Normalizer(fields, dict.fromkeys(fields, "limits"))
        torch.manual_seed(0)
        config = replace(preset.policy, obs_steps=2)
        return ChunkPolicy(family, config, replace(preset.method, **method), spec, statistics).eval()

    return make


@pytest.fixture
def config(checkpoint, tmp_path):
    return DsrlTrainConfig(
        base=checkpoint,
        task="pusht",
        out=tmp_path / "out",
        steps=40,
        worlds=2,
        evaluate_every_steps=20,
        evaluate_episodes=2,
        horizon_steps=20,
        learner=LEARNER,
    )


def test_a_policy_is_steered_from_checkpoint_to_actor(config, dataset, capsys):
    out = config.out
    arguments = {
        "base": config.base, "task": "pusht", "out": out, "dataset": dataset, "steps": 40, "worlds": 2,
        "evaluate-every-steps": 20, "evaluate-episodes": 2, "horizon-steps": 20, "learner.batch-size": 8,
        "learner.warmup-steps": 24, "learner.critic-warmup-updates": 4, "learner.dsrl.hidden": 16,
        "learner.dsrl.critics": 2, "learner.guard.share-first": 1.0,
    }  # fmt: skip
    assert main([text for name, value in arguments.items() for text in (f"--{name}", str(value))]) == 0
    assert f"base 0 of 2, now 0 of 2: {out}" in capsys.readouterr().err.replace("\n", "")
    document = json.loads((out / "curve.json").read_text())
    assert document["command"].startswith("armature train-dsrl --base")
    curve = document["curve"]
    assert [point["share"] for point in curve] == [0.0, 1.0, 1.0]
    assert curve[0]["step"] == 0
    assert 20 <= curve[1]["step"] < 40 <= curve[2]["step"]
    assert all((point["episodes"], point["mean_steps"]) == (2, 20.0) for point in curve)
    base = load_policy(config.base)
    steered = load_steered(base, out / "actor.bin")
    env = make_env(WORLD)
    result = rollout(env, steered, 1000, default_scheduler(), limits_for(env.robot_spec.action))
    env.close()
    assert result.steps == 20
    learned = NoiseWeights.from_file(out / "actor.bin").arrays["layers.3.weight"]
    assert 0 < learned.abs().max() < 0.1


def noting(begin, seeds):
    """Return what begins episodes, and notes the seeds of those that are learned from."""

    def noted(self, worlds):
        begin(self, worlds)
        seeds.extend(robot.seed for robot in self._robots if robot.seed >= FIRST_SEED)

    return noted


@pytest.mark.parametrize("after_steps", [-1, 10], ids=["in the warm-up", "while it learns"])
def test_an_interrupted_training_is_gone_on_with(config, interrupted, monkeypatch, after_steps):
    with interrupted("train_dsrl", after_steps):
        first = train_dsrl(config)
    assert len(first) == 1
    state = json.loads((config.out / "state" / "state.json").read_text())
    assert state["counts"]["begun"] >= config.worlds
    assert state["learner"]["steps"] > 0 or after_steps < 0
    assert (state["learner"]["updates"] > 0) == (after_steps > 0)
    begun = []
    monkeypatch.setattr(SteeredRobots, "_begin", noting(SteeredRobots._begin, begun))
    curve = train_dsrl(replace(config, resume=True))
    assert min(begun) == FIRST_SEED + state["counts"]["begun"]
    assert curve[:1] == first
    assert 20 <= curve[1].step < 40 <= curve[2].step


@pytest.fixture
def decoder(checkpoint):
    return NoiseDecoder(load_policy(checkpoint), 8)


def run(decoder, styles, layout, horizon_steps=20):
    """Run an episode in each style; return the transitions and what a learner drew them with."""
    dsrl = Dsrl(SETTINGS, layout, decoder)
    policy, world = decoder.policy, replace(WORLD, horizon_steps=horizon_steps)
    needs = PolicyNeeds(policy.spec, policy.obs_steps, policy.policy_id)
    found = []
    with WorldProcesses(2, 1, world, needs, default_scheduler()) as worlds:
        episodes = iter([(1000 + k, style) for k, style in enumerate(styles)])
        robots = SteeredRobots(worlds, range(2), decoder, dsrl, episodes, layout)
        while robots.is_running:
            robots.send()
            found += robots.receive()
    return found


def layout_of(decoder):
    return ChunkLayout(decoder.observation_dim, decoder.action_dim, decoder.noise_dim, SETTINGS.draws)


def test_what_the_robots_do_is_told_chunk_by_chunk(decoder):
    layout = layout_of(decoder)
    found = run(decoder, [Style(0.0), Style(1.0, noise_std=1.0)], layout, horizon_steps=16)
    assert [(t.seed, t.steps, t.index, t.cut, t.terminated) for t in found] == [
        (1000, 8, 7, False, False), (1001, 8, 7, False, False), (1000, 8, 15, True, False), (1001, 8, 15, True, False)
    ]  # fmt: skip
    batch = layout.split(torch.from_numpy(np.stack([t.row for t in found])))
    assert batch.reward.tolist() == [0.0] * 4
    # A time limit is no end: what follows counts.
    assert batch.discount.tolist() == pytest.approx([0.99**8] * 4)
    torch.testing.assert_close(batch.next_observation[:2], batch.observation[2:])
    for k in range(SETTINGS.draws):
        decoded = decoder(batch.observation, batch.noises[:, k])
        torch.testing.assert_close(decoded, batch.chunks[:, k], atol=1e-5, rtol=0)
    # Without the actor the policy acts by itself; with it, by the first of the noises.
    torch.testing.assert_close(batch.next_base[0], batch.action[2])
    torch.testing.assert_close(batch.action[1::2], batch.chunks[1::2, 0])
    assert batch.noises.abs().max() <= 1.5


def test_without_the_actor_the_policy_acts_as_if_nobody_looked(decoder, checkpoint):
    layout = layout_of(decoder)
    found = run(decoder, [Style(0.0)], layout)
    env, asked = make_env(WORLD), []
    policy = load_policy(checkpoint)
    inferred = policy.infer
    policy.infer = lambda *given: asked.append(inferred(*given)) or asked[-1]
    rollout(env, policy, 1000, default_scheduler(), limits_for(env.robot_spec.action))
    env.close()
    # The chunk that the limit of 20 steps cuts short has nothing after it to learn from.
    assert [(t.steps, t.row is None) for t in found] == [(8, False), (8, False), (4, True)]
    actions = layout.split(torch.from_numpy(np.stack([t.row for t in found[:2]]))).action.reshape(2, 8, 2)
    for normalised, chunk in zip(actions, asked, strict=False):
        physical = policy.action_layer.invert(normalised).numpy()
        assert physical == pytest.approx(chunk.actions[:8], abs=1e-2)


def test_demonstrations_need_no_noise(decoder, dataset):
    layout = layout_of(decoder)
    dsrl = Dsrl(SETTINGS, layout, decoder)
    episodes = open_demonstrations(dataset, robot_spec(WORLD), "pusht")
    replay = demonstration_chunks(episodes, decoder, dsrl, layout)
    # Of 11 steps: chunks from 0 and 8; of 12, from 1 and 9.
    assert len(replay) == 4
    rows = replay.layout.split(torch.from_numpy(replay._rows[:4]))
    assert rows.reward.tolist() == pytest.approx([0.0, 0.99**2, 0.0, 0.99**2])
    assert rows.discount.tolist() == pytest.approx([0.99**8, 0.0, 0.99**8, 0.0])
    torch.testing.assert_close(rows.next_observation[[0, 2]], rows.observation[[1, 3]])
    shown = decoder.policy.action_layer.invert(rows.action[2].reshape(8, 2)).numpy()
    assert shown == pytest.approx(episodes[1]["action"][1:9], abs=1e-3)
    padded = decoder.policy.action_layer.invert(rows.action[3].reshape(8, 2)).numpy()
    assert padded == pytest.approx(episodes[1]["action"][[9, 10, 11, 11, 11, 11, 11, 11]], abs=1e-3)
    torch.testing.assert_close(decoder(rows.observation, rows.noises[:, 1]), rows.chunks[:, 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("error", "named", "changes"),
    [
        (SpecMismatch, "needs 'pusht', offered 'panda'", {"task": "lift"}),
        (ConfigError, "unknown task 'push'", {"task": "push"}),
        (ConfigError, "execute_steps is 9, the chunks of diffusion-.* have 8",
         {"scheduler": replace(default_scheduler(), execute_steps=9)}),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_the_first_step(config, error, named, changes):
    with pytest.raises(error, match=named):
        train_dsrl(replace(config, **changes))
    assert not config.out.exists()


def test_a_stochastic_sampler_is_refused(config, new_pusht_policy, tmp_path):
    path = save_checkpoint(tmp_path / "ddpm", new_pusht_policy(sampler="ddpm"), {})
    with pytest.raises(ConfigError, match="its sampler ddpm draws more than the first noise"):
        train_dsrl(replace(config, base=path))


def test_chunks_that_are_not_executed_as_they_are_and_counts_below_1_are_refused(config):
    with pytest.raises(ConfigError, match=r"scheduler\.mode is temporal_ensemble.* Valid: receding_horizon"):
        replace(config, scheduler=replace(default_scheduler(), mode="temporal_ensemble"))
    with pytest.raises(ConfigError, match="worlds is 0, must be at least 1"):
        replace(config, worlds=0)


def test_a_folder_with_something_in_it_is_left_alone(config):
    config.out.mkdir()
    (config.out / "mine").write_text("")
    with pytest.raises(ArmatureError, match="is not empty"):
        train_dsrl(config)
