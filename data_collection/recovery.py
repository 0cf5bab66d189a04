"""What a dead writer leaves on the disk, brought in line with the commit log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from armature.filesystem import Fs, replace_file
from armature.spec import ArraySpec
from data_collection.history import EpisodeRecord, empty_extent
from data_collection.layout import (
    DATA,
    STAMPS,
    STAMPS_LAYOUT,
    ZARR_JSON,
    ArrayLayout,
    Encoding,
    array_document,
    data_layout,
)


def close_arrays(
    fs: Fs, folder: Path, record: EpisodeRecord, streams: Mapping[str, ArraySpec], encodings: Mapping[str, Encoding]
) -> None:
    """Let the Zarr metadata of an episode say what counts, and remove the blocks behind that."""
    arrays = list[tuple[Path, ArrayLayout, int]]()
    for name, spec in streams.items():
        length = record.streams.get(name, empty_extent())["length"]
        data = data_layout(spec, encodings.get(name, "lossless"))
        arrays += [(folder / name / DATA, data, length), (folder / name / STAMPS, STAMPS_LAYOUT, length)]
    # Everything is removed first: what follows needs a little room, and the disk may be full.
    for array in arrays:
        _remove_surplus(fs, *array)
    for array in arrays:
        _write_length(fs, *array)


def sweep(fs: Fs, episodes: Path, kept: Iterable[int]) -> None:
    """Remove the folders of episodes that do not exist."""
    names = {f"{index:06d}" for index in kept}
    for folder in sorted(episodes.iterdir()):
        if folder.is_dir() and not folder.is_symlink() and folder.name not in names:
            fs.remove_tree(folder)


def _remove_surplus(fs: Fs, folder: Path, layout: ArrayLayout, length: int) -> None:
    valid = {layout.file_name(k) for k in range(-(-length // layout.rows))} | {ZARR_JSON}
    for file in sorted(folder.iterdir()):
        if file.name not in valid:
            fs.remove(file)


def _write_length(fs: Fs, folder: Path, layout: ArrayLayout, length: int) -> None:
    file, document = folder / ZARR_JSON, array_document(layout, length)
    if not file.exists() or file.read_bytes() != document:
        replace_file(fs, file, document)
    fs.sync(folder)
