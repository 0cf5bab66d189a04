from __future__ import annotations

import pytest
import torch

from armature.errors import ConfigError
from armature.spec import GRIPPER_OPENING, JOINT_POSITION
from policies.bc import BcConfig
from policies.nets.denoisers import UnetConfig
from policies.presets.catalog import PRESETS
from policies.training_state import OptimizerConfig, TrainingState

VECTORS = (JOINT_POSITION, GRIPPER_OPENING)


def test_noise_does_not_matter_and_actions_stay_within_the_statistics(new_policy, batch_of):
    policy = new_policy("bc", observations=VECTORS)
    with torch.no_grad():
        policy.method.network.head.bias += 20.0
    batch = batch_of(policy, 4)
    first, second = (policy.sample(batch, torch.randn(4, 8, 3)).actions for _ in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, torch.tensor(policy.spec.action.high).float().expand(4, 8, 3))


def test_the_loss_is_the_squared_error_in_normalised_units(new_policy, batch_of):
    policy = new_policy("bc", observations=VECTORS)
    with torch.no_grad():
        for parameter in policy.method.network.head.parameters():
            parameter.zero_()
    batch = batch_of(policy, 2)
    # Bounds are the statistics: joints -2..2 rad, gripper 0..0.08 m. Halfway up they are 0.5, 0.5 and 0.5 of the range.
    batch["action"] = torch.tensor([1.0, -1.0, 0.06]).expand(2, 8, 3)
    assert policy.loss(batch, torch.Generator()).item() == pytest.approx(0.25, abs=1e-6)


def test_two_ways_to_do_the_same_are_averaged(new_policy, batch_of):
    policy = new_policy("bc", observations=VECTORS)
    batch = batch_of(policy, 2)
    batch = {name: value[:1].expand(2, *value.shape[1:]) for name, value in batch.items()}
    batch["action"] = torch.tensor([1.6, -1.6])[:, None, None] * torch.tensor([1.0, 0.5, 0.0]) + torch.tensor(
        [0, 0, 0.04]
    )
    batch["action"] = batch["action"].expand(2, 8, 3)
    state = TrainingState(policy, OptimizerConfig(learning_rate=3e-3, warmup_steps=20))
    for _ in range(100):
        state.update(batch, seed=0, steps=100)
    actions_n = policy.action_layer(state.average.sample(batch, torch.zeros(2, 8, 3)).actions)
    assert actions_n.abs().max().item() < 0.1


def test_it_has_the_network_of_diffusion_and_one_learned_chunk_more(new_policy):
    bc, diffusion = (new_policy(family, observations=VECTORS) for family in ("bc", "diffusion"))
    shapes = [
        [(n, p.shape) for n, p in net.named_parameters()] for net in (bc.method.network, diffusion.method.denoiser)
    ]
    assert shapes[0] == shapes[1]
    assert bc.method.start.shape == (8, 3)


@pytest.mark.parametrize("size", ["tiny", "small", "paper"])
def test_presets_are_those_of_diffusion(tmp_path, size):
    bc, diffusion = (PRESETS[f"{family}_{size}"](tmp_path, tmp_path) for family in ("bc", "diffusion"))
    published = (256, 0.9999) if size == "paper" else (diffusion.method.unet.step_dim, 0.999)
    assert (diffusion.method.unet.step_dim, diffusion.optimizer.ema_max) == published
    assert (bc.method.unet, bc.policy, bc.optimizer, bc.steps) == (
        diffusion.method.unet,
        diffusion.policy,
        diffusion.optimizer,
        diffusion.steps,
    )


def test_wrong_sizes_are_refused(new_policy):
    with pytest.raises(ConfigError, match="chunk_steps 6"):
        new_policy("bc", method={"unet": BcConfig(UnetConfig(dims=(8, 8, 8))).unet}, chunk_steps=6)
