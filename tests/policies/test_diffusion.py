from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from armature.errors import ConfigError, InvalidValue, MissingStatistics, SpecMismatch
from armature.normalizer import Normalizer
from armature.spec import CAMERA_SCENE, CAMERA_WRIST, GRIPPER_OPENING, JOINT_POSITION
from armature.testing import check_policy, random_observation
from policies.diffusion import DiffusionConfig, DiffusionPolicy, TransformerConfig, UnetConfig, schedulers
from policies.nets.observation import VisionConfig
from policies.training_state import OptimizerConfig, TrainingState

VECTORS = (JOINT_POSITION, GRIPPER_OPENING)
VARIANTS = {
    "unet, pixels": {},
    "unet, vectors, history": {"observations": VECTORS, "obs_steps": 2},
    "unet, relative": {"relative_actions": True},
    "transformer, pixels, history": {"denoiser": "transformer", "obs_steps": 3},
}


def batch_of(policy, count, seed=0):
    rng = np.random.default_rng(seed)
    observations = [random_observation(policy.spec, policy.obs_steps, rng, 0).values for _ in range(count)]
    names = policy.spec.observation.names
    values = {name: torch.from_numpy(np.stack([o[name] for o in observations])) for name in names}
    bounds = policy.spec.action.low, policy.spec.action.high
    actions = rng.uniform(*bounds, (count, policy.config.chunk_steps, policy.spec.action.dim))
    return {**values, "action": torch.from_numpy(actions).float()}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_keeps_the_policy_protocol(new_policy, variant):
    check_policy(new_policy(**variant))


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_sample_does_not_depend_on_its_batch(new_policy, variant):
    policy = new_policy(**variant)
    batch = batch_of(policy, 5)
    noise = torch.randn(batch["action"].shape, generator=torch.Generator().manual_seed(1))
    together = policy.sample(batch, noise)
    alone = torch.cat([policy.sample({n: v[i : i + 1] for n, v in batch.items()}, noise[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_weight_gets_a_gradient(new_policy, variant):
    policy = new_policy(**variant).train()
    policy.loss(batch_of(policy, 4), torch.Generator().manual_seed(0)).backward()
    assert [name for name, p in policy.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_a_seed_fixes_the_chunks_of_an_episode_and_another_changes_them(spec, new_policy):
    policy = new_policy()
    observation = random_observation(policy.spec, 1, np.random.default_rng(0), 0)

    def episode(seed):
        policy.reset(seed)
        return np.stack([policy.infer(observation).actions for _ in range(2)])

    first = episode(7)
    assert np.array_equal(first, episode(7))
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first, episode(8))


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


def test_actions_stay_within_the_statistics(new_policy):
    policy = new_policy(observations=VECTORS)
    actions = policy.sample(batch_of(policy, 16), torch.randn(16, 8, 3) * 10).numpy()
    assert (actions >= policy.spec.action.low - 1e-5).all()
    assert (actions <= policy.spec.action.high + 1e-5).all()


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


def test_schedules_share_their_constants_and_end_at_the_clean_action():
    ddpm, ddim = schedulers(DiffusionConfig())
    assert torch.equal(ddpm.alphas_cumprod, ddim.alphas_cumprod)
    assert (len(ddim.alphas_cumprod), ddim.config.num_train_timesteps) == (100, 100)
    assert (ddim.config.prediction_type, ddim.config.clip_sample) == ("epsilon", True)
    # Nichol and Dhariwal 2021, equation 17: cos((t/T + 0.008) / 1.008 * pi/2)^2, here after 1, 50 and 100 steps.
    assert ddim.alphas_cumprod[0].item() == pytest.approx(0.99937, abs=1e-4)
    assert ddim.alphas_cumprod[49].item() == pytest.approx(0.49385, abs=1e-4)
    assert ddim.alphas_cumprod[99].item() < 1e-6
    ddim.set_timesteps(10)
    assert ddim.timesteps.tolist() == [90, 80, 70, 60, 50, 40, 30, 20, 10, 0]
    assert ddim.final_alpha_cumprod.item() == 1.0


@pytest.mark.parametrize("denoiser", ["unet", "transformer"])
def test_overfits_one_batch(new_policy, denoiser):
    net = TransformerConfig(width=32, layers=2, heads=2, dropout=0.0)
    unet = UnetConfig(dims=(32,), kernel=3, step_dim=32)
    sizes = {"denoiser": denoiser, "transformer": net, "unet": unet, "noise_draws": 64, "sampling_steps": 10}
    policy = new_policy(observations=VECTORS, **sizes)
    batch = batch_of(policy, 2)
    batch["action"] = batch["action"][:, :1].expand(-1, 8, -1).contiguous()
    state = TrainingState(policy, OptimizerConfig(learning_rate=1e-2, warmup_steps=20))
    losses = [state.update(batch, seed=0, steps=300) for _ in range(300)]
    assert np.mean(losses[-30:]) < 0.02
    noise = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0))
    error_n = (state.average.sample(batch, noise) - batch["action"]) * policy.action_layer.scale
    assert error_n.abs().mean().item() < 0.05


def test_missing_statistics_are_named(spec, new_policy):
    policy = new_policy()
    fields = {name: stats for name, stats in policy.normalizer.fields.items() if name != JOINT_POSITION}
    with pytest.raises(MissingStatistics, match=JOINT_POSITION):
        DiffusionPolicy(policy.config, spec, Normalizer(fields, dict.fromkeys(fields, "limits")))


BAD_CONFIGS = {
    "chunk_steps 6": {"chunk_steps": 6, "unet": UnetConfig(dims=(8, 8, 8))},
    "sampling_steps 101": {"sampling_steps": 101},
    "obs_steps is 0": {"obs_steps": 0},
    "kernel 4": {"unet": UnetConfig(dims=(8, 8), kernel=4)},
    "unet.groups 8": {"unet": UnetConfig(dims=(8, 12))},
    "transformer.width": {"denoiser": "transformer", "transformer": TransformerConfig(width=18, heads=4)},
    "crop_margin_px 12": {"vision": VisionConfig(crop_margin_px=12)},
    "3 channels, but 1 strides": {"vision": VisionConfig(channels=(4, 4, 4), strides=(2,))},
    "relative_actions needs": {"relative_actions": True, "observations": (CAMERA_SCENE,)},
}


@pytest.mark.parametrize(("message", "changes"), BAD_CONFIGS.items(), ids=BAD_CONFIGS.keys())
def test_wrong_configs_are_refused(new_policy, message, changes):
    with pytest.raises(ConfigError, match=message):
        new_policy(**changes)


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
