"""Human robosuite demonstrations, imported and replayed in our simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from armature.cli import main as armature
from armature.errors import ArmatureError, ConfigError, DatasetError
from data_collection.converters.importing import import_source
from data_collection.converters.robomimic.importer import ImportConfig, open_source
from data_collection.store import Dataset, create_dataset
from data_collection.streams import ACTION_EXECUTED
from sim.environment import make_env
from sim.replay import STATES, main, replay_dataset
from sim.tasks import SimConfig, robot_spec

LIFT = "robosuite_human/v1.4/lift_panda_v141_1710619576_972822_demo.hdf5"


def imported(source: Path, dataset: Path, **options: Any) -> Dataset:
    return import_source(open_source(ImportConfig(source, dataset, **options)), dataset)


@pytest.fixture(scope="module")
def lift(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return imported(shared_data / LIFT, tmp_path_factory.mktemp("lift") / "dataset")


@pytest.mark.parametrize("by", ["states", pytest.param("actions", marks=pytest.mark.slow)])
def test_all_four_human_lifts_succeed_again(lift: Dataset, by: Any) -> None:
    replays = list(replay_dataset(lift, by))
    assert [replay.steps for replay in replays] == [226, 1143, 285, 296]
    for replay in replays:
        # A person stops some steps after the cube is up, and that is where the recording ends.
        assert replay.success_step is not None, replay
        assert replay.steps - 15 < replay.success_step < replay.steps, replay


def test_physical_tcp_deltas_lift_again_by_actions(shared_data: Path, tmp_path: Path) -> None:
    dataset = imported(shared_data / LIFT, tmp_path / "dataset", action="tcp_delta")
    (replay,) = replay_dataset(dataset, "actions", (2,))
    assert (replay.source_episode, replay.success_step is not None) == ("demo_3", True)


def test_physical_tcp_deltas_are_what_our_panda_executes(shared_data: Path, tmp_path: Path) -> None:
    dataset = imported(shared_data / LIFT, tmp_path / "dataset", action="tcp_delta")
    episode = dataset.episodes[2]
    env: Any = make_env(SimConfig(action="tcp_delta", cameras=False, horizon_steps=1000))
    try:
        assert dataset.spec.action == env.robot_spec.action
        env.reset(seed=0)
        env._world.sim.set_state_from_flattened(episode.read(STATES)[2][0])
        env._world.sim.forward()
        successes = [env.step(action.astype(np.float32))[2] for action in episode.read(ACTION_EXECUTED)[2]]
    finally:
        env.close()
    assert any(successes)


def test_the_command_line_tells_success_by_its_exit_code(lift: Dataset, tmp_path: Path, shared_data: Path) -> None:
    assert main([str(lift.path), "--by", "states", "--episodes", "0", "2"]) == 0
    with h5py.File(shared_data / LIFT) as source, h5py.File(tmp_path / "short.hdf5", "w") as short:
        data = short.create_group("data")
        data.attrs.update(source["data"].attrs)
        for key, values in source["data/demo_1"].items():
            data[f"demo_1/{key}"] = values[:50]
    dataset = imported(tmp_path / "short.hdf5", tmp_path / "short")
    assert main([str(dataset.path)]) == 1


def write_world(path: Path, env_info: str, states: int = 32, actions: int = 7) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_info"] = env_info
        data["demo_1/actions"] = np.zeros((3, actions))
        data["demo_1/states"] = np.zeros((3, states))
    return path


OSC = '"controller_configs": {"type": "OSC_POSE"}'


@pytest.mark.parametrize(
    ("env_info", "sizes", "message"),
    [
        (f'{{"env_name": "Lifft", "robots": "Panda", {OSC}}}', {}, "unknown robosuite environment 'Lifft'.*'Lift'"),
        ('{"env_name": "Lift", "robots": "Panda"}', {}, "controller None; one arm with OSC_POSE"),
        (f'{{"env_name": "Lift", "robots": ["Panda", "Panda"], {OSC}}}', {}, "one arm with OSC_POSE"),
        (f'{{"env_name": "Lift", "robots": "Pandda", {OSC}}}', {}, "unknown robosuite robot 'Pandda'"),
        (f'{{"env_name": "Lift", "robots": "Panda", {OSC[:-1]}, "kp": "x"}}}}', {}, "robosuite refuses its controller"),
        (f'{{"env_name": "Lift", "robots": "Panda", {OSC}}}', {"states": 31}, r"states have \(31,\) .* world has 32"),
        (f'{{"env_name": "Lift", "robots": "Panda", {OSC}}}', {"actions": 6}, "actions have 6 elements, the world"),
    ],
)  # fmt: skip
def test_what_cannot_be_replayed_is_refused(tmp_path: Path, env_info: str, sizes: dict[str, int], message: str) -> None:
    dataset = imported(write_world(tmp_path / "in.hdf5", env_info, **sizes), tmp_path / "dataset")
    with pytest.raises(DatasetError, match=message):
        list(replay_dataset(dataset, "actions"))


def test_only_imported_episodes_can_be_replayed(lift: Dataset, tmp_path: Path) -> None:
    ours = create_dataset(tmp_path / "ours", robot_spec(SimConfig()), "lift")
    with pytest.raises(ArmatureError, match="was not imported from robosuite"):
        list(replay_dataset(ours, "states"))
    with pytest.raises(ConfigError, match=r"unknown episode '7'.*Valid: 0, 1, 2, 3"):
        list(replay_dataset(lift, "states", (7,)))


def test_a_dataset_without_episodes_is_refused(
    lift: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    create_dataset(tmp_path / "empty", lift.spec, lift.task, attributes=lift.attributes)
    assert armature(["replay", str(tmp_path / "empty")]) == 2
    assert f"{tmp_path / 'empty'}: has no episodes to replay" in capsys.readouterr().err
