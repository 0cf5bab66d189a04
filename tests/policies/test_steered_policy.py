"""What a noise becomes, and a policy whose noise is chosen: the decoder, and the steered policy in a file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from armature.errors import CheckpointError, ConfigError
from armature.spec import GRIPPER_OPENING, JOINT_POSITION
from armature.testing import check_policy, random_observation
from policies.dsrl import NoiseActor
from policies.nets.observation import VisionConfig
from policies.noise_decoder import NoiseDecoder
from policies.steered_policy import NoiseWeights, SteeredPolicy, load_steered

STATE = (JOINT_POSITION, GRIPPER_OPENING)


@pytest.fixture
def base(new_policy):
    return new_policy("diffusion", observations=STATE)


@pytest.mark.parametrize(
    ("family", "method", "named"),
    [
        ("ebt", {}, "the family ebt cannot be steered. Valid: diffusion with ddim or dpm"),
        ("bc", {}, "the family bc cannot be steered"),
        ("diffusion", {"sampler": "ddpm"}, "its sampler ddpm draws more than the first noise. Valid: diffusion"),
    ],
)
def test_a_policy_whose_chunk_is_no_function_of_one_noise_is_refused(new_policy, family, method, named):
    with pytest.raises(ConfigError, match=named):
        NoiseDecoder(new_policy(family, observations=STATE, method=method), 4)


def test_what_does_not_fit_is_refused_by_name(new_policy, base):
    with pytest.raises(ConfigError, match="execute_steps is 9, the chunks of diffusion have 8"):
        NoiseDecoder(base, 9)
    tokens = VisionConfig(network="resnet18", pooling="tokens", crop_margin_px=0, features=8)
    with pytest.raises(ConfigError, match="at most 4096 can be steered by"):
        NoiseDecoder(new_policy("hrdt", obs_steps=9, vision=tokens), 4)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("diffusion", {"observations": STATE, "obs_steps": 2}),
        ("diffusion", {"method": {"sampler": "dpm++"}}),
        ("hrdt", {"obs_steps": 2}),
    ],
)
def test_a_noise_becomes_the_chunk_that_the_policy_makes_of_it(new_policy, family, changes):
    policy = new_policy(family, **changes)
    decoder, rng = NoiseDecoder(policy, 3), np.random.default_rng(0)
    observations = [random_observation(policy.spec, policy.obs_steps, rng, k) for k in range(3)]
    states = [policy.begin(seed) for seed in range(3)]
    own = torch.stack([decoder.draw(policy.begin(seed)) for seed in range(3)])
    seen = decoder.observe([observation.values for observation in observations])
    assert seen.shape == (3, decoder.observation_dim)
    chunks = decoder.chunks(seen, own)
    answers = policy.answers(observations, decoder.sampled(chunks), [policy.begin(seed) for seed in range(3)])
    for answer, expected in zip(answers, policy.infer_batch(observations, states), strict=True):
        np.testing.assert_array_equal(answer.actions, expected.actions)
        assert answer.sequence == expected.sequence == 1
    torch.testing.assert_close(decoder(seen, own.flatten(1)), chunks[:, :3].flatten(1))


def test_many_noises_are_decoded_in_one_batch_as_one_by_one(base):
    decoder, draw = NoiseDecoder(base, 3), torch.Generator().manual_seed(0)
    seen = torch.randn(2, decoder.observation_dim, generator=draw)
    own, noises = torch.randn(2, 8, 3, generator=draw), torch.randn(2, 4, 24, generator=draw)
    base_chunks, chunks = decoder.look(seen, own, noises)
    torch.testing.assert_close(base_chunks, decoder.chunks(seen, own))
    for k in range(4):
        torch.testing.assert_close(decoder.executed(chunks[:, k]), decoder(seen, noises[:, k]))
    assert decoder.look(seen, own, noises[:, :0])[1].shape == (2, 0, 8, 3)


def test_one_noise_may_stand_for_all_steps_of_a_chunk(base):
    decoder = NoiseDecoder(base, 3, repeat=True)
    assert decoder.noise_dim == 3
    noise = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert decoder.expand(noise).shape == (2, 8, 3)
    assert decoder.expand(noise)[1].tolist() == [[4.0, 5.0, 6.0]] * 8


def weights_for(policy, repeat=False, **changes):
    decoder = NoiseDecoder(policy, 3, repeat=repeat)
    actor = NoiseActor(decoder.observation_dim, decoder.noise_dim, (8,), 1.5)
    torch.nn.init.normal_(actor.layers[-1].weight, generator=torch.Generator().manual_seed(0))
    weights = NoiseWeights(policy.policy_id, 1.0, 1.5, repeat, (8,), dict(actor.state_dict()))
    return actor, replace(weights, **changes)


@pytest.mark.parametrize("repeat", [False, True])
def test_a_steered_policy_is_a_policy_whose_noise_the_actor_chose(base, tmp_path, repeat):
    actor, weights = weights_for(base, repeat)
    (tmp_path / "actor.bin").write_bytes(weights.to_bytes())
    steered = load_steered(base, tmp_path / "actor.bin")
    check_policy(steered)
    observation = random_observation(base.spec, 1, np.random.default_rng(3), 0)
    decoder = NoiseDecoder(base, 3, repeat=repeat)
    seen = decoder.observe([observation.values])
    with torch.no_grad():
        expected = base.sample(base.batch_of([observation.values]), decoder.expand(actor.mode(seen)))
    found = steered.infer(observation)
    assert found.actions == pytest.approx(expected.actions[0].numpy(), abs=1e-6)
    assert found.policy_id == "steered-diffusion"


def test_the_actor_chooses_the_noise_of_its_share_of_the_chunks_and_the_policy_that_of_the_others(base):
    observation = random_observation(base.spec, 1, np.random.default_rng(3), 0)
    chunks, (_, weights) = {}, weights_for(base)
    for share in (0.0, 0.5, 1.0):
        steered = SteeredPolicy(base, replace(weights, share=share))
        check_policy(steered)
        steered.reset(7)
        chunks[share] = [steered.infer(observation).actions for _ in range(40)]
    base.reset(7)
    for chunk in chunks[0.0]:
        np.testing.assert_allclose(chunk, base.infer(observation).actions, atol=1e-6)
    actors = sum(np.allclose(chunk, chunks[1.0][0], atol=1e-6) for chunk in chunks[0.5])
    assert 10 < actors < 30


def test_an_actor_of_another_policy_and_a_damaged_one_are_refused(base, tmp_path):
    _, weights = weights_for(base, base_id="diffusion-other")
    with pytest.raises(ConfigError, match="the actor steers diffusion-other, not diffusion"):
        SteeredPolicy(base, weights)
    (tmp_path / "actor.bin").write_bytes(weights.to_bytes()[:-9])
    with pytest.raises(CheckpointError, match="no actor can be read"):
        load_steered(base, tmp_path / "actor.bin")
    with pytest.raises(CheckpointError, match="no actor can be read"):
        load_steered(base, tmp_path / "nothing.bin")
