from __future__ import annotations

import pytest
import torch

from armature.errors import ConfigError
from armature.spec import GRIPPER_OPENING, JOINT_POSITION
from armature.testing import check_policy
from policies.diffusion import DiffusionConfig, TransformerConfig, UnetConfig, schedulers

VECTORS = (JOINT_POSITION, GRIPPER_OPENING)


@pytest.mark.parametrize("obs_steps", [1, 3])
def test_the_transformer_keeps_the_policy_protocol(new_policy, obs_steps):
    check_policy(new_policy(method={"denoiser": "transformer"}, obs_steps=obs_steps))


def test_actions_stay_within_the_statistics(new_policy, batch_of):
    policy = new_policy(observations=VECTORS)
    actions = policy.sample(batch_of(policy, 16), torch.randn(16, 8, 3) * 10).actions.numpy()
    assert (actions >= policy.spec.action.low - 1e-5).all()
    assert (actions <= policy.spec.action.high + 1e-5).all()


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


BAD_CONFIGS = {
    "chunk_steps 6": ({"unet": UnetConfig(dims=(8, 8, 8))}, {"chunk_steps": 6}),
    "sampling_steps 101": ({"sampling_steps": 101}, {}),
    "noise_draws is 0": ({"noise_draws": 0}, {}),
    "kernel 4": ({"unet": UnetConfig(dims=(8, 8), kernel=4)}, {}),
    "unet.groups 8": ({"unet": UnetConfig(dims=(8, 12))}, {}),
    "transformer.width": ({"denoiser": "transformer", "transformer": TransformerConfig(width=18, heads=4)}, {}),
}


@pytest.mark.parametrize(("message", "changes"), BAD_CONFIGS.items(), ids=BAD_CONFIGS.keys())
def test_wrong_configs_are_refused(new_policy, message, changes):
    method, policy = changes
    with pytest.raises(ConfigError, match=message):
        new_policy(method=method, **policy)
