"""A learner that is killed: every record is one row of its replay, and it goes on from what was safe."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from residual_arm import residual

from armature.errors import CheckpointError, ConfigError
from policies.durable_learner import DurableLearner
from policies.residual_folder import load_residual, save_residual
from policies.step_log import CONTROL, CUT, ENDED, EXPLORING, FIRST, HELPED, HUMAN, LATCHED, TERMINATED

CONFIG = {"td3": {"hidden": [8, 8], "critics": 2}, "warmup_steps": 8, "critic_warmup_updates": 4, "batch_size": 8,
          "capacity": 100}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    save_residual(tmp_path / "residual", replace(residual(), learner=CONFIG))
    return tmp_path / "residual"


def records(learner: DurableLearner, *flags: int, share: float = 1.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = np.zeros(len(flags), learner.head.record)
    for name in ("observation", "base", "action", "next_observation", "next_base"):
        found[name] = rng.normal(size=found[name].shape)
    found["flags"], found["share"], found["stamp_ns"] = flags, share, np.arange(len(flags))
    found["reward"] = [float(bool(flag & TERMINATED)) for flag in flags]
    return found


EPISODE = (FIRST, 0, 0, 0, TERMINATED | ENDED)


def test_each_record_becomes_one_row_and_counts_when_it_is_one(folder):
    learner = DurableLearner.open(folder)
    for number, record in enumerate(records(learner, *EPISODE)):
        learner.take("log", [record])
        # Of three steps each: the rows of the first and second wait for those behind them.
        assert learner.rows == learner.taken("log") == (0, 0, 1, 2, 5)[number]


def test_after_a_crash_it_goes_on_at_the_first_record_without_a_row(folder):
    learner = DurableLearner.open(folder)
    told = records(learner, *EPISODE, *EPISODE)
    learner.take("log", told[:7])
    assert learner.taken("log") == 5
    learner.flush()
    learner.take("log", told[7:9])
    assert learner.taken("log") == 7  # and this was never made safe
    again = DurableLearner.open(folder)
    assert (again.taken("log"), again.rows) == (5, 5)
    again.take("log", told[5:])
    assert (again.taken("log"), again.rows) == (10, 10)
    whole = DurableLearner(residual_of(folder), folder / "other", 0)
    whole.take("log", told)
    assert np.array_equal(again._replay._rows[:10], whole._replay._rows[:10])


def residual_of(folder):
    return load_residual(folder)


def test_a_gpu_that_is_not_there_is_refused_before_anything_is_written(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device 'cuda': torch sees no CUDA device here"):
        DurableLearner.open(folder, device="cuda")
    assert not (folder / "learner").exists()


def test_logs_are_counted_each_by_itself(folder):
    learner = DurableLearner.open(folder)
    learner.take("one", records(learner, *EPISODE))
    learner.take("other", records(learner, FIRST, CUT))
    assert (learner.taken("one"), learner.taken("other"), learner.taken("third"), learner.rows) == (5, 2, 0, 7)


def test_networks_optimisers_and_versions_go_on_where_they_were_saved(folder):
    learner = DurableLearner.open(folder, seed=1)
    learner.take("log", records(learner, *EPISODE, *EPISODE, seed=3))
    while learner.is_due:
        learner.update()
    learner.save()
    saved = learner.weights()
    assert saved.version == learner.learner.updates > 4
    again = DurableLearner.open(folder, seed=1)
    found = again.weights()
    assert (found.version, found.base_id) == (saved.version, "bc")
    assert all(np.array_equal(found.arrays[name], array) for name, array in saved.arrays.items())
    moments = [learner._td3.critic_optimizer.state_dict()["state"], again._td3.critic_optimizer.state_dict()["state"]]
    assert moments[0].keys() == moments[1].keys() != set()
    assert all(bool((moments[0][k]["exp_avg"] == moments[1][k]["exp_avg"]).all()) for k in moments[0])


def test_a_residual_that_was_learned_elsewhere_is_gone_on_from_and_guarded(tmp_path):
    folder = tmp_path / "trained"
    save_residual(folder, replace(residual(version=500, share=0.8), learner=CONFIG))
    given = load_residual(folder).weights
    learner = DurableLearner.open(folder)

    def has_the_actor(weights):
        return all(np.array_equal(weights.arrays[name], array) for name, array in given.arrays.items())

    # Newer than what the robot has from the folder, and the base alone until the critics know it.
    first = learner.weights()
    assert (first.version, first.share, has_the_actor(first)) == (501, 0.0, True)
    learner.take("log", records(learner, *EPISODE, *EPISODE, share=0.0))
    while not learner.learner.is_warm:
        learner.update()
    warm = learner.weights()
    assert (warm.version, warm.share, has_the_actor(warm)) == (505, 0.8, True)
    for _ in range(20):
        learner.take("log", records(learner, FIRST | CONTROL, TERMINATED | ENDED | CONTROL, share=0.0))
    failure = records(learner, FIRST, CUT | ENDED, share=np.float32(0.8))
    # With what the folder held the robot began before the learner was there: nobody knows at which share.
    failure["version"] = 500
    learner.take("log", failure)
    assert list(learner.learner.guard._recent) == []
    failure["version"] = 505
    while not learner.learner.guard.cuts:
        learner.take("log", failure)
    assert learner.learner.share == pytest.approx(0.4)
    assert has_the_actor(learner.weights())
    learner.save()
    again = DurableLearner.open(folder)
    assert (again.weights().version, again.learner.share) == (505, pytest.approx(0.4))


def test_a_learner_killed_while_it_saved_for_the_first_time_keeps_the_share_that_was_learned(tmp_path, monkeypatch):
    folder = tmp_path / "trained"
    save_residual(folder, replace(residual(version=500, share=0.05), learner=CONFIG))
    learner = DurableLearner.open(folder)
    monkeypatch.setattr(learner, "flush", lambda: None)  # killed before the second part
    learner.save()
    assert DurableLearner.open(folder).learner.guard.share == pytest.approx(0.05)


def test_an_actor_that_was_given_up_is_not_judged_after_a_crash_either(folder):
    learner = DurableLearner.open(folder)
    learner.take("log", records(learner, *EPISODE, *EPISODE))
    for _ in range(5):
        learner.update()
    learner.learner.guard.base = [30, 30]
    failure = records(learner, FIRST, CUT | ENDED, share=np.float32(learner.learner.guard.share))
    failure["version"] = 5
    while not learner.learner.guard.cuts:
        learner.take("log", failure)
    assert learner.learner.went_back_at == 5
    learner.flush()
    again = DurableLearner.open(folder)
    assert again.learner.went_back_at == 5
    failure["share"] = again.learner.guard.share
    again.take("log", failure)
    assert list(again.learner.guard._recent) == []


def test_the_guard_counts_episodes_that_came_to_their_end_and_no_others(folder):
    learner = DurableLearner.open(folder)
    learner.take("log", records(learner, FIRST | CONTROL, TERMINATED | ENDED | CONTROL, share=0.0))
    learner.take("log", records(learner, FIRST | CONTROL, CUT | ENDED | CONTROL, share=0.0))
    learner.take("log", records(learner, FIRST | CONTROL, CUT | CONTROL, share=0.0))
    guard = learner.learner.guard
    learner.take("log", records(learner, FIRST, TERMINATED | ENDED, share=np.float32(guard.share)))
    learner.take("log", records(learner, FIRST, CUT, share=np.float32(guard.share)))
    # Noise decides as well there, and the base has none.
    learner.take("log", records(learner, FIRST | EXPLORING, EXPLORING | CUT | ENDED, share=np.float32(guard.share)))
    assert guard.base == [1, 2]
    assert list(guard._recent) == [True]
    learner.flush()
    assert DurableLearner.open(folder).learner.guard.state() == guard.state()


@pytest.mark.parametrize(("flags", "factor"), [(CUT | ENDED, 0.9), (LATCHED | CUT | ENDED, 0.0), (TERMINATED, 0.0)])
def test_nothing_of_value_follows_a_latched_gate_as_it_does_a_time_limit(folder, flags, factor):
    learner = DurableLearner.open(folder)
    learner.take("log", records(learner, FIRST, 0, flags))
    assert learner.rows == 3
    last = learner._replay.layout.split(torch.from_numpy(learner._replay._rows[2:3].copy()))
    assert last.discount.tolist() == pytest.approx([factor])


HELPED_EPISODE = (FIRST, HUMAN, HUMAN, 0, TERMINATED | ENDED | HELPED)


def test_what_a_person_did_is_in_both_buffers_and_is_there_again_after_a_crash(folder):
    learner = DurableLearner.open(folder)
    told = records(learner, *HELPED_EPISODE, *HELPED_EPISODE)
    learner.take("log", told[:7])
    learner.flush()
    learner.take("log", told[7:])
    assert (learner.rows, learner.human_rows) == (10, 4)
    learner._human.flush()  # killed between the two
    again = DurableLearner.open(folder)
    assert (again.taken("log"), again.rows, again.human_rows) == (5, 5, 2)
    again.take("log", told[5:])
    assert (again.rows, again.human_rows) == (10, 4)
    assert np.array_equal(again._human._rows[:4], again._replay._rows[[1, 2, 6, 7]])
    actions = slice(6 + 3, 6 + 3 + 3)
    assert np.array_equal(again._human._rows[:4, actions], told["action"][[1, 2, 6, 7]])


def test_an_episode_in_which_a_person_drove_says_nothing_of_base_or_residual(folder):
    learner = DurableLearner.open(folder)
    before = learner.learner.guard.state()
    learner.take("log", records(learner, *HELPED_EPISODE, share=np.float32(learner.learner.guard.share)))
    control = [flag | CONTROL for flag in HELPED_EPISODE]
    learner.take("log", records(learner, *control, share=0.0))
    assert learner.learner.guard.state() == before


def test_rows_of_a_person_that_are_missing_are_not_replaced_by_zeros(folder):
    learner = DurableLearner.open(folder)
    learner.take("log", records(learner, *HELPED_EPISODE))
    learner.flush()
    (folder / "learner" / "human" / "state.json").unlink()
    with pytest.raises(CheckpointError, match="has 0 rows, 2 were made safe"):
        DurableLearner.open(folder)


FAILURE = (FIRST, 0, 0, 0, CUT | ENDED)


def test_with_progress_an_episode_counts_when_it_has_ended_and_a_failure_earns_by_its_distance(folder):
    learner = DurableLearner.open(folder, scores_failures=True)
    success, failure = (records(learner, *flags) for flags in (EPISODE, FAILURE))
    for told in (success, failure):
        learner.take("log", told[:4])
        assert learner.taken("log") == learner.rows == (0 if told is success else 5)
        learner.take("log", told[4:])
    assert learner.taken("log") == learner.rows == 10
    rewards, discounts = learner._replay._rows[:10, 6 + 6], learner._replay._rows[:10, 6 + 7]
    # The failure saw the very same, and of failures that are all as far each earns half of 0.6.
    assert rewards[[4, 9]].tolist() == pytest.approx([1.0, 0.3])
    assert rewards[7] == pytest.approx(0.3 * 0.9**2)
    assert discounts[[4, 7, 8, 9]].tolist() == [0.0] * 4


def test_what_failures_are_compared_with_outlives_the_learner_and_nothing_is_remembered_twice(folder):
    learner = DurableLearner.open(folder, scores_failures=True)
    success, failure = (records(learner, *flags) for flags in (EPISODE, FAILURE))
    learner.take("log", success)
    learner.flush()
    learner.take("log", failure)
    learner._scores.save()  # killed between the two
    again = DurableLearner.open(folder, scores_failures=True)
    assert again.taken("log") == 5
    assert [len(again._scores._known[success]) for success in (True, False)] == [1, 0]
    again.take("log", failure)
    assert again._replay._rows[9, 6 + 6] == pytest.approx(0.3)


def test_what_is_left_of_a_broken_episode_earns_nothing(folder):
    learner = DurableLearner.open(folder, scores_failures=True)
    learner.take("log", records(learner, *EPISODE))
    broken = records(learner, FIRST, CUT, FIRST, CUT | ENDED)
    broken["episode"] = 1
    learner.take("log", broken)
    assert learner.rows == 9
    assert learner._replay._rows[5:9, 6 + 6].tolist() == [0.0] * 4


def test_what_is_left_of_a_broken_episode_earns_nothing_after_a_restart_either(folder):
    learner = DurableLearner.open(folder, scores_failures=True)
    broken = records(learner, FIRST, CUT, FIRST, CUT | ENDED)
    broken["episode"] = 1
    learner.take("log", records(learner, *EPISODE))
    learner.take("log", broken[:2])
    learner.flush()
    again = DurableLearner.open(folder, scores_failures=True)
    again.take("log", broken[2:])
    assert again.rows == 9
    assert again._replay._rows[5:9, 6 + 6].tolist() == [0.0] * 4
    assert all(again._replay._rows[7:9, 6 + 7] > 0.0)


def test_a_replay_of_another_task_is_refused_naming_both(folder):
    DurableLearner.open(folder).flush()
    with pytest.raises(ConfigError, match="task is 'reach', expected 'lift'"):
        DurableLearner(replace(residual_of(folder), task="lift"), folder / "learner", 0)


def test_networks_of_another_size_are_refused(folder):
    learner = DurableLearner.open(folder)
    learner.save()
    other = replace(residual_of(folder), learner={**CONFIG, "td3": {"hidden": [4, 4], "critics": 2}})
    with pytest.raises(CheckpointError, match="does not fit this residual"):
        DurableLearner(other, folder / "learner", 0)


def test_a_setting_of_the_learner_that_does_not_exist_is_refused(folder):
    with pytest.raises(ConfigError, match="warmup"):
        DurableLearner(replace(residual_of(folder), learner={"warmup": 3}), folder / "learner", 0)
