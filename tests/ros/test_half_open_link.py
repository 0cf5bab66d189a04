"""Row 33: a link that is half open. What the policy sends is lost without a word; it hears, lives, and knows nothing.

The policy runs in a network namespace of its own, joined to the robot's by a pair of virtual interfaces. The link is
cut on the way to the robot only: the policy's side is given a wrong hardware address to send to.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from control_lab import START, Lab, judge

from armature.spec import JOINT_POSITION, RobotSpec
from armature_ros.config_files import config_folder
from armature_ros.graph import NodeSpec, make_graph
from armature_ros.graph_config import GraphConfig
from armature_ros.qos import FASTDDS_PROFILE

pytestmark = pytest.mark.ros

PROFILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
NOBODY = "02:00:00:00:00:01"


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


class HalfOpenLink:
    """A namespace `name` and a link to it, between the addresses `robot` and `policy`."""

    def __init__(self) -> None:
        self.name = f"armature{os.getpid()}"
        net = f"10.213.{os.getpid() // 64 % 256}.{os.getpid() % 64 * 4}"
        self.robot, self.policy = (f"{net.rpartition('.')[0]}.{int(net.rpartition('.')[2]) + i}" for i in (1, 2))
        self._ours, self._theirs = f"arm{os.getpid()}r", f"arm{os.getpid()}p"
        try:
            ip("netns", "add", self.name)
        except (OSError, subprocess.CalledProcessError) as error:
            why = getattr(error, "stderr", "") or str(error)
            pytest.skip(f"ROW 33 IS NOT COVERED HERE: no network namespace can be made: {why.strip()}")

    def open(self) -> None:
        ip("link", "add", self._ours, "type", "veth", "peer", "name", self._theirs, "netns", self.name)
        ip("addr", "add", f"{self.robot}/30", "dev", self._ours)
        ip("link", "set", self._ours, "up")
        for words in (
            ("addr", "add", f"{self.policy}/30", "dev", self._theirs),
            ("link", "set", self._theirs, "up"),
            ("link", "set", "lo", "up"),
        ):
            ip("-n", self.name, *words)

    def cut(self) -> None:
        ip("-n", self.name, "neigh", "replace", self.robot, "lladdr", NOBODY, "dev", self._theirs, "nud", "permanent")

    def mend(self) -> None:
        ip("-n", self.name, "neigh", "del", self.robot, "dev", self._theirs)

    def heard(self) -> int:
        """Return how many packets have come to the policy."""
        counter = f"/sys/class/net/{self._theirs}/statistics/rx_packets"
        return int(ip("netns", "exec", self.name, "cat", counter))

    def close(self) -> None:
        ip("netns", "del", self.name)


@pytest.fixture
def link() -> Iterator[HalfOpenLink]:
    made = HalfOpenLink()
    try:
        made.open()
        yield made
    finally:
        made.close()
    assert made.name not in ip("netns", "list")


def write_profiles(folder: Path, link: HalfOpenLink) -> tuple[Path, Path]:
    """Write what makes the robot's nodes talk over the link too, and the policy over nothing else."""
    text, local, memory = FASTDDS_PROFILE.read_text(), "<address>127.0.0.1</address>", "armature_shm</transport_id>"
    made, used = text.split("<userTransports>")
    robot = text.replace(local, f"{local}<address>{link.robot}</address>")
    policy = made.replace(local, f"<address>{link.policy}</address>") + "<userTransports>"
    policy += used.replace(f"<transport_id>{memory}", "")
    assert (robot.count(link.robot), policy.count(link.policy), policy.count(memory)) == (1, 1, 1)
    paths = folder / "robot.xml", folder / "policy.xml"
    for path, content in zip(paths, (robot, policy), strict=True):
        path.write_text(content)
    return paths


@pytest.fixture
def lab(
    link: HalfOpenLink, environment: dict[str, str], tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> Iterator[Lab]:
    """The graph `robot` with a policy behind the link."""
    spec = RobotSpec.from_json(json.loads((config_folder() / "robots" / "fer.json").read_text()))
    checkpoint = write_checkpoint(tmp_path / "policy", spec, (JOINT_POSITION,), around=START)
    config = GraphConfig(policy=str(checkpoint), cameras=False, mock_arm=True, execute_steps=4,
                         overrides=('control_node.flight_folder=""',))  # fmt: skip
    profiles = write_profiles(tmp_path, link)

    def place(node: NodeSpec) -> NodeSpec:
        profile = dict.fromkeys(PROFILES, str(profiles[node.name == "policy_node"]))
        return replace(node, environment={**node.environment, **profile, "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"})

    def command(node: NodeSpec) -> list[str]:
        behind = ["ip", "netns", "exec", link.name] if node.name == "policy_node" else []
        return [*behind, *node.command()]

    made = Lab([place(node) for node in make_graph("robot", config)], command)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.fault(row=33)
def test_behind_a_half_open_link_the_policy_is_named_the_arm_holds_and_goes_on_when_it_is_mended(
    link: HalfOpenLink, lab: Lab, record_property: Callable[[str, str], None]
) -> None:
    lab.be_driven()
    lab.commands.clear()
    # A second of commands, and of heartbeats: who was never heard cannot fall silent.
    lab.wait(lambda: len(lab.commands) > 100, "commands")
    heard, cut_s = link.heard(), time.monotonic()
    link.cut()
    lab.wait(lambda: "policy_node is silent" in lab.status.get("faults", []), "the name of the policy")
    named_s = time.monotonic() - cut_s
    lab.await_state("hold")
    held_s = time.monotonic() - cut_s
    time.sleep(0.3)
    assert lab.status["state"] == "hold"
    assert lab.commands[-1][1].tolist() == lab.commands[-10][1].tolist()
    assert lab.processes["policy_node"].poll() is None
    assert link.heard() > heard + 20  # the other direction is well
    mended_s = time.monotonic()
    link.mend()
    lab.await_state("armed")
    lab.wait(lambda: "policy_node is silent" not in lab.status["faults"], "signs of life")
    judge(lab.commands)
    back_s = time.monotonic() - mended_s
    figure = (
        f"named after {named_s * 1e3:.0f} ms, HOLD after {held_s * 1e3:.0f} ms, mended: goes on after {back_s:.1f} s"
    )
    record_property("figure", figure)
