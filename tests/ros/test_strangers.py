"""Row 58: the graph listens on this host only, and what a stranger on it sends to its ports disturbs nothing."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from armature_ros.episodes import EpisodeDriver
from armature_ros.graph import make_graph
from armature_ros.graph_config import GraphConfig
from armature_ros.up import RunningGraph

pytestmark = [pytest.mark.ros, pytest.mark.fault(row=58)]

CONFIG = GraphConfig(cameras=False)
UNREAD_BYTES = 1000
RTPS = b"RTPS\x02\x03\x01\x0f"
GROWTH_MAX_MB = 50


@pytest.fixture
def driven(environment: dict[str, str]) -> Iterator[tuple[list[psutil.Process], EpisodeDriver]]:
    """The processes of a graph that has driven one episode, and what drives the next."""
    with (
        RunningGraph(make_graph("sim", CONFIG), environment) as graph,
        EpisodeDriver(records=False, check=graph.check) as driver,
    ):
        assert driver.run_episode().result["success"] is True
        yield [psutil.Process(pid) for pid in graph.pids().values()], driver


def udp_sockets(nodes: list[psutil.Process]) -> list[tuple[str, int]]:
    """Return address and port of every UDP socket of the nodes."""
    found = [connection for node in nodes for connection in node.net_connections("inet")]
    assert {connection.type for connection in found} == {socket.SOCK_DGRAM}
    return sorted({(connection.laddr.ip, connection.laddr.port) for connection in found})


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def unread_bytes(port: int) -> int:
    """Return how much the kernel holds for the sockets of a port, because nobody has read it."""
    lines = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    return sum(int(fields[4].split(":")[1], 16) for fields in lines if int(fields[1].split(":")[1], 16) == port)


def test_nothing_that_comes_from_the_network_is_ever_read(
    driven: tuple[list[psutil.Process], EpisodeDriver], record_property: Callable[[str, str], None]
) -> None:
    """No TCP port, and of UDP the loopback; the other sockets are those that DDS only sends from."""
    nodes, driver = driven
    sockets = udp_sockets(nodes)
    local = [port for address, port in sockets if is_loopback(address)]
    open_to_all = [(address, port) for address, port in sockets if not is_loopback(address)]
    assert local
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for address, port in open_to_all:
            stranger.sendto(bytes(UNREAD_BYTES), ("127.0.0.1" if address == "0.0.0.0" else address, port))
        # Every thread that reads anything is at work meanwhile.
        assert driver.run_episode().result["success"] is True
        held = {port: unread_bytes(port) for _, port in open_to_all}
    assert all(size >= UNREAD_BYTES for size in held.values()), held
    record_property("figure", f"{len(local)} sockets on the loopback; {len(open_to_all)} others, none of them read")


@contextmanager
def noise(ports: list[int]) -> Iterator[list[int]]:
    """Send random datagrams, and such that begin like DDS, to all ports meanwhile; their sizes are in what it gives."""
    rng, sizes, ends = np.random.default_rng(0), [], threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            while not ends.is_set():
                head = RTPS[: rng.integers(0, len(RTPS) + 1)] if rng.random() < 0.7 else b""
                data = head + rng.bytes(int(rng.choice([0, 1, 12, 40, 1400, 60_000])))
                for port in ports:
                    stranger.sendto(data, ("127.0.0.1", port))
                sizes.append(len(data))
                time.sleep(0.002)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sizes
    finally:
        ends.set()
        thread.join()


def test_noise_on_every_port_changes_no_episode(
    driven: tuple[list[psutil.Process], EpisodeDriver], record_property: Callable[[str, str], None]
) -> None:
    nodes, driver = driven
    ports = [port for address, port in udp_sockets(nodes) if is_loopback(address)]
    before_bytes = [node.memory_info().rss for node in nodes]
    with noise(ports) as sizes:
        outcomes = [driver.run_episode() for _ in range(3)]
    assert [(outcome.result["success"], outcome.result["fault"]) for outcome in outcomes] == [(True, "")] * 3
    assert len(sizes) > 100
    assert all(node.is_running() for node in nodes)
    grown_mb = [(node.memory_info().rss - before) / 1e6 for node, before in zip(nodes, before_bytes, strict=True)]
    assert max(grown_mb) < GROWTH_MAX_MB
    megabytes = sum(sizes) * len(ports) / 1e6
    sent = f"{len(sizes) * len(ports)} datagrams, {megabytes:.0f} MB"
    record_property("figure", f"{sent}; memory grown by at most {max(grown_mb):.0f} MB")
