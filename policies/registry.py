"""The methods by the name of their family, imported only when one is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from armature.errors import ConfigError, unknown

METHODS = {
    "diffusion": "policies.diffusion:Diffusion",
    "score": "policies.score:Score",
    "ebt": "policies.ebt:Ebt",
    "mode": "policies.mode:Mode",
    "hrdt": "policies.hrdt:Hrdt",
    "bc": "policies.bc:BehaviourCloning",
}
"""A method is a torch module that keeps the protocol `policies.method.Method`."""


def method_class(family: str) -> Any:
    """Import the method of a family; raise ConfigError naming the known ones."""
    if family not in METHODS:
        raise ConfigError(unknown("policy family", family, METHODS))
    module, name = METHODS[family].split(":")
    return getattr(import_module(module), name)


def compiled_families() -> list[str]:
    """Return the families whose training can be compiled."""
    return [family for family in METHODS if hasattr(method_class(family), "compile_training")]


def family_of(method_config: Any) -> str:
    """Return the family to which a method's config belongs."""
    module = type(method_config).__module__
    return next(family for family, path in METHODS.items() if path.split(":")[0] == module)
