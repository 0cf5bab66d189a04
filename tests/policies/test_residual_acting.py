"""Which weights act: the newest that fit, from the next episode on, never older ones, and after a crash the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from residual_arm import LIMITS, SPEC, actor_weights, residual

from armature.errors import CheckpointError
from policies.residual_acting import ResidualActing
from policies.step_log import CONTROL, EXPLORING

SEEN, BASE = np.ones(6, np.float32), np.full(3, 0.5, np.float32)
VIEW = residual().view(SPEC, LIMITS)
REACH = residual().reach(VIEW)


def acting(kept: Path, *, explore: bool = False, control_every: int = 0, **changes) -> ResidualActing:
    folder = residual(**changes)
    return ResidualActing(folder, folder.view(SPEC, LIMITS), kept, explore=explore, control_every=control_every)


@pytest.fixture
def kept(tmp_path):
    return tmp_path / "actor.bin"


def test_a_correction_is_the_residual_in_physical_units(kept):
    actor = acting(kept, version=2)
    actor.begin_episode(0)
    expected = actor_weights(version=2).residual(SEEN, BASE) * REACH
    assert actor.motion(SEEN, BASE) == pytest.approx(expected, rel=1e-5)
    assert (actor.source, actor.share, actor.flags) == ("residual-v2", 1.0, 0)


def test_weights_are_swapped_between_episodes_only(kept):
    actor = acting(kept)
    actor.begin_episode(0)
    before = actor.motion(SEEN, BASE)
    actor.offer(actor_weights(version=5, seed=1).to_bytes())
    assert np.array_equal(actor.motion(SEEN, BASE), before)
    assert (actor.version, actor.waiting_version) == (0, 5)
    actor.begin_episode(1)
    assert (actor.version, actor.waiting_version) == (5, None)
    assert not np.array_equal(actor.motion(SEEN, BASE), before)


def test_the_version_never_goes_back_neither_in_use_nor_in_waiting(kept):
    actor = acting(kept, version=4)
    for version in (3, 0):
        with pytest.raises(CheckpointError, match=f"version {version}: those of version 4 are here already"):
            actor.offer(actor_weights(version=version).to_bytes())
    actor.offer(actor_weights(version=9).to_bytes())
    with pytest.raises(CheckpointError, match="version 8: those of version 9"):
        actor.offer(actor_weights(version=8).to_bytes())
    assert actor.refused == {"older": 3}
    actor.begin_episode(0)
    assert actor.version == 9


def test_weights_that_come_twice_are_no_fault(kept):
    actor = acting(kept)
    for _ in range(2):
        actor.offer(actor_weights(version=1).to_bytes())
    assert (actor.waiting_version, actor.refused) == (1, {})


def test_damaged_or_foreign_weights_change_nothing_and_are_counted(kept):
    actor = acting(kept)
    good = actor_weights(version=1).to_bytes()
    for content in (good[:-1], good[:40] + b"\0" + good[41:], b"", actor_weights(version=1, base_id="act").to_bytes()):
        with pytest.raises(CheckpointError):
            actor.offer(content)
    assert (actor.waiting_version, actor.refused) == (None, {"damaged or of another residual": 4})


def test_a_process_that_is_started_again_goes_on_with_the_weights_in_use(kept):
    first = acting(kept)
    first.offer(actor_weights(version=6, seed=2).to_bytes())
    first.begin_episode(0)
    again = acting(kept)
    again.begin_episode(1)
    assert again.version == 6
    assert np.array_equal(again.motion(SEEN, BASE), first.motion(SEEN, BASE))


def test_kept_weights_that_are_damaged_are_named(kept):
    kept.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=f"{kept}: .*damaged"):
        acting(kept)


def test_where_weights_cannot_be_kept_they_act_and_it_is_said(tmp_path):
    actor = acting(tmp_path / "absent" / "actor.bin")
    actor.offer(actor_weights(version=1).to_bytes())
    actor.begin_episode(0)
    assert actor.version == 1
    assert actor.fault.endswith("actor.bin: No such file or directory")


def test_every_third_episode_is_the_bases_alone_and_another_one_has_no_noise(kept):
    actor = acting(kept, explore=True, control_every=3, noise_std=0.2)
    flags = []
    for number in range(6):
        actor.begin_episode(number)
        flags.append(actor.flags)
        assert (not actor.motion(SEEN, BASE).any()) == (number % 3 == 2)
        assert actor.share == (0.0 if number % 3 == 2 else 1.0)
    assert flags == [EXPLORING, 0, CONTROL] * 2


def test_noise_is_of_the_deviation_that_the_weights_say_and_stays_within_reach(kept):
    actor = acting(kept, explore=True, noise_std=0.5, share=0.0)
    actor.begin_episode(0)
    corrections = np.stack([actor.motion(SEEN, BASE) for _ in range(4000)]) / REACH
    assert np.abs(corrections).max() <= 1.0
    # Of a normal deviate of 0.5 that is cut at two deviations.
    assert corrections.std(axis=0) == pytest.approx(0.5 * 0.959, rel=0.05)
    actor.begin_episode(0)
    assert np.array_equal(np.stack([actor.motion(SEEN, BASE) for _ in range(9)]) / REACH, corrections[:9])


def test_a_saturated_residual_is_not_larger_than_the_gate_lets_pass(kept):
    actor = acting(kept, explore=True, noise_std=1.0)
    actor.begin_episode(0)
    for _ in range(500):
        base = np.random.default_rng(0).normal(size=3)
        total = base + actor.motion(SEEN, BASE)
        assert (np.abs(total - base) <= REACH).all()
