"""Parquet tables of a LeRobotDataset as arrays, a few rows at a time, and nothing believed that was not compared."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from armature.errors import DatasetError
from data_collection.converters.lerobot.layout import Feature

_BLOCK_BYTES = 4 << 20
_BLOCK_ROWS_MAX = 4096
_IMAGE_ERRORS = (
    OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


@contextmanager
def open_table(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; whatever goes wrong with it is a DatasetError naming it."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, buffer_size=1 << 20, pre_buffer=False) as table:
            yield table
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DatasetError(f"{path}: cannot be read: {reason}") from error


def require_columns(path: Path, features: Sequence[Feature]) -> int:
    """Check that the table has these columns with these types; return its number of rows."""
    with open_table(path) as table:
        for feature in features:
            _require_column(path, table.schema_arrow, feature)
        return table.metadata.num_rows


def read_blocks(path: Path, features: Sequence[Feature], first: int, count: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Read rows first..first+count-1 of some columns in blocks of a few MiB, as arrays (n, *shape)."""
    keys = [feature.key for feature in features]
    row_bytes = sum(int(np.prod(feature.shape)) * 8 for feature in features)
    rows = max(1, min(_BLOCK_ROWS_MAX, _BLOCK_BYTES // row_bytes))
    with open_table(path) as table:
        groups, skip = _row_groups(table, first, count)
        for batch in table.iter_batches(batch_size=rows, row_groups=groups, columns=keys):
            start, skip = min(skip, len(batch)), max(skip - len(batch), 0)
            part = batch.slice(start, count)
            count -= len(part)
            if len(part):
                yield {f.key: _values(part.column(f.key), f, f"{path}: column {f.key}") for f in features}
            if count == 0:
                return
    raise DatasetError(f"{path}: ends {count} rows too early")


def read_columns(path: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Read small columns of a whole table as rows."""
    with open_table(path) as table:
        missing = [name for name in names if name not in table.schema_arrow.names]
        if missing:
            raise DatasetError(f"{path}: lacks the column {missing[0]}")
        return table.read(columns=list(names)).to_pylist()


def _row_groups(table: pq.ParquetFile, first: int, count: int) -> tuple[list[int], int]:
    """Return the row groups that hold the rows asked for, and how many rows come before these in the first."""
    groups, begin, skip = [], 0, 0
    for group in range(table.num_row_groups):
        end = begin + table.metadata.row_group(group).num_rows
        if end > first and begin < first + count:
            skip = first - begin if not groups else skip
            groups.append(group)
        begin = end
    return groups, skip


def _require_column(path: Path, schema: pa.Schema, feature: Feature) -> None:
    if feature.key not in schema.names:
        raise DatasetError(f"{path}: lacks the column {feature.key}, which info.json names")
    found = schema.field(feature.key).type
    wrong = DatasetError(f"{path}: column {feature.key} is {found}, info.json says {feature.dtype} {feature.shape}")
    if feature.is_camera:
        if not pa.types.is_struct(found) or found.get_field_index("bytes") < 0:
            raise wrong
        return
    leaf, lengths = _unnest(found)
    shape = () if feature.shape == (1,) and not lengths else feature.shape
    fits = len(lengths) == len(shape) and all(a in (-1, b) for a, b in zip(lengths, shape, strict=True))
    if leaf != pa.from_numpy_dtype(np.dtype(feature.dtype)) or not fits:
        raise wrong


def _unnest(found: pa.DataType) -> tuple[pa.DataType, list[int]]:
    """Return the type inside nested lists and their lengths from the outside in, -1 where it varies."""
    lengths = []
    while True:
        if isinstance(found, pa.BaseExtensionType):
            found = found.storage_type
        elif pa.types.is_fixed_size_list(found):
            lengths.append(found.list_size)
            found = found.value_type
        elif pa.types.is_list(found) or pa.types.is_large_list(found):
            lengths.append(-1)
            found = found.value_type
        else:
            return found, lengths


def _values(column: pa.Array, feature: Feature, what: str) -> NDArray[Any]:
    if feature.is_camera:
        return np.stack([_picture(value, feature, what) for value in column])
    rows = len(column)
    shape = feature.shape
    while True:
        if column.null_count:
            raise DatasetError(f"{what}: has empty cells")
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        elif isinstance(column, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
            # Compared before it is flattened: rows of 2 and 4 would pass for two rows of 3.
            lengths = pc.unique(pc.list_value_length(column)).to_pylist()
            if lengths != [shape[0]]:
                raise DatasetError(f"{what}: has rows of {lengths[:5]} elements, info.json says {feature.shape}")
            column, shape = column.flatten(), shape[1:]
        else:
            return column.to_numpy(zero_copy_only=False).reshape(rows, *feature.shape)


def _picture(value: pa.StructScalar, feature: Feature, what: str) -> NDArray[np.uint8]:
    data = value["bytes"].as_py() if value.is_valid else None
    if data is None:
        raise DatasetError(f"{what}: a picture is not in the table (only its path may be)")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            size = (image.height, image.width, len(image.getbands()))
            if size != feature.shape:  # before it is decoded
                raise DatasetError(f"{what}: a picture is {size}, info.json says {feature.shape}")
            return np.asarray(image.convert("RGB"))
    except _IMAGE_ERRORS as error:
        raise DatasetError(f"{what}: a picture cannot be decoded: {error}") from error
