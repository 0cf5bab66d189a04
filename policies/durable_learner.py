"""A learner that can be killed at any time: replay and networks are on disk, and how much of which log is in them.

Each record of a robot's log becomes one row of the replay. A record counts as taken once its row is safe; what was
taken, the rows and the guard's tally are put on disk together, so that none is there without the others.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from armature.config import from_plain
from armature.errors import CheckpointError
from policies.actor_weights import ActorWeights
from policies.device import require_device
from policies.episode_scores import SCORED, EpisodeScores
from policies.learner_tensors import load_tensors, to_tensors
from policies.replay import Layout, NStep, Replay, Step
from policies.residual_folder import DEMONSTRATIONS, ResidualFolder, load_residual
from policies.residual_guard import Verdict
from policies.residual_learner import LearnerConfig, ResidualLearner
from policies.residual_td3 import ResidualTd3
from policies.residual_view import observation_dim
from policies.step_log import CONTROL, CUT, ENDED, EXPLORING, HELPED, HUMAN, LATCHED, TERMINATED, LogHead, Records
from policies.tensor_folder import TensorFolder

REPLAY, HUMAN_REPLAY, NETWORKS = "replay", "human", "networks"
SCORES = "scores.npz"
_FOLDER = TensorFolder("networks.safetensors", "networks.json", "armature-residual-learner", 1, ("updates",))


class DurableLearner:
    """Learns the residual of a folder, in which it keeps its own state beside; used by one process and thread."""

    def __init__(
        self, residual: ResidualFolder, folder: Path, seed: int, *, scores_failures: bool = False, device: str = "cpu"
    ) -> None:
        """Open the state in `folder`, where there is some; raise ConfigError or CheckpointError where it is another's.

        `scores_failures`: they earn by how near they came to successes, and end there; else their values are estimated.
        Transitions in `folder`/demonstrations, a replay as well, make up their share of every batch.
        """
        residual.require_no_cameras("learner_node")
        require_device(device)
        seen, dim = observation_dim(residual.spec), residual.spec.action.dim
        settings, config = residual.settings, from_plain(LearnerConfig, residual.learner)
        td3 = replace(config.td3, scale=settings.scale, steps=settings.steps, discount=settings.discount)
        self._layout = Layout(seen, dim)
        self._steps, self._discount = settings.steps, settings.discount
        self._task = residual.task
        self._folder = folder
        self._replay = Replay(self._layout, config.capacity, folder / REPLAY, self._task)
        self._human = Replay(self._layout, config.capacity, folder / HUMAN_REPLAY, self._task)
        """What of it a person did: those rows are in both."""
        self._td3 = ResidualTd3(td3, seen, dim, seed, np.array(residual.residual_max), device)
        given, known = residual.weights, (self._replay, self._demonstrations(), self._human)
        learned = replace(config, td3=td3)
        self.learner = ResidualLearner(learned, self._td3, residual.base_id, *known, is_new=not given.version)
        self.head = LogHead(residual.task, residual.spec.fingerprint, residual.base_id, seen, dim)
        """What the logs that it learns from have to be of."""
        self._scores = EpisodeScores(folder / SCORES, seen) if scores_failures else None
        self._taken: dict[str, int] = {}
        self._nsteps: dict[str, NStep] = {}
        self._open: dict[str, deque[bool]] = {}
        """Of the records without a row yet: whether a person had weight in them."""
        self._is_turned = False
        self._first_version = given.version + 1 if given.version else 0
        """Of the weights that it gives out: newer than those of a residual that was learned elsewhere."""
        if given.version:
            # What was learned since, where there is a state, takes its place again.
            self._go_on_from(given)
        self._restore(seed)

    @classmethod
    def open(cls, folder: Path, seed: int = 0, *, scores_failures: bool = False, device: str = "cpu") -> DurableLearner:
        """Learn the residual of `folder`, with what was learned before in its subfolder `learner`."""
        return cls(load_residual(folder), folder / "learner", seed, scores_failures=scores_failures, device=device)

    @property
    def rows(self) -> int:
        """Return how many rows were ever put into the replay."""
        return self._replay.total

    @property
    def human_rows(self) -> int:
        """Return how many of them hold what a person did, and count as demonstrated as well."""
        return self._human.total

    @property
    def is_due(self) -> bool:
        """Tell whether there is something to learn."""
        return self.learner.is_due

    def update(self) -> dict[str, float]:
        """Take one step of learning and return figures; raise InvalidValue where one is not finite."""
        return self.learner.update()

    def weights(self) -> ActorWeights:
        """Return the actor for the robot."""
        weights = self.learner.weights()
        return replace(weights, version=self._first_version + weights.version)

    def taken(self, log_id: str) -> int:
        """Return how many records of a log have become rows: it is gone on from there."""
        return self._taken.get(log_id, 0)

    def take(self, log_id: str, records: Sequence[Records]) -> None:
        """Learn from the next records of a log, of which it is known whether their episodes ended."""
        nstep = self._nsteps.setdefault(log_id, NStep(self._layout, self._steps, self._discount))
        waiting = self._open.setdefault(log_id, deque())
        if self._scores is not None:
            records = self._scores.take(log_id, records, self.rows)
        for record in records:
            flags = int(record["flags"])
            step = Step(record["observation"], record["base"], record["action"], float(record["reward"]))
            rows = nstep.add(
                step,
                record["next_observation"],
                record["next_base"],
                terminated=bool(flags & (TERMINATED | LATCHED | SCORED)),
                cut=bool(flags & CUT),
            )
            waiting.append(bool(flags & HUMAN))
            for row in rows:
                self.learner.take([row], is_human=waiting.popleft())
            self._taken[log_id] = self.taken(log_id) + len(rows)
            self._tell_guard(record, flags)

    def flush(self) -> None:
        """Make safe what was taken, and the actor where the guard has kept one or gone back to it since."""
        if self._is_turned:
            self._save_networks()
        if self._scores is not None:
            self._scores.save()
        # What these have more than the last one tells, after a crash in between, was not taken.
        self._human.flush()
        told = {"guard": self.learner.guard.state(), "went_back_at": self.learner.went_back_at}
        if self._scores is not None:
            told["broken"] = self._scores.broken
        self._replay.flush({"taken": self._taken, "human": self._human.total, **told})

    def save(self) -> None:
        """Make safe what was taken and what was learned of it."""
        self._save_networks()
        self.flush()

    def _save_networks(self) -> None:
        self._is_turned = False
        _FOLDER.write(
            self._folder / NETWORKS, to_tensors(self._td3, self._td3.optimizers), {"updates": self.learner.updates}
        )

    def _tell_guard(self, record: Records, flags: int) -> None:
        """Count an episode that came to its end; one that was broken off, or in which a person drove, says nothing."""
        if not flags & ENDED or flags & HELPED:
            return
        success, guard = bool(flags & TERMINATED), self.learner.guard
        if flags & CONTROL:
            guard.record_base(success=success)
        elif record["share"] > 0 and not flags & EXPLORING:
            # It travels as float32.
            share = guard.share if np.float32(guard.share) == record["share"] else float(record["share"])
            version = int(record["version"]) - self._first_version
            verdict = self.learner.judge(share, success=success, version=version)
            self._is_turned = self._is_turned or verdict is not Verdict.STAYS

    def _go_on_from(self, weights: ActorWeights) -> None:
        """Begin with an actor that was learned elsewhere, by simulation: critics are not part of it.

        While they learn what it is worth, and the base acts alone, the actor stays as it is. Then it acts by the share
        that it had, and the guard compares it with the base from the first episode on.
        """
        self._td3.begin_with(weights.arrays)
        guard = self.learner.guard
        guard.restore({**guard.state(), "share": max(weights.share, guard.config.share_min)})

    def _demonstrations(self) -> Replay | None:
        folder = self._folder.parent / DEMONSTRATIONS
        state = folder / "state.json"
        if not state.exists():
            return None
        return Replay(self._layout, json.loads(state.read_text())["capacity"], folder, self._task)

    def _restore(self, seed: int) -> None:
        state = self._folder / REPLAY / "state.json"
        note = json.loads(state.read_text())["note"] if state.exists() else {}
        self._taken = dict(note.get("taken", {}))
        human = int(note.get("human", 0))
        if human > self._human.total:
            found = f"has {self._human.total} rows, {human} were made safe"
            raise CheckpointError(f"{self._folder / HUMAN_REPLAY}: {found}")
        self._human.total = human
        if self._scores is not None:
            self._scores.restore(self.rows, note.get("broken", {}))
        updates = 0
        if (self._folder / NETWORKS).exists():
            document, tensors = _FOLDER.read(self._folder / NETWORKS)
            updates = int(document["updates"])
            self._load(tensors)
        learner = self.learner
        guard, went_back_at = note.get("guard") or learner.guard.state(), note.get("went_back_at", learner.went_back_at)
        learner.restore({"updates": updates, "guard": guard, "went_back_at": went_back_at})
        self._td3.generator.manual_seed(seed + updates)

    def _load(self, tensors: dict[str, Tensor]) -> None:
        try:
            load_tensors(self._td3, self._td3.optimizers, tensors)
        except RuntimeError as error:
            raise CheckpointError(f"{self._folder / NETWORKS}: does not fit this residual: {error}") from error
