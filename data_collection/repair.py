"""Repairs a damaged dataset: of every episode the longest prefix that can be read stays, and nothing is thrown away."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from armature.filesystem import Fs, replace_file, sync_tree
from data_collection import commit_log, history
from data_collection.commit_log import LINE, LOG_NAME
from data_collection.episode import Episode
from data_collection.history import DROP, END, INCOMPLETE, EpisodeRecord, empty_extent
from data_collection.layout import DATA, EPISODES, STAMPS, episode_folder
from data_collection.recovery import close_arrays
from data_collection.store import Dataset, open_dataset
from data_collection.streams import OPTIONAL
from data_collection.verify import verified_length
from data_collection.writer_lock import WriterLock

LOST = "lost"


def repair(path: Path) -> list[str]:
    """Bring a dataset back into a state that can be read and written; say what was done, nothing where it was sound.

    What is cut off or cannot be read is kept under `lost/`, the damaged log too. Repairing twice changes nothing more.
    """
    dataset = open_dataset(path)
    lock = WriterLock(path)
    try:
        done = _repair_locked(dataset)
    finally:
        lock.release()
    # Whoever opens it next would close what a dead writer left open; better now.
    dataset.writer().close()
    return done


def _repair_locked(dataset: Dataset) -> list[str]:
    fs, file = Fs(), dataset.path / LOG_NAME
    data = file.read_bytes()
    log = commit_log.parse_log(data)
    done, added = list(log.problems), list[dict[str, Any]]()
    for episode in dataset.episodes:
        entry = _verdict(episode)
        if entry is None:
            continue
        added.append(entry)
        done.append(_carry_out(fs, dataset, episode, entry))
    if log.problems:
        done += _set_aside_orphans(fs, dataset, log.entries)
        _set_aside(fs, dataset.path, file, copy=True)
    if done:
        numbered = enumerate([*log.entries, *added])
        replace_file(fs, file, b"".join(commit_log.encode_line({**entry, LINE: n}) for n, entry in numbered))
        fs.sync(dataset.path)
    return done


def _verdict(episode: Episode) -> dict[str, Any] | None:
    """Return the entry that cuts or drops an episode; None for one that is sound."""
    lengths = {name: verified_length(episode, name) for name in episode.streams}
    damaged = [name for name, length in lengths.items() if length < episode.length(name)]
    if not damaged:
        return None
    stamps = {name: _stamps(episode, name, length) for name, length in lengths.items()}
    gone = [name for name in damaged if len(stamps[name]) == 0]
    if needed := [name for name in gone if name not in OPTIONAL]:
        return {"kind": DROP, "episode": episode.index, "unreadable": needed}
    end_ns = min((int(stamps[name][-1]) for name in damaged if name not in gone), default=sys.maxsize)
    extents = {name: _extent(values[values <= end_ns]) for name, values in stamps.items()}
    lost = f"; nothing of {', '.join(gone)} can be read" if gone else ""
    reason = f"repaired: damage in {', '.join(damaged)}{lost}"
    metadata = {"outcome": INCOMPLETE, "success": None, "termination": reason}
    return {"kind": END, "episode": episode.index, "streams": extents, "metadata": metadata}


def _carry_out(fs: Fs, dataset: Dataset, episode: Episode, entry: dict[str, Any]) -> str:
    folder = episode_folder(dataset.path, episode.index)
    if entry["kind"] == DROP:
        if folder.exists():
            _set_aside(fs, dataset.path, folder)
        unreadable = ", ".join(entry["unreadable"])
        return f"episode {episode.index}: nothing of {unreadable} can be read; its files are in {LOST}/"
    _set_aside(fs, dataset.path, folder, copy=True)
    for name in entry["streams"]:
        for array in (DATA, STAMPS):
            (folder / name / array).mkdir(parents=True, exist_ok=True)
    record = EpisodeRecord(episode.index, {}, entry["streams"])
    close_arrays(fs, folder, record, dataset.streams, dataset.encodings)
    kept = ", ".join(f"{e['length']} of {episode.length(n)} {n}" for n, e in entry["streams"].items() if e["length"])
    return f"episode {episode.index}: {entry['metadata']['termination']}; kept {kept}"


def _set_aside_orphans(fs: Fs, dataset: Dataset, entries: Iterable[dict[str, Any]]) -> list[str]:
    """Keep folders of which the damaged log may have told: the next writer would sweep them away."""
    known = {f"{index:06d}" for index in history.replay(entries)}
    found = [f for f in sorted((dataset.path / EPISODES).iterdir()) if f.is_dir() and f.name not in known]
    for folder in found:
        _set_aside(fs, dataset.path, folder)
    return [f"episodes/{folder.name}: the log says nothing of it; its files are in {LOST}/" for folder in found]


def _set_aside(fs: Fs, dataset: Path, source: Path, *, copy: bool = False) -> None:
    lost = dataset / LOST
    lost.mkdir(exist_ok=True)
    target = next(t for n in range(1_000_000) if not (t := lost / f"{source.name}.{n}").exists())
    if not copy:
        fs.rename(source, target)
    elif source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copyfile(source, target)
    sync_tree(fs, lost)
    fs.sync(dataset)


def _stamps(episode: Episode, stream: str, length: int) -> Any:
    if length == episode.length(stream):
        return episode.read_stamps(stream)[0]
    record = EpisodeRecord(episode.index, {}, {stream: {"length": length}}, is_ended=True)
    return replace(episode, record=record).read_stamps(stream)[0]


def _extent(stamps_ns: Any) -> dict[str, Any]:
    if len(stamps_ns) == 0:
        return empty_extent()
    return {"length": len(stamps_ns), "first_ns": int(stamps_ns[0]), "last_ns": int(stamps_ns[-1])}
