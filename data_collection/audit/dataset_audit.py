"""The audit of a dataset: its episodes one after the other, and what shows only when they are seen together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from data_collection.audit.config import AuditConfig
from data_collection.audit.coverage import Coverage
from data_collection.audit.episode_audit import EpisodeAudit, audit_episode, finding_json
from data_collection.audit.findings import KINDS, Finding
from data_collection.store import Dataset


@dataclass
class DatasetAudit:
    """What was measured and found in a dataset."""

    path: str
    task: str
    robot: str
    fingerprint: str
    config: AuditConfig
    episodes: list[EpisodeAudit] = field(default_factory=list[EpisodeAudit])
    problems: list[Finding] = field(default_factory=list[Finding])
    """Findings about the dataset as a whole."""
    coverage: Coverage | None = None

    @property
    def findings(self) -> list[Finding]:
        """List everything that was found."""
        return [*self.problems, *(finding for episode in self.episodes for finding in episode.findings)]

    @property
    def faults(self) -> list[Finding]:
        """List the findings that make a recording wrong."""
        return [finding for finding in self.findings if finding.severity == "fault"]

    @property
    def lags_s(self) -> dict[str, tuple[float, int]]:
        """Return per camera the median of the trustworthy lags and how many there are."""
        cameras = dict.fromkeys(camera for episode in self.episodes for camera in episode.lags)
        found = {camera: self._trusted(camera) for camera in cameras}
        return {camera: (float(np.median(lags)), len(lags)) for camera, lags in found.items() if lags}

    def _trusted(self, camera: str) -> list[float]:
        lags = [episode.lags.get(camera) for episode in self.episodes]
        return [lag.lag_s for lag in lags if lag is not None and lag.is_trustworthy(self.config)]

    def to_json(self) -> dict[str, Any]:
        """Return plain data for scripts."""
        return {
            "path": self.path,
            "task": self.task,
            "robot": self.robot,
            "fingerprint": self.fingerprint,
            "limits": asdict(self.config),
            "summary": {
                "episodes": len(self.episodes),
                "faults": len(self.faults),
                "notes": len(self.findings) - len(self.faults),
                "kinds": dict(Counter(finding.kind for finding in self.findings)),
                "content_lag": {c: {"median_s": s, "episodes": n} for c, (s, n) in self.lags_s.items()},
            },
            "coverage": None if self.coverage is None else asdict(self.coverage),
            "kinds": {kind: {"severity": severity, "meaning": text} for kind, (severity, text) in KINDS.items()},
            "findings": [finding_json(finding) for finding in self.findings],
            "episodes": [episode.to_json() for episode in self.episodes],
        }


def audit_dataset(
    dataset: Dataset, config: AuditConfig, on_episode: Callable[[int, int], None] = lambda *_: None
) -> DatasetAudit:
    """Audit every episode; `on_episode(done, total)` is called after each. Memory: the vectors of one episode."""
    audit = DatasetAudit(str(dataset.path), dataset.task, dataset.spec.name, dataset.fingerprint, config)
    audit.problems = [Finding(None, "", "damaged", None, 1, 0, problem) for problem in dataset.problems]
    episodes = dataset.episodes
    for done, episode in enumerate(episodes, start=1):
        audit.episodes.append(audit_episode(dataset, episode, config))
        on_episode(done, len(episodes))
    _mark_twins(audit)
    audit.problems += _without_outcome(audit)
    return audit


def _without_outcome(audit: DatasetAudit) -> list[Finding]:
    """Note once how many episodes say neither success nor failure."""
    unknown = [episode.index for episode in audit.episodes if not episode.outcome]
    if not unknown:
        return []
    first = ", ".join(map(str, unknown[:8])) + (", ..." if len(unknown) > 8 else "")
    message = f"{len(unknown)} of {len(audit.episodes)} episodes have no outcome: {first}"
    return [Finding(None, "", "outcome", None, len(unknown), 0, message)]


def _mark_twins(audit: DatasetAudit) -> None:
    """Note episodes with the commands of an earlier one: split between training and validation they would leak."""
    seen: dict[str, int] = {}
    for episode in audit.episodes:
        if episode.commands_hash:
            earlier = seen.setdefault(episode.commands_hash, episode.index)
            if earlier != episode.index:
                message = f"has exactly the commands of episode {earlier}"
                episode.findings.append(Finding(episode.index, "", "twin", None, 1, 0, message))
