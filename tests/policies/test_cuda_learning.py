"""What learns on a GPU learns what it would on a CPU: recorded steps, other shapes in between, actors given up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from armature.errors import ConfigError
from policies.device import require_device
from policies.frame_replay import PixelBatch
from policies.nets.cuda_step import CudaStep
from policies.pixel_td3 import PixelTd3
from policies.replay import Batch
from policies.residual_encoder import ResidualEncoder
from policies.residual_sight import EncoderConfig, Sight
from policies.residual_td3 import ResidualConfig, ResidualTd3

CONFIG = ResidualConfig(hidden=(32, 32), critics=4, steps=1)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")


def random_batch(count: int, seed: int) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    seen, base, residual = (torch.randn(count, dim, generator=draw) for dim in (3, 2, 2))
    reward, discount = torch.zeros(count), torch.full((count,), 0.9)
    return Batch(seen, base, base + 0.03 * residual, reward, discount, seen + 0.1, base + 0.1)


def weights_after_learning(device: str) -> dict[str, torch.Tensor]:
    learner = ResidualTd3(CONFIG, 3, 2, device=device)
    for step in range(30):
        # Another shape now and then, and a share that grows.
        batch, share = random_batch(16 if step % 7 else 24, step).to(device), 0.5 + 0.01 * step
        learner.update_critics(batch, share)
        learner.update_actor(batch, shown=8, share=share)
        if step == 10:
            learner.keep_actor()
        if step == 20:
            learner.fall_back()
    return {name: tensor.detach().cpu() for name, tensor in learner.state_dict().items()}


@needs_cuda
def test_recorded_updates_learn_what_a_cpu_learns():
    on_cpu, on_gpu = weights_after_learning("cpu"), weights_after_learning("cuda")
    for name, tensor in on_cpu.items():
        torch.testing.assert_close(on_gpu[name], tensor, atol=2e-4, rtol=1e-3, msg=lambda text, n=name: f"{n}: {text}")


@needs_cuda
def test_a_recorded_update_tells_the_figures_of_its_own_call():
    learner, plain = ResidualTd3(CONFIG, 3, 2, device="cuda"), ResidualTd3(CONFIG, 3, 2)
    for step in range(8):
        batch = random_batch(16, step)
        found, expected = learner.update_critics(batch.to("cuda")), plain.update_critics(batch)
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)


@needs_cuda
def test_an_encoder_on_a_gpu_learns_what_a_cpu_learns():
    sight = Sight(("camera/scene",), 16, EncoderConfig(channels=(4,), strides=(2,), features=4))

    def learned(device):
        encoder = ResidualEncoder(sight).to(device)
        learner = PixelTd3(ResidualTd3(CONFIG, 3 + sight.features, 2, device=device), encoder)
        for step in range(6):
            batch, draw = random_batch(8, step), np.random.default_rng(step)
            images = [torch.from_numpy(draw.integers(0, 256, (8, *sight.frame_shape), np.uint8)) for _ in range(2)]
            batch = PixelBatch(*batch.tensors, *images).to(device)
            learner.update_critics(batch)
        # What it sees, not its weights: Adam makes whole steps of gradients that are nothing but rounding.
        with torch.no_grad():
            return encoder(batch.observation, batch.images).cpu()

    torch.testing.assert_close(learned("cuda"), learned("cpu"), atol=2e-3, rtol=0.0)


def test_on_a_cpu_a_step_is_called_as_it_is():
    calls = []
    step = CudaStep(lambda x: calls.append(x) or x + 1)
    given = torch.zeros(2)
    assert all(torch.equal(step(given), torch.ones(2)) for _ in range(6))
    assert all(each is given for each in calls)
    assert len(calls) == 6


def test_an_actor_that_is_given_up_loses_its_moments_where_they_are():
    learner = ResidualTd3(CONFIG, 3, 2)
    learner.update_critics(random_batch(16, 0))
    learner.update_actor(random_batch(16, 0))
    places = [t.data_ptr() for moments in learner.actor_optimizer.state.values() for t in moments.values()]
    learner.fall_back()
    moments = [t for moments in learner.actor_optimizer.state.values() for t in moments.values()]
    assert [t.data_ptr() for t in moments] == places
    assert not any(t.any() for t in moments)


def test_a_gpu_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device 'cuda:1': torch sees no CUDA device here"):
        require_device("cuda:1")
    with pytest.raises(ConfigError, match=r"'gpu'.*cpu"):
        require_device("gpu")


def test_of_two_gpus_there_is_no_third(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    require_device("cuda:1")
    with pytest.raises(ConfigError, match=r"'cuda:2'.*cuda:0, cuda:1"):
        require_device("cuda:2")
