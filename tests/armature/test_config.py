from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armature.config import fingerprint, from_plain, to_plain
from armature.errors import ConfigError


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Net:
    width: int
    rate: float = 1e-4
    kind: Literal["unet", "transformer"] = "unet"


@dataclass(frozen=True)
class Run:
    net: Net
    shape: tuple[int, ...]
    pair: tuple[str, float]
    limit: float | None = None
    nets: dict[str, Net] = field(default_factory=dict)
    layers: list[int] = field(default_factory=list)
    extra: Mapping[str, float] = field(default_factory=dict)
    out: Path = Path("runs")
    colour: Colour = Colour.RED
    schedule: Net | str = "none"
    free: Any = None
    fast: bool = False


RUN = Run(
    net=Net(64, 0.1, "transformer"),
    shape=(1, 2, 3),
    pair=("a", 0.5),
    limit=2.0,
    nets={"x": Net(1)},
    layers=[4, 5],
    extra={"k": 1.5},
    out=Path("a/b"),
    colour=Colour.BLUE,
    schedule=Net(9),
    free=[1, "two"],
    fast=True,
)


def plain(**changes: Any) -> dict[str, Any]:
    return {**to_plain(RUN), **changes}


def test_a_configuration_survives_json():
    assert from_plain(Run, json.loads(json.dumps(to_plain(RUN)))) == RUN
    assert to_plain(RUN)["net"] == {"width": 64, "rate": 0.1, "kind": "transformer"}
    assert to_plain(RUN)["shape"] == [1, 2, 3]


def test_fields_with_a_default_may_be_left_out():
    assert from_plain(Net, {"width": 3}) == Net(3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (plain(nett={}), "unknown key of Run 'nett'. Did you mean 'net'?.*Valid: colour, extra, fast"),
        # `on: 1` in YAML.
        (plain() | {True: 1}, "unknown key of Run 'True'.*Valid: colour, extra, fast"),
        (plain(net={"width": 1, "depth": 2}), r"unknown key of net \(Net\) 'depth'.*Valid: kind, rate, width"),
        (plain(net={}), r"net \(Net\) lacks key 'width'. Valid: kind, rate, width"),
        (plain(net={"width": "wide"}), "net.width: expected int, got 'wide'"),
        (plain(net={"width": 1.5}), "net.width: expected int, got 1.5"),
        (plain(net={"width": True}), "net.width: expected int, got True"),
        (plain(net={"width": 1, "kind": "unett"}), "net.kind.*'unett'. Did you mean 'unet'.*transformer, unet"),
        (plain(net=3), "net: expected the fields of Net, got 3"),
        (plain(shape=[1, "2"]), r"shape\[1\]: expected int, got '2'"),
        (plain(shape=3), "shape: expected a list, got 3"),
        (plain(pair=["a"]), r"pair: expected 2 elements, got \['a'\]"),
        (plain(limit="high"), "limit: expected float, got 'high'"),
        (plain(nets={"x": {"width": None}}), "nets.x.width: expected int, got None"),
        (plain(nets=[1]), "nets: expected a mapping"),
        (plain(colour="green"), "colour.*'green'.*blue, red"),
        (plain(fast=1), "fast: expected bool, got 1"),
    ],
)
def test_mistakes_are_named_by_path_value_and_valid_choices(data, message):
    with pytest.raises(ConfigError, match=message):
        from_plain(Run, data)


def test_whole_numbers_are_accepted_as_floats_and_hash_like_them():
    assert from_plain(Net, {"width": 1, "rate": 2}).rate == 2.0
    assert fingerprint(Net(1, 2)) == fingerprint(Net(1, 2.0))


def test_the_fingerprint_changes_with_any_value():
    prints = {fingerprint(RUN), fingerprint(replace(RUN, limit=None)), fingerprint(replace(RUN, net=Net(65)))}
    assert len(prints) == 3
    assert fingerprint(RUN) == fingerprint(from_plain(Run, to_plain(RUN)))


@given(st.builds(Net, st.integers(), st.floats(allow_nan=False), st.sampled_from(["unet", "transformer"])))
def test_every_value_survives(net):
    assert from_plain(Net, json.loads(json.dumps(to_plain(net)))) == net
