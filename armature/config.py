"""Frozen dataclasses to plain JSON data and back, strictly: unknown keys, missing keys and wrong types are errors."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from armature.errors import ConfigError, unknown

T = TypeVar("T")


def to_plain(cfg: Any) -> dict[str, Any]:
    """Return a dataclass instance as JSON data (dict, list, str, numbers, None); inverse of `from_plain`."""
    return {field.name: _plain(getattr(cfg, field.name)) for field in dataclasses.fields(cfg)}


def from_plain(cls: type[T], data: Mapping[str, Any]) -> T:
    """Build the dataclass `cls` from `to_plain` data; a field may be left out only where it has a default.

    Raises ConfigError naming the key by its full path (`denoiser.width`), the value and what is valid.
    """
    return _build(cls, data, "")


def fingerprint(cfg: Any) -> str:
    """Return a short hash that changes when any value of the configuration changes."""
    # There and back first: an int given for a float (rate_hz=20) must hash like the float that a file gives back.
    canonical = to_plain(from_plain(cast("type[Any]", type(cfg)), to_plain(cfg)))
    return hashlib.sha256(json.dumps(canonical, sort_keys=True).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_plain(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in cast("list[Any]", value)]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value


def _build(cls: type[T], data: Any, path: str) -> T:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path or cls.__name__}: expected the fields of {cls.__name__}, got {data!r}")
    items = cast(Mapping[str, Any], data)
    where = f"{path} ({cls.__name__})" if path else cls.__name__
    fields = {field.name: field for field in dataclasses.fields(cast(Any, cls)) if field.init}
    for key in items:
        if key not in fields:
            raise ConfigError(unknown(f"key of {where}", key, fields))
    for name, field in fields.items():
        if name not in items and not _has_default(field):
            raise ConfigError(f"{where} lacks key '{name}'. Valid: {', '.join(sorted(fields))}")
    hints = get_type_hints(cls)
    return cls(**{key: _convert(hints[key], item, f"{path}.{key}" if path else key) for key, item in items.items()})


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin is Literal:
        return _choice(get_args(hint), value, path)
    if origin in (Union, types.UnionType):
        return _first_that_fits(get_args(hint), value, path)
    if origin is tuple:
        return _tuple(get_args(hint), value, path)
    if origin is list:
        return [_convert(get_args(hint)[0], item, f"{path}[{i}]") for i, item in enumerate(_sequence(value, path))]
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _mismatch("a mapping", value, path)
        items = cast(Mapping[str, Any], value).items()
        return {key: _convert(get_args(hint)[1], item, f"{path}.{key}") for key, item in items}
    if dataclasses.is_dataclass(hint):
        return _build(cast("type[Any]", hint), value, path)
    return _scalar(get_origin(hint) or hint, value, path)


def _choice(choices: tuple[Any, ...], value: Any, path: str) -> Any:
    for choice in choices:
        if choice == value and type(choice) is type(value):
            return choice
    raise ConfigError(unknown(f"value of {path}:", str(value), map(str, choices)))


def _first_that_fits(hints: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and types.NoneType in hints:
        return None
    hints = tuple(hint for hint in hints if hint is not types.NoneType)
    for hint in hints[:-1]:
        try:
            return _convert(hint, value, path)
        except ConfigError:
            continue
    return _convert(hints[-1], value, path)


def _tuple(hints: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    items = _sequence(value, path)
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = (hints[0],) * len(items)
    if len(items) != len(hints):
        raise _mismatch(f"{len(hints)} elements", value, path)
    return tuple(_convert(hint, item, f"{path}[{i}]") for i, (hint, item) in enumerate(zip(hints, items, strict=True)))


def _sequence(value: Any, path: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise _mismatch("a list", value, path)
    return list(cast("list[Any]", value))


def _scalar(hint: type[Any], value: Any, path: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if issubclass(hint, Enum):
        return hint(_choice(tuple(member.value for member in hint), value, path))
    # bool is a subclass of int, but `steps: true` is a mistake.
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise _mismatch(hint.__name__, value, path)
    return value


def _mismatch(expected: str, value: Any, path: str) -> ConfigError:
    return ConfigError(f"{path}: expected {expected}, got {value!r}")
