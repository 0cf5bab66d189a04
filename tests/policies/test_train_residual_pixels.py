"""Learning a residual from cameras in simulation: real renders and demonstrations, an actor and its encoder on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from rich.console import Console

from armature.errors import ConfigError, DatasetError
from armature.spec import CAMERA_SCENE, CAMERA_WRIST, GRIPPER_OPENING, JOINT_POSITION, OBJECT_POSE, TCP_POSE
from data_collection.store import open_dataset
from data_collection.windows import ACTION, aligned_episode
from policies.durable_learner import DurableLearner
from policies.frame_replay import FrameReplay
from policies.presets.arm import STATE
from policies.presets.catalog import PRESETS
from policies.residual_encoder import ResidualEncoder
from policies.residual_folder import load_residual
from policies.residual_learner import LearnerConfig
from policies.residual_sight import EncoderConfig, Sight
from policies.residual_td3 import ResidualConfig
from policies.residual_view import ResidualView
from policies.standing import Standing
from policies.train import train
from policies.train_residual import ResidualTrainConfig, train_residual
from policies.train_residual_data import FRAMES, demonstration_rows, open_demonstrations, statistics_of
from sim.collect import CollectConfig, collect
from sim.defaults import limits_for
from sim.tasks import SimConfig, robot_spec

SIZE_PX = 48
LIFT = robot_spec(SimConfig("lift", image_size=SIZE_PX))
CAMERAS = (CAMERA_SCENE, CAMERA_WRIST)
PROPRIOCEPTION = (JOINT_POSITION, GRIPPER_OPENING)
NETWORK = EncoderConfig(channels=(8, 8), strides=(4, 2), features=6, shift_px=2)


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pixels") / "lift"
    collect(CollectConfig(path, task="lift", episodes=1, cameras=True, image_size=SIZE_PX), Console(quiet=True))
    return path


@pytest.fixture(scope="module")
def base(demonstrations, tmp_path_factory) -> Path:
    """Train a policy from vectors alone: it needs no camera, and the residual looks at two."""
    config = PRESETS["bc_tiny"](demonstrations, tmp_path_factory.mktemp("base"))
    policy = replace(config.policy, observations=STATE.observations, relative_actions=True)
    return train(replace(config, policy=policy, steps=5, validate_every_steps=5, validation_fraction=0.0))


@pytest.fixture
def config(demonstrations, base, tmp_path) -> ResidualTrainConfig:
    learner = LearnerConfig(
        td3=ResidualConfig(hidden=(16, 16), critics=2), batch_size=8, warmup_steps=6, critic_warmup_updates=3
    )
    return ResidualTrainConfig(
        base=base,
        task="lift",
        dataset=demonstrations,
        out=tmp_path / "out",
        cameras=CAMERAS,
        image_px=24,
        vectors=PROPRIOCEPTION,
        encoder=NETWORK,
        steps=10,
        worlds=1,
        evaluate_every_steps=10,
        evaluate_episodes=1,
        horizon_steps=4,
        learner=learner,
    )


def test_it_learns_from_cameras_and_keeps_actor_and_encoder(config):
    curve = train_residual(config)
    assert [each.share for each in curve] == [0.0, 0.5]
    assert curve[-1].step >= 10
    for name in ("actor", "best"):
        kept = load_residual(config.out / name)
        assert kept.sight == Sight(CAMERAS, 24, NETWORK)
        assert kept.spec.observation.names == (*CAMERAS, *PROPRIOCEPTION)
        assert kept.view(LIFT, limits_for(LIFT.action)).names == PROPRIOCEPTION
    newest = load_residual(config.out / "actor")
    encoder, weights = ResidualEncoder.of(newest), newest.weights
    begun = ResidualEncoder(newest.sight, config.seed)
    assert any(not torch.equal(*pair) for pair in zip(encoder.parameters(), begun.parameters(), strict=True))
    # 8 of the arm and 8 of how far the command is ahead, 6 of each camera, 8 of the base action.
    assert weights.input_dim == 8 + 8 + 2 * 6 + 8
    with torch.no_grad():
        seen = encoder(torch.zeros(1, 16), torch.full((1, 2, 24, 24, 3), 128, dtype=torch.uint8))[0].numpy()
    assert weights.residual(seen, np.zeros(8, np.float32)).any()
    assert not (config.out / "actor" / "demonstrations").exists()
    with pytest.raises(ConfigError, match="looks at camera/scene, camera/wrist, which learner_node cannot yet"):
        DurableLearner.open(config.out / "actor")


def test_demonstrations_have_the_frames_of_their_steps_shrunk_by_area(demonstrations):
    sight = Sight((CAMERA_WRIST,), 24)
    needed = LIFT.select((CAMERA_WRIST, *PROPRIOCEPTION))
    episodes = open_demonstrations(demonstrations, needed, "lift", sight)
    assert CAMERA_WRIST not in episodes[0]
    view = ResidualView(LIFT, limits_for(LIFT.action), statistics_of(episodes, LIFT.select(PROPRIOCEPTION)))
    base = Standing(LIFT, limits_for(LIFT.action))
    replay = demonstration_rows(episodes, base, view, ResidualConfig(steps=3), 8, sight)
    assert isinstance(replay, FrameReplay)
    steps = len(episodes[0][ACTION])
    assert len(replay) == steps
    images = aligned_episode(open_dataset(demonstrations).episodes[0], needed)[CAMERA_WRIST]
    assert images.shape[1:] == (48, 48, 3)
    means = images.reshape(steps, 24, 2, 24, 2, 3).mean(axis=(2, 4))
    batch = replay.sample(400, torch.Generator().manual_seed(0))
    vectors = {tuple(view.observe({n: episodes[0][n][t] for n in view.names}, *moment(episodes[0], t)).tolist()): t
               for t in range(steps)}  # fmt: skip
    for row in range(400):
        t = vectors[tuple(batch.observation[row].tolist())]
        assert np.abs(batch.images[row, 0].numpy() - means[t]).max() <= 1.0
        assert np.abs(batch.next_images[row, 0].numpy() - means[min(t + 3, steps - 1)]).max() <= 1.0


def moment(episode: dict[str, np.ndarray], t: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where the robot was at a step, and the command before it."""
    where = np.concatenate([episode[JOINT_POSITION][t], episode[GRIPPER_OPENING][t]]).astype(np.float64)
    return where, episode[ACTION][t - 1].astype(np.float64) if t else where


def test_images_that_the_base_sees_are_kept_as_they_are(demonstrations):
    sight, needed = Sight(CAMERAS, 24), LIFT.select((*CAMERAS, *PROPRIOCEPTION))
    (episode,) = open_demonstrations(demonstrations, needed, "lift", sight, base_sees=(CAMERA_SCENE,))
    assert episode[CAMERA_SCENE].shape[1:] == (48, 48, 3)
    assert CAMERA_WRIST not in episode
    assert episode[FRAMES].shape[1:] == (2, 24, 24, 3)


def test_the_command_line_names_cameras_and_vectors():
    argv = "--base None --task lift --dataset a --out b --cameras camera/scene camera/wrist --image-px 48 " \
           "--vectors joint/position gripper/opening --encoder.features 20"  # fmt: skip
    found = tyro.cli(ResidualTrainConfig, args=argv.split())
    assert found.sight == Sight(CAMERAS, 48, EncoderConfig(features=20))
    assert found.vectors == PROPRIOCEPTION
    blind = tyro.cli(ResidualTrainConfig, args=argv.split()[:8])
    assert (blind.sight, blind.vectors) == (None, None)


@pytest.mark.slow
def test_vectors_alone_can_be_left_out_too(config):
    blind = replace(config, cameras=(), vectors=(*PROPRIOCEPTION, TCP_POSE), steps=0)
    train_residual(blind)
    kept = load_residual(blind.out / "actor")
    assert (kept.sight, kept.spec.observation.names) == (None, (*PROPRIOCEPTION, TCP_POSE))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"cameras": ("camera/wirst",)}, "camera 'camera/wirst'.*camera/scene, camera/wrist"),
        ({"vectors": ("object/position",)}, f"vector 'object/position'.*{OBJECT_POSE}"),
    ],
)
def test_a_name_that_the_robot_lacks_is_refused_with_those_that_it_has(config, changes, named):
    with pytest.raises(ConfigError, match=named):
        train_residual(replace(config, **changes))
    assert not config.out.exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"vectors": ()}, "vectors names none: an arm has to know at least where it is"),
        ({"cameras": (CAMERA_SCENE, CAMERA_SCENE)}, "each once"),
        ({"image_px": 8}, "image_px is 8"),
    ],
)
def test_what_cannot_be_seen_is_refused_by_name(config, changes, named):
    with pytest.raises(ConfigError, match=named):
        replace(config, **changes)


def test_demonstrations_with_smaller_images_are_refused_by_camera_and_size(config):
    words = "images of camera/scene are 48 x 48, the residual is to see squares of 64 px"
    with pytest.raises(DatasetError, match=words):
        train_residual(replace(config, image_px=64))
    assert not config.out.exists()


def test_demonstrations_without_images_are_refused_by_camera(config, tmp_path):
    path = tmp_path / "blind"
    collect(CollectConfig(path, task="lift", episodes=1, cameras=False), Console(quiet=True))
    words = "has no images of camera/scene, it has no images: collect demonstrations with --cameras"
    with pytest.raises(DatasetError, match=words):
        train_residual(replace(config, dataset=path))


def test_demonstrations_whose_images_are_no_squares_are_refused(config, dataset):
    with pytest.raises(DatasetError, match="images of camera/scene are 24 x 32, the residual is to see squares of 16"):
        train_residual(replace(config, dataset=dataset, image_px=16))
