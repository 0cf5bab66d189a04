"""Learning to see: what moves the encoder, what does not, how images move, and a task whose answer is in the image."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from residual_arm import residual

from armature.errors import CheckpointError, ConfigError, InvalidValue
from policies.camera_frames import frame_of
from policies.frame_replay import FrameReplay, PixelBatch
from policies.pixel_td3 import PixelTd3
from policies.replay import Layout, NStep, Step
from policies.residual_encoder import ResidualEncoder, random_shift
from policies.residual_sight import EncoderConfig, Sight
from policies.residual_td3 import ResidualConfig, ResidualTd3

NETWORK = EncoderConfig(channels=(8, 8), strides=(2, 2), features=4, shift_px=2)
SIGHT = Sight(("left", "right"), 16, NETWORK)
TD3 = ResidualConfig(hidden=(16, 16), critics=3)


def pixel_td3(encoder: EncoderConfig = NETWORK, seed: int = 0) -> PixelTd3:
    sight = replace(SIGHT, encoder=encoder)
    return PixelTd3(ResidualTd3(TD3, 3 + sight.features, 2, seed), ResidualEncoder(sight, seed))


def batch_of(count: int = 8, seed: int = 0) -> PixelBatch:
    draw = torch.Generator().manual_seed(seed)
    seen, base, action = (torch.randn(count, dim, generator=draw) for dim in (3, 2, 2))
    images = torch.randint(0, 256, (2, count, 2, 16, 16, 3), generator=draw, dtype=torch.uint8)
    rest = torch.rand(count, generator=draw), torch.full((count,), 0.9)
    return PixelBatch(seen, base, action, *rest, seen + 1, base + 1, *images)


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(module: torch.nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


def test_a_shift_repeats_the_edge_where_it_opens():
    image = torch.arange(9, dtype=torch.uint8).reshape(1, 3, 3, 1).expand(1, 3, 3, 3)
    moved = {tuple(each[..., 0].flatten().tolist()) for each in
             random_shift(image.repeat(200, 1, 1, 1), 1, torch.Generator().manual_seed(0))}  # fmt: skip
    # By one row and column to each side: (-1, 0, 1) x (-1, 0, 1).
    assert moved == {
        (0, 0, 1, 0, 0, 1, 3, 3, 4), (0, 1, 2, 0, 1, 2, 3, 4, 5), (1, 2, 2, 1, 2, 2, 4, 5, 5),
        (0, 0, 1, 3, 3, 4, 6, 6, 7), (0, 1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 2, 4, 5, 5, 7, 8, 8),
        (3, 3, 4, 6, 6, 7, 6, 6, 7), (3, 4, 5, 6, 7, 8, 6, 7, 8), (4, 5, 5, 7, 8, 8, 7, 8, 8),
    }  # fmt: skip


def test_a_shift_of_nothing_leaves_images_as_they_are():
    images = batch_of().images[:, 0]
    assert torch.equal(random_shift(images, 0, torch.Generator()), images)


def test_every_image_is_moved_by_itself_before_and_after_a_transition():
    encoder, batch = ResidualEncoder(SIGHT), batch_of(64)
    same = batch.images[:1].expand(64, -1, -1, -1, -1)
    first = encoder.augmented(batch.observation, same)
    second = encoder.augmented(batch.observation, same)
    assert len(torch.unique(first[:, 3:].detach(), dim=0)) > 20
    assert (first[:, 3:] != second[:, 3:]).any(dim=1).float().mean() > 0.9
    left, right = (torch.unique(first[:, part].detach(), dim=0, return_inverse=True)[1]
                   for part in (slice(3, 7), slice(7, 11)))  # fmt: skip
    assert len(set(zip(left.tolist(), right.tolist(), strict=True))) > 25


def test_nothing_is_moved_in_acting():
    encoder, batch = ResidualEncoder(SIGHT), batch_of()
    assert torch.equal(encoder(batch.observation, batch.images), encoder(batch.observation, batch.images))
    still = ResidualEncoder(replace(SIGHT, encoder=replace(NETWORK, shift_px=0)))
    assert torch.equal(
        encoder(batch.observation, batch.images), still.augmented(batch.observation, batch.images.contiguous())
    )


def test_features_of_every_camera_stand_behind_the_vectors_and_are_no_larger():
    encoder, batch = ResidualEncoder(SIGHT), batch_of()
    seen = encoder(batch.observation, batch.images)
    assert (seen.shape, SIGHT.features) == ((8, 3 + 8), 8)
    assert torch.equal(seen[:, :3], batch.observation)
    assert seen[:, 3:].abs().max() <= 1.0
    other = batch.images.clone()
    other[:, 1] = 0
    changed_at = (encoder(batch.observation, other) != seen).any(dim=0)
    assert changed_at.tolist() == [False] * 7 + [True] * 4


def test_the_actor_moves_no_weight_of_the_encoder():
    learner = pixel_td3()
    learner.update_critics(batch_of())
    before = state(learner.encoder)
    actor = state(learner.actor)
    for step in range(5):
        learner.update_actor(batch_of(seed=step))
    assert changed(learner.encoder, before) == set()
    assert changed(learner.actor, actor)


def test_the_critics_move_every_weight_of_the_encoder_and_none_of_the_actor():
    learner = pixel_td3()
    before, actor = state(learner.encoder), state(learner.actor)
    figures = learner.update_critics(batch_of())
    assert changed(learner.encoder, before) == set(before)
    assert changed(learner.actor, actor) == set()
    assert figures["encoder_norm"] > 0


def test_the_encoder_follows_the_gradient_of_the_critics_loss_clipped_by_itself():
    still = replace(NETWORK, shift_px=0, grad_norm_max=1e-3)
    learner, batch = pixel_td3(still), batch_of()
    td3, encoder = copy.deepcopy(learner._td3), copy.deepcopy(learner.encoder)
    td3.generator.set_state(learner.generator.get_state())
    seen = encoder(batch.observation, batch.images)
    following = encoder(batch.next_observation, batch.next_images).detach()
    targets = td3.targets(batch.seen_as(seen, following))
    loss = (td3.value(seen, batch.base, batch.action) - targets).square().mean(dim=1).sum()
    wanted = torch.autograd.grad(loss, list(encoder.parameters()))
    norm = torch.cat([each.flatten() for each in wanted]).norm()
    figures = learner.update_critics(batch)
    assert figures["encoder_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert norm > 1e-3
    for parameter, gradient in zip(learner.encoder.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient / norm * 1e-3, rtol=1e-3, atol=1e-8)


def test_an_actor_that_fails_is_given_up_for_one_that_corrects_nothing_whatever_is_seen_by_then():
    learner, batch = pixel_td3(), batch_of()
    for _ in range(5):
        learner.update_critics(batch)
        learner.update_actor(batch)
    learner.keep_actor()
    seen = learner.encoder(batch.observation, batch.images)
    assert learner.actor(seen, batch.base).any()
    learner.fall_back()
    learner.update_critics(batch)
    assert not learner.actor(learner.encoder(batch.observation, batch.images), batch.base).any()


def test_a_seed_determines_everything():
    def weights(seed: int) -> torch.Tensor:
        learner = pixel_td3(seed=seed)
        for step in range(3):
            learner.update_critics(batch_of(seed=step))
            learner.update_actor(batch_of(seed=step))
        return torch.cat([p.flatten() for p in (*learner.encoder.parameters(), *learner.actor.parameters())])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_larger_images_are_shrunk_by_area_and_others_taken_as_they_are():
    sight = Sight(("left",), 16)
    image = np.zeros((32, 32, 3), np.uint8)
    image[:2, :2] = [[[10, 0, 0], [20, 0, 0]], [[30, 0, 0], [40, 0, 100]]]
    frame = frame_of(sight, {"left": image, "right": image})
    assert (frame.shape, frame.dtype) == ((1, 16, 16, 3), np.uint8)
    assert frame[0, 0, 0].tolist() == [25, 0, 25]
    assert not frame[0, 1:].any()
    small = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert np.array_equal(frame_of(sight, {"left": small})[0], small)


@pytest.mark.parametrize("shape", [(12, 12, 3), (32, 16, 3), (48, 32, 3)])
def test_images_that_are_too_small_or_no_squares_are_refused_by_camera_and_size(shape):
    words = f"left: image of {shape[0]} x {shape[1]}, expected a square of at least 16 px"
    with pytest.raises(InvalidValue, match=words):
        frame_of(Sight(("left",), 16), {"left": np.zeros(shape, np.uint8)})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"channels": (8,)}, "1 channels, but 3 strides"),
        ({"features": 0}, "features 0"),
        ({"shift_px": -1}, "shift_px -1"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"grad_norm_max": float("nan")}, "grad_norm_max is nan"),
    ],
)
def test_a_network_that_cannot_be_is_refused_by_name(changes, named):
    with pytest.raises(ConfigError, match=named):
        EncoderConfig(**changes)


@pytest.mark.parametrize(
    ("sight", "named"),
    [
        ((("a", "a"), 64), "cameras are a, a: name at least one, each once"),
        (((), 64), "cameras are none"),
        ((("a",), 15), "image_px is 15, must be at least 16"),
        ((("a",), 16, EncoderConfig(shift_px=5)), "four times encoder.shift_px, 5"),
    ],
)
def test_a_sight_that_cannot_be_is_refused_by_name(sight, named):
    with pytest.raises(ConfigError, match=named):
        Sight(*sight)


def spot(place: float) -> np.ndarray:
    """Return the picture (1, 32, 32, 3) of a bright spot somewhere between left, -1, and right, 1."""
    columns = np.arange(32) - (15.5 + 10 * place)
    brightness = 200 * np.exp(-((np.arange(32) - 15.5)[:, None] ** 2 + columns**2) / 8)
    return np.repeat(brightness[None, :, :, None], 3, axis=3).astype(np.uint8)


@pytest.mark.slow
def test_an_answer_that_only_the_image_knows_is_learned():
    """The base always asks for 0; asked for is where the spot is, within 0.2: one of five places at random by luck."""
    sight = Sight(("eye",), 32, EncoderConfig(channels=(8, 8), strides=(2, 2), features=8, shift_px=1, lr=1e-3))
    config = ResidualConfig((32, 32), critics=2, scale=1.0, steps=1, critic_lr=1e-3, actor_lr=1e-3, polyak=0.02)
    learner = PixelTd3(ResidualTd3(config, 1 + sight.features, 1), ResidualEncoder(sight))
    replay, rng = FrameReplay(Layout(1, 1), 4000, sight.frame_shape), np.random.default_rng(0)
    still, last = np.zeros(1, np.float32), np.zeros(1, np.float32)

    def run(noise: float) -> bool:
        place = rng.uniform(-1, 1)
        seen = replay.show(still, spot(place))
        with torch.no_grad():
            met = learner.encoder(torch.zeros(1, 1), torch.from_numpy(spot(place))[None])
            residual = learner.actor(met, torch.zeros(1, 1))[0].numpy()
        action = np.clip(residual + noise * rng.normal(size=1), -1, 1).astype(np.float32)
        success = bool(abs(action[0] - place) < 0.2)
        step = Step(seen, last, action, float(success))
        replay.add(NStep(replay.layout, 1, 0.99).add(step, seen, last, terminated=True))
        return success

    assert sum(run(0.0) for _ in range(50)) < 20
    for episode in range(800):
        run(0.6)
        if episode > 100:
            learner.update_critics(replay.sample(64, learner.generator))
            learner.update_actor(replay.sample(64, learner.generator))
    assert sum(run(0.0) for _ in range(50)) >= 45


def test_a_residual_without_cameras_has_no_encoder():
    with pytest.raises(CheckpointError, match="looks at no camera"):
        ResidualEncoder.of(residual())
