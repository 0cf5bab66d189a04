"""The families of policies by name, imported only when one is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from armature.errors import ConfigError, unknown

POLICIES = {"diffusion": "policies.diffusion:DiffusionPolicy"}
"""A family is a torch module with `family`, `Config` and `__init__(config, spec, normalizer)` that is a Policy."""


def policy_class(family: str) -> Any:
    """Import the class of a family; raise ConfigError naming the known ones."""
    if family not in POLICIES:
        raise ConfigError(unknown("policy family", family, POLICIES))
    module, name = POLICIES[family].split(":")
    return getattr(import_module(module), name)
