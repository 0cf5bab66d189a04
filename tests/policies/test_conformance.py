"""Every family of policy keeps the same promises: run over all that are registered."""

from __future__ import annotations

import math
from dataclasses import replace
from operator import attrgetter

import numpy as np
import pytest
import torch

from armature.errors import ConfigError, InvalidValue, MissingStatistics, SpecMismatch
from armature.normalizer import Normalizer
from armature.spec import CAMERA_SCENE, CAMERA_WRIST, GRIPPER_OPENING, JOINT_POSITION
from armature.testing import check_policy, random_observation
from policies.checkpoint import load_policy, save_checkpoint
from policies.chunk_policy import ChunkPolicy
from policies.nets.observation import VisionConfig
from policies.presets.catalog import PRESETS
from policies.registry import METHODS, method_class
from policies.train import train
from policies.train_workers import Workers
from policies.training_state import OptimizerConfig, TrainingState

VECTORS = (JOINT_POSITION, GRIPPER_OPENING)
VARIANTS = {
    "pixels": {},
    "vectors, history": {"observations": VECTORS, "obs_steps": 2},
    "pixels, history": {"obs_steps": 3},
    "relative": {"relative_actions": True},
}

DETERMINISTIC = ("bc",)

every_family = pytest.mark.parametrize("family", METHODS)
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())


@every_family
@every_variant
def test_keeps_the_policy_protocol(new_policy, family, variant):
    check_policy(new_policy(family, **variant))


@every_family
def test_names_the_fields_of_its_sampling_and_of_its_loss(family):
    made = method_class(family)
    for name in (*made.sampling_fields, *made.loss_fields):
        attrgetter(name)(made.Config())
    assert not set(made.sampling_fields) & set(made.loss_fields)


@every_family
@every_variant
def test_a_sample_does_not_depend_on_its_batch(new_policy, batch_of, family, variant):
    policy = new_policy(family, **variant)
    batch = batch_of(policy, 5)
    noise = torch.randn(batch["action"].shape, generator=torch.Generator().manual_seed(1))
    together = policy.sample(batch, noise)
    alone = [policy.sample({n: v[i : i + 1] for n, v in batch.items()}, noise[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(together.actions, torch.cat([a.actions for a in alone]), rtol=0, atol=1e-5)
    for name, figures in together.diagnostics.items():
        torch.testing.assert_close(figures, torch.cat([a.diagnostics[name] for a in alone]), rtol=1e-4, atol=1e-5)


@every_family
@every_variant
def test_every_weight_gets_a_gradient(new_policy, batch_of, family, variant):
    policy = new_policy(family, **variant).train()
    state = TrainingState(policy, OptimizerConfig(learning_rate=1e-3, warmup_steps=1))
    # Layers that begin at zero keep the gradient from what lies behind them: two steps open them.
    for _ in range(3):
        state.update(batch_of(policy, 4), seed=0, steps=10)
    assert [name for name, p in policy.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@every_family
def test_a_seed_fixes_the_chunks_of_an_episode_and_another_changes_them(new_policy, family):
    policy = new_policy(family)
    observation = random_observation(policy.spec, 1, np.random.default_rng(0), 0)

    def episode(seed):
        policy.reset(seed)
        return np.stack([policy.infer(observation).actions for _ in range(2)])

    first = episode(7)
    assert np.array_equal(first, episode(7))
    is_random = not np.array_equal(first[0], first[1])
    assert is_random == (family not in DETERMINISTIC)
    assert np.array_equal(first, episode(8)) != is_random


@every_family
def test_episodes_that_are_answered_together_keep_their_own_noise_and_count(new_policy, family):
    policy = new_policy(family)
    rng = np.random.default_rng(0)
    observations = [random_observation(policy.spec, 1, rng, stamp_ns) for stamp_ns in (4, 5, 6)]
    episodes = [policy.begin(seed) for seed in (1, 2, 3)]
    for _ in range(2):
        together = policy.infer_batch(observations, episodes)
    for seed, observation, chunk in zip((1, 2, 3), observations, together, strict=True):
        policy.reset(seed)
        policy.infer(observation)
        alone = policy.infer(observation)
        np.testing.assert_allclose(chunk.actions, alone.actions, atol=1e-4)
        assert (chunk.stamp_ns, chunk.sequence) == (observation.stamp_ns, alone.sequence)


@every_family
def test_a_loaded_checkpoint_gives_the_same_chunks(new_policy, tmp_path, family):
    policy = new_policy(family)
    loaded = load_policy(save_checkpoint(tmp_path / "checkpoint", policy, {}))
    observation = random_observation(policy.spec, 1, np.random.default_rng(0), 0)
    for each in (policy, loaded):
        each.reset(3)
    chunks = [each.infer(observation) for each in (policy, loaded)]
    assert np.array_equal(chunks[0].actions, chunks[1].actions)
    assert chunks[0].diagnostics == chunks[1].diagnostics


@every_family
def test_training_two_steps_and_resuming_equals_four(dataset, tmp_path, family):
    through = replace(PRESETS[f"{family}_tiny"](dataset, tmp_path / "through"), steps=4)
    parts = replace(through, out=tmp_path / "parts")
    train(through)
    train(replace(parts, stop_at_step=2))
    train(replace(parts, resume=True))
    weights = [(run.out / "checkpoint" / "weights.safetensors").read_bytes() for run in (through, parts)]
    assert weights[0] == weights[1]


@every_family
@pytest.mark.parametrize("count", [1, 4])
# MoDE norms queries of bf16 with weights of float32, which torch computes all the same, not as fast.
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_trains_in_bf16(new_policy, batch_of, family, count):
    policy = new_policy(family)
    state = TrainingState(policy, OptimizerConfig(learning_rate=1e-3), Workers(precision="bf16"))
    assert math.isfinite(state.update(batch_of(policy, count), seed=0, steps=10))
    assert {weight.dtype for weight in policy.parameters()} == {torch.float32}


@every_family
def test_overfits_one_batch(new_policy, batch_of, family):
    policy = new_policy(family, observations=VECTORS)
    batch = batch_of(policy, 2)
    batch["action"] = batch["action"][:, :1].expand(-1, policy.config.chunk_steps, -1).contiguous()
    state = TrainingState(policy, OptimizerConfig(learning_rate=3e-3, warmup_steps=20))
    noise = torch.randn(batch["action"].shape, generator=torch.Generator().manual_seed(0))
    error_n = math.inf
    while error_n >= 0.1 and state.step < 600:
        for _ in range(100):
            state.update(batch, seed=0, steps=600)
        sampled = state.average.sample(batch, noise, torch.Generator().manual_seed(0)).actions
        error_n = ((sampled - batch["action"]) * policy.action_layer.scale).abs().mean().item()
    assert error_n < 0.1


@every_family
def test_the_average_of_the_weights_holds_on_to_no_steps(new_policy, batch_of, family):
    policy = new_policy(family, observations=VECTORS)
    state = TrainingState(policy, OptimizerConfig())
    for _ in range(2):
        state.update(batch_of(policy, 2), seed=0, steps=2)
    assert [name for name, p in state.average.named_parameters() if p.requires_grad] == []


@every_family
def test_normalised_actions_go_back_to_physical_units(new_policy, batch_of, family):
    policy = new_policy(family)
    actions = batch_of(policy, 16)["action"]
    torch.testing.assert_close(policy.action_layer.invert(policy.action_layer(actions)), actions)
    assert policy.action_layer(actions).abs().max() <= 1 + 1e-6


def test_a_policy_turns_off_what_would_round_on_a_gpu(new_policy, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    new_policy()
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")
@every_family
def test_cpu_and_cuda_agree(new_policy, family):
    policy = new_policy(family)
    observation = random_observation(policy.spec, 1, np.random.default_rng(0), 0)
    chunks = []
    for device in ("cpu", "cuda"):
        policy.to(device).reset(3)
        chunks.append(policy.infer(observation).actions)
    np.testing.assert_allclose(chunks[0], chunks[1], atol=1e-3)


def test_chunk_starts_at_the_observation_and_is_numbered(new_policy):
    policy = new_policy()
    policy.reset(0)
    observations = [random_observation(policy.spec, 1, np.random.default_rng(0), stamp_ns) for stamp_ns in (5, 9)]
    chunks = [policy.infer(observation) for observation in observations]
    assert [(c.stamp_ns, c.start_ns, c.period_ns, c.sequence) for c in chunks] == [
        (5, 5, 50_000_000, 1),
        (9, 9, 50_000_000, 2),
    ]
    assert chunks[0].actions.shape == (8, 3)
    assert chunks[0].actions.dtype == np.float64


def test_relative_actions_are_added_to_the_latest_joint_positions(new_policy):
    absolute, relative = new_policy(obs_steps=2), new_policy(obs_steps=2, relative_actions=True)
    observation = random_observation(absolute.spec, 2, np.random.default_rng(0), 0)
    for policy in (absolute, relative):
        policy.reset(0)
    difference = relative.infer(observation).actions - absolute.infer(observation).actions
    expected = np.append(observation.values[JOINT_POSITION][-1], 0.0)
    np.testing.assert_allclose(difference, np.tile(expected, (8, 1)), atol=1e-6)


def test_observation_is_encoded_once_per_chunk(new_policy):
    policy = new_policy()
    calls = []
    policy.encoder.register_forward_hook(lambda *_: calls.append(1))
    policy.infer(random_observation(policy.spec, 1, np.random.default_rng(0), 0))
    assert len(calls) == 1


def test_missing_statistics_are_named(spec, new_policy):
    policy = new_policy()
    fields = {name: stats for name, stats in policy.normalizer.fields.items() if name != JOINT_POSITION}
    with pytest.raises(MissingStatistics, match=JOINT_POSITION):
        ChunkPolicy(
            "diffusion", policy.config, policy.method_config, spec, Normalizer(fields, dict.fromkeys(fields, "limits"))
        )


def test_an_unknown_observation_is_refused(new_policy):
    with pytest.raises(SpecMismatch, match=r"camera/wrst.*Did you mean 'camera/wrist'"):
        new_policy(observations=("camera/wrst",))


def test_observations_that_do_not_fit_are_refused(new_policy):
    policy = new_policy(obs_steps=2)
    good = random_observation(policy.spec, 2, np.random.default_rng(0), 0)

    def changed(name, value):
        return replace(good, values={**good.values, name: value})

    joint = good.values[JOINT_POSITION]
    with pytest.raises(InvalidValue, match="lacks camera/wrist"):
        policy.infer(replace(good, values={n: v for n, v in good.values.items() if n != CAMERA_WRIST}))
    with pytest.raises(InvalidValue, match="1 steps, diffusion needs 2"):
        policy.infer(changed(JOINT_POSITION, joint[:1]))
    with pytest.raises(InvalidValue, match="not finite"):
        policy.infer(changed(JOINT_POSITION, joint * np.float32("nan")))
    with pytest.raises(InvalidValue, match="shape"):
        policy.infer(changed(JOINT_POSITION, joint[:, :1]))


def test_more_observations_than_needed_are_fine(spec, new_policy):
    policy = new_policy(observations=VECTORS)
    assert policy.infer(random_observation(spec, 1, np.random.default_rng(0), 0)).actions.shape == (8, 3)


BAD_CONFIGS = {
    "obs_steps is 0": {"obs_steps": 0},
    "chunk_steps is 0": {"chunk_steps": 0},
    "vector_noise is -1": {"vector_noise": -1.0},
    "vector_noise is nan": {"vector_noise": math.nan},
    "vector_noise is inf": {"vector_noise": math.inf},
    f"observations names {JOINT_POSITION} more than once": {"observations": (*VECTORS, JOINT_POSITION)},
    "crop_margin_px 12": {"vision": VisionConfig(crop_margin_px=12)},
    "3 channels, but 1 strides": {"vision": VisionConfig(channels=(4, 4, 4), strides=(2,))},
    "relative_actions needs": {"relative_actions": True, "observations": (CAMERA_SCENE,)},
}


BAD_VISION = {
    r"vision.channels is \(\)": {"channels": (), "strides": ()},
    r"vision.channels is \(4, 0\)": {"channels": (4, 0), "strides": (2, 2)},
    r"vision.strides is \(2, 0\)": {"channels": (4, 4), "strides": (2, 0)},
    "vision.features is 0": {"features": 0},
    "vision.key_points is -3": {"key_points": -3},
    "unknown vision.network 'resnet8'": {"network": "resnet8"},
}


@pytest.mark.parametrize(("message", "changes"), BAD_VISION.items(), ids=BAD_VISION.keys())
def test_impossible_image_networks_are_refused(message, changes):
    with pytest.raises(ConfigError, match=message):
        VisionConfig(**changes)


@pytest.mark.parametrize(("message", "changes"), BAD_CONFIGS.items(), ids=BAD_CONFIGS.keys())
def test_wrong_configs_are_refused(new_policy, message, changes):
    with pytest.raises(ConfigError, match=message):
        new_policy(**changes)
