"""The dataset on disk: plain Zarr v3 with a commit log beside it. What is not committed does not exist."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from armature.errors import DatasetError, beside
from armature.filesystem import Fs, make_parents, sync_tree
from armature.spec import ArraySpec, RobotSpec
from data_collection import commit_log, history
from data_collection.commit_log import LOG_NAME
from data_collection.dataset_writer import DatasetWriter
from data_collection.episode import Episode
from data_collection.files import Files, LocalFiles, is_url, open_files
from data_collection.layout import EPISODES, ZARR_JSON, Encoding, data_layout, group_document
from data_collection.streams import stream_specs

__all__ = ["Dataset", "Episode", "create_dataset", "open_dataset"]

FORMAT = "armature-dataset"
FORMAT_VERSION = 2


@dataclass(frozen=True)
class Dataset:
    """A dataset. `episodes` and `fingerprint` read the commit log anew, so that they follow a recording."""

    path: Path
    task: str
    spec: RobotSpec
    encodings: Mapping[str, Encoding] = field(default_factory=dict[str, Encoding])
    attributes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What whoever created the dataset wants to remember."""
    files: Files = field(kw_only=True)

    @property
    def streams(self) -> Mapping[str, ArraySpec]:
        """Return what every episode may hold, by name."""
        return stream_specs(self.spec)

    @property
    def episodes(self) -> list[Episode]:
        """List the episodes of which something counts, oldest first; the last may still be being recorded."""
        records = history.replay(self._log().entries).values()
        encodings = dict(self.encodings)
        return [
            Episode(str(self.path), self.files, self.spec, encodings, record)
            for record in records
            if record.is_ended or record.has_rows
        ]

    @property
    def problems(self) -> tuple[str, ...]:
        """Name the damaged lines of the commit log; what the others say is not affected."""
        return self._log().problems

    @property
    def fingerprint(self) -> str:
        """Return a short hash over the spec and every commit."""
        spec = json.dumps(self.spec.to_json(), sort_keys=True).encode()
        return hashlib.sha256(spec + self._log().whole).hexdigest()[:16]

    def episode(self, index: int) -> Episode:
        """Return the episode of this number; raise DatasetError where there is none."""
        found = {episode.index: episode for episode in self.episodes}
        if index not in found:
            raise DatasetError(f"{self.path}: there is no episode {index}. Valid: {', '.join(map(str, found))}")
        return found[index]

    def writer(self, fs: Fs | None = None) -> DatasetWriter:
        """Become the one writer; raise DatasetError naming the present one. Use it in a `with` block."""
        if not isinstance(self.files, LocalFiles):
            raise DatasetError(f"{self.path}: can only be read; record to a local disk and copy it there")
        return DatasetWriter(self.path, self.task, self.spec, self.encodings, fs)

    def _log(self) -> commit_log.CommitLog:
        try:
            return commit_log.parse_log(self.files.read(LOG_NAME))
        except OSError as error:
            raise DatasetError(f"{self.path}: {LOG_NAME} cannot be read: {error}") from error


def create_dataset(
    path: Path | str,
    spec: RobotSpec,
    task: str,
    *,
    encodings: Mapping[str, Encoding] | None = None,
    attributes: Mapping[str, Any] | None = None,
    fs: Fs | None = None,
) -> Dataset:
    """Create an empty dataset, whole or not at all; raise DatasetError where something lies already.

    `encodings` says which image streams are stored as JPEG; all others are lossless.
    """
    path = Path(path)
    encodings, attributes = dict(encodings or {}), dict(attributes or {})
    _check_streams(spec, encodings)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DatasetError(f"{path}: exists already; choose a new path, or open it to add episodes")
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "task": task, "spec": spec.to_json(),
               "encodings": encodings, "attributes": attributes}  # fmt: skip
    try:
        _write_empty(fs or Fs(), draft, path, content)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise DatasetError(f"{path}: cannot be created: {error.strerror}") from error
    return Dataset(path, task, spec, encodings, attributes, files=LocalFiles(path))


def open_dataset(path: Path | str) -> Dataset:
    """Open a dataset on disk or at a URL; raise DatasetError when there is none or its format is not this version's."""
    files = open_files(path)
    attributes = _attributes(path, files)
    if attributes.get("format") != FORMAT:
        raise DatasetError(f"{path}: is no Armature dataset (its zarr.json says format {attributes.get('format')!r})")
    _check_version(path, attributes.get("format_version"))
    try:
        spec = RobotSpec.from_json(attributes["spec"])
        encodings, extra = dict(attributes["encodings"]), dict(attributes["attributes"])
        dataset = Dataset(Path(path), str(attributes["task"]), spec, encodings, extra, files=files)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path}: its robot spec cannot be read: {error!r}") from error
    _check_streams(spec, encodings)
    return dataset


def _check_version(path: Path | str, version: Any) -> None:
    if version == FORMAT_VERSION:
        return
    reads = f"this Armature reads version {FORMAT_VERSION}"
    if version == 1:
        raise DatasetError(f"{path}: has the old format version 1; copy it with 'armature data migrate {path} NEW'")
    age = "newer" if isinstance(version, int) and version > FORMAT_VERSION else "unknown"
    raise DatasetError(f"{path}: has the {age} format version {version!r}; {reads}")


def _check_streams(spec: RobotSpec, encodings: Mapping[str, Encoding]) -> None:
    arrays = stream_specs(spec)
    for name in encodings:
        if name not in arrays:
            raise DatasetError(f"encodings: there is no stream '{name}'. Valid: {', '.join(arrays)}")
    for name, array in arrays.items():
        data_layout(array, encodings.get(name, "lossless"))


def _write_empty(fs: Fs, draft: Path, path: Path, attributes: dict[str, Any]) -> None:
    make_parents(fs, draft)
    if draft.exists():  # of a process of our number that died; in a container every one has the same
        fs.remove_tree(draft)
    fs.make_folder(draft)
    fs.make_folder(draft / EPISODES)
    fs.write(draft / ZARR_JSON, group_document(attributes))
    fs.write(draft / EPISODES / ZARR_JSON, group_document())
    fs.write(draft / LOG_NAME, b"")
    sync_tree(fs, draft)
    fs.rename(draft, path)
    fs.sync(path.parent)


def _attributes(path: Path | str, files: Files) -> dict[str, Any]:
    try:
        return dict(json.loads(files.read(ZARR_JSON))["attributes"])
    except FileNotFoundError as error:
        known = "" if is_url(path) else f" {beside(Path(path), LOG_NAME)}"
        raise DatasetError(f"{path}: there is no dataset here.{known}") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(f"{path}: zarr.json cannot be read: {error}") from error
