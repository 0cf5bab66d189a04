"""The front door: `armature <verb> ...`. A verb's module is imported only when that verb is called."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import cast

from armature.errors import ArmatureError, ConfigError, unknown

VERBS = {
    "demo": "armature_ros.demo:main",
    "up": "armature_ros.up:main",
    "doctor": "armature_ros.doctor:main",
    "eval": "sim.evaluate:main",
    "collect": "sim.collect:main",
    "train": "policies.train:main",
    "train-residual": "policies.train_residual:main",
    "train-dsrl": "policies.train_dsrl:main",
    "sampler": "policies.sampler:main",
    "export": "policies.export:main",
    "data": "data_collection.cli:main",
    "replay": "sim.replay:main",
    "flight": "armature_ros.flight:main",
}
"""Verb to `module:function`; each function takes the arguments after the verb and returns the exit code."""

USAGE = f"usage: armature {{{','.join(VERBS)}}} ...\n       armature <verb> --help"


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return its exit code: 2 for a mistake of the user, told in one line, 130 for Ctrl-C.

    141 where whoever read the output went away, as `head` does.
    """
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer goes nowhere, else the interpreter would fail over it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except ArmatureError as error:
        print("armature:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    verb, *rest = arguments
    if verb not in VERBS:
        raise ConfigError(unknown("verb", verb, VERBS))
    return _load(verb)(rest)


def _load(verb: str) -> Callable[[list[str]], int]:
    module, function = VERBS[verb].split(":")
    try:
        return cast("Callable[[list[str]], int]", getattr(importlib.import_module(module), function))
    except ModuleNotFoundError as error:
        raise ConfigError(f"'armature {verb}' needs the module '{error.name}', which is not installed") from error


if __name__ == "__main__":
    sys.exit(main())
