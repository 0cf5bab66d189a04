"""From the message definitions in a bag to functions that decode its messages.

rosbags writes Python code out of a definition and executes it, names included. A bag is foreign data, so every name is
held against what ROS permits before rosbags may see it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import Any

from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat, Nodetype
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

from armature.errors import DatasetError

Decode = Callable[[bytes], Any]

_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_]*(/(msg|srv|action))?/[A-Za-z][A-Za-z0-9_]*")
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_CONSTANT = (str, int, float, bool)
_DEFINITION_CHARS_MAX = 1 << 18
_HEADER = (Nodetype.NAME, "std_msgs/msg/Header")
_IDL_SEPARATOR = "=" * 80 + "\n"


@cache
def jazzy() -> Any:
    """Return the store of the message types of ROS 2 Jazzy."""
    return get_typestore(Stores.ROS2_JAZZY)


class Decoder:
    """Decodes the messages of one type: by the definition in the bag, else by that of ROS 2 Jazzy.

    Some recorders stored shortened definitions, so that the first message decides which of the two fits.
    """

    def __init__(self, type_name: str, definition: MessageDefinition | None, extra: Mapping[str, str]) -> None:
        """Raise DatasetError where neither knows the type; `extra` holds definitions that the user gave, by type."""
        if not _TYPE.fullmatch(type_name):
            raise DatasetError(f"message type {type_name!r} is no ROS name (package/msg/Type)")
        self.type_name = type_name
        self._stores = _stores(type_name, definition, extra)
        if not self._stores:
            raise DatasetError(
                f"message type {type_name} is not defined in the bag and is not of ROS 2 Jazzy; "
                "give its text in the mapping under 'definitions'"
            )
        self._is_chosen = len(self._stores) == 1

    @property
    def has_header(self) -> bool:
        """Tell whether the messages begin with a std_msgs/Header."""
        fields = self._stores[-1].fielddefs[self.type_name][1]
        return bool(fields) and fields[0][1] == _HEADER

    def __call__(self, data: bytes) -> Any:
        """Decode CDR bytes; raise DatasetError where they are not of the type."""
        if not self._is_chosen:
            self._choose(data)
        return _decode(self._stores[0], self.type_name, data)

    def _choose(self, data: bytes) -> None:
        for store, is_exact in [(store, is_exact) for is_exact in (True, False) for store in self._stores]:
            try:
                _decode(store, self.type_name, data, is_exact)
            except DatasetError:
                continue
            self._stores = [store]
            break
        self._is_chosen = True


def _decode(store: Any, type_name: str, data: bytes, is_exact: bool = False) -> Any:
    try:
        if len(data) < 4 or data[0] != 0 or data[1] not in (0, 1):
            raise ValueError("it does not begin as CDR does")
        kind = store.get_msgdef(type_name)
        decode = kind.deserialize_cdr_le if data[1] else kind.deserialize_cdr_be
        message, size_bytes = decode(memoryview(data)[4:], 0, kind.cls, store)
    except Exception as error:
        # Generated code on bytes that nobody vouches for: SerdeError, but also KeyError on a type that is missing.
        raise DatasetError(f"is no {type_name}: {error}") from error
    # ROS pads to 4 bytes, and reserves up to 4 for each empty sequence, which takes 4 itself; what is written by
    # `rclpy.serialization` keeps them as a tail of arbitrary bytes. rosbags refuses that, ROS passes over it.
    tail_bytes = len(data) - 4 - size_bytes
    if tail_bytes > (3 if is_exact else max(3, size_bytes)):
        raise DatasetError(f"is no {type_name}: {tail_bytes} bytes are left over")
    return message


def _stores(type_name: str, definition: MessageDefinition | None, extra: Mapping[str, str]) -> list[Any]:
    if type_name in extra:
        definition = MessageDefinition(MessageDefinitionFormat.MSG, extra[type_name])
    stores: list[Any] = []
    if definition is not None and definition.format in (MessageDefinitionFormat.MSG, MessageDefinitionFormat.IDL):
        stores.append(_defined(type_name, definition))
    if type_name in jazzy().fielddefs:
        stores.append(jazzy())
    return stores


@lru_cache(maxsize=256)
def _defined(type_name: str, definition: MessageDefinition) -> Any:
    """Return a store with the types of a definition, and those of Jazzy that it uses without giving them."""
    types, known = _parse(type_name, definition), jazzy().fielddefs
    names = [name for _, fields in types.values() for name in _used(fields)]
    while names:
        name = names.pop()
        if name not in types and name in known:
            types[name] = known[name]
            names += _used(known[name][1])
    store = get_typestore(Stores.EMPTY)
    try:
        store.register(types)
    except Exception as error:
        raise DatasetError(f"the definition of {type_name} cannot be used: {error}") from error
    return store


def _parse(type_name: str, definition: MessageDefinition) -> dict[str, Any]:
    if len(definition.data) > _DEFINITION_CHARS_MAX:
        raise DatasetError(f"the definition of {type_name} has {len(definition.data)} characters")
    try:
        if definition.format == MessageDefinitionFormat.MSG:
            types = dict(get_types_from_msg(definition.data, type_name))
        else:
            types = _parse_idl(definition.data)
    except Exception as error:
        raise DatasetError(
            f"the definition of {type_name} cannot be read: {' '.join(str(error).split())[:200]}"
        ) from error
    _require_names(types)
    if type_name not in types:
        raise DatasetError(f"the definition of {type_name} defines only {', '.join(types) or 'nothing'}")
    return types


def _parse_idl(text: str) -> dict[str, Any]:
    if not text.startswith(_IDL_SEPARATOR):
        return dict(get_types_from_idl(text))
    types: dict[str, Any] = {}
    for part in text.split(_IDL_SEPARATOR)[1:]:
        # Each part begins with a line that names it: `IDL: package/msg/Type`.
        types.update(get_types_from_idl(part.split("\n", 1)[1]))
    return types


def _require_names(types: Mapping[str, Any]) -> None:
    for type_name, (constants, fields) in types.items():
        names = [*(name for name, _, _ in constants), *(name for name, _ in fields)]
        faulty = [name for name in names if not _FIELD.fullmatch(name)]
        faulty += [name for name in (type_name, *_used(fields)) if not _TYPE.fullmatch(name)]
        faulty += [str(value) for _, _, value in constants if not isinstance(value, _CONSTANT)]
        if faulty:
            raise DatasetError(f"a message definition holds {faulty[0]!r}, which is no ROS name")


def _used(fields: list[Any]) -> list[str]:
    kinds = [kind[1][0] if kind[0] in (Nodetype.ARRAY, Nodetype.SEQUENCE) else kind for _, kind in fields]
    return [kind[1] for kind in kinds if kind[0] == Nodetype.NAME]
