"""What a deployment asks of its host: transport, privacy, disk, processor and accelerator.

`read_host` and `read_disk` gather facts once; the checks are functions of them and the environment.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import psutil

from armature_ros.doctor_findings import Finding
from armature_ros.qos import FASTDDS_PROFILE, PROFILE_VARIABLES, single_host_environment

DOMAIN_SAFE_MAX = 101
"""Above it the ports of DDS run into those that Linux gives to clients."""
CORES_MIN, MEMORY_MIN_BYTES = 2, 2_000_000_000
SHM = Path("/dev/shm")


@dataclass(frozen=True)
class Socket:
    """A UDP socket of the domain, and the process that holds it where that can be seen."""

    address: str
    port: int
    owner: str


@dataclass(frozen=True)
class Host:
    """What was found on this machine."""

    shm_total_bytes: int
    shm_free_bytes: int
    leftovers: tuple[str, ...]
    """Files in shared memory whose process is gone."""
    sockets: tuple[Socket, ...]
    """Those of the domain that do not listen on the loopback."""
    cores: int
    memory_free_bytes: int


def read_host(domain_id: int) -> Host:
    """Gather the facts; nothing is changed."""
    space = shutil.disk_usage(SHM)
    memory = psutil.virtual_memory().available
    return Host(space.total, space.free, _leftovers(), _open_sockets(domain_id), len(os.sched_getaffinity(0)), memory)


def check_host(host: Host, nodes: int) -> list[Finding]:
    """Return the findings about the machine and what runs on it; `nodes` is how many the graph has."""
    return [
        check_shared_memory(host.shm_total_bytes, host.shm_free_bytes, nodes),
        check_leftovers(host.leftovers),
        check_sockets(host.sockets),
        check_machine(host.cores, host.memory_free_bytes),
    ]


def check_shell(environment: Mapping[str, str], domain_id: int) -> list[Finding]:
    """Return the findings about the shell that the driver of an arm is started from; `armature up` needs none."""
    return [check_profile(environment), check_domain(environment, domain_id), check_discovery(environment)]


def check_profile(environment: Mapping[str, str]) -> Finding:
    """What is started from this shell, a driver say, talks as the graph does."""
    wanted = single_host_environment()
    names = ("RMW_IMPLEMENTATION", *PROFILE_VARIABLES)
    wrong = [name for name in names if not _is_set(environment, name, wanted[name])]
    if not wrong:
        return Finding("transport", "profile", "ok", "middleware and profile are those of the graph")
    unset = [name for name in wrong if not environment.get(name)]
    others = [f"{name} is {environment[name]}" for name in wrong if name not in unset]
    found = "; ".join([*([f"not set: {', '.join(unset)}"] if unset else []), *others])
    remedy = "run the lines below in the shell before you start the arm's driver in it"
    commands = tuple(f"export {name}={shlex.quote(wanted[name])}" for name in wrong)
    return Finding("transport", "profile", "warn", found, remedy, commands)


def _is_set(environment: Mapping[str, str], name: str, wanted: str) -> bool:
    value = environment.get(name, "")
    return value == wanted or (name in PROFILE_VARIABLES and bool(value) and Path(value).resolve() == FASTDDS_PROFILE)


def check_domain(environment: Mapping[str, str], domain_id: int) -> Finding:
    """Drivers that are started from this shell are in the domain of the graph."""
    shell = environment.get("ROS_DOMAIN_ID") or "0"
    if shell != str(domain_id):
        found = f"domain {domain_id} is looked at, ROS_DOMAIN_ID is {shell}"
        remedy = "start the arm's driver in the same domain"
        return Finding("transport", "domain", "warn", found, remedy, (f"export ROS_DOMAIN_ID={domain_id}",))
    if domain_id > DOMAIN_SAFE_MAX:
        remedy = f"take a domain up to {DOMAIN_SAFE_MAX}"
        return Finding("transport", "domain", "warn", f"domain {domain_id}: its ports are also given to others", remedy)
    return Finding("transport", "domain", "ok", f"domain {domain_id}")


def check_shared_memory(total_bytes: int, free_bytes: int, nodes: int) -> Finding:
    """Every node of the graph finds room for its segment."""
    segment_bytes = _segment_bytes()
    needed_bytes = nodes * segment_bytes
    found = f"{_mb(free_bytes)} of {_mb(total_bytes)} free in {SHM}"
    if free_bytes >= needed_bytes:
        return Finding("transport", "shared memory", "ok", found)
    level = "fail" if total_bytes < segment_bytes else "warn"
    found += f"; {nodes} nodes may use {_mb(needed_bytes)}"
    return Finding("transport", "shared memory", level, found, "free some, or give the container a larger --shm-size")


def _segment_bytes() -> int:
    namespace = {"dds": "http://www.eprosima.com"}
    size = ElementTree.parse(FASTDDS_PROFILE).findtext(".//dds:segment_size", namespaces=namespace)
    return int(size or 0)


def check_leftovers(names: Sequence[str]) -> Finding:
    """Killed processes have left nothing behind: a port that one held locked stops its successor (Fast DDS #3535)."""
    if not names:
        return Finding("transport", "left-overs", "ok", "nothing left over")
    found = f"{len(names)} locks of dead processes in {SHM}, the first is {names[0]}"
    remedy = "end all ROS processes, then remove what they left"
    return Finding(
        "transport",
        "left-overs",
        "warn",
        found,
        remedy,
        (f"rm -f {SHM}/*fastrtps* {SHM}/*fastdds*  # once no ROS process runs",),
    )


def check_discovery(environment: Mapping[str, str]) -> Finding:
    """What is started from this shell does not announce itself to the network."""
    for name in ("ROS_DISCOVERY_SERVER", "ROS_STATIC_PEERS"):
        if environment.get(name):
            found = f"{name} is {environment[name]}: other hosts are asked to join"
            return Finding("exposure", "discovery", "warn", found, "keep discovery on this host", (f"unset {name}",))
    # The profile has no other transport than shared memory and the loopback.
    if all(_is_set(environment, name, str(FASTDDS_PROFILE)) for name in PROFILE_VARIABLES):
        return Finding("exposure", "discovery", "ok", "discovery stays on this host")
    reach = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "")
    if reach.upper() in ("LOCALHOST", "OFF") or (not reach and environment.get("ROS_LOCALHOST_ONLY") == "1"):
        return Finding("exposure", "discovery", "ok", "discovery stays on this host")
    found = f"ROS_AUTOMATIC_DISCOVERY_RANGE is {reach or 'not set'}: a driver started here announces itself"
    commands = ("export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST",)
    return Finding("exposure", "discovery", "warn", f"{found} to the network", "keep discovery on this host", commands)


def check_sockets(sockets: Sequence[Socket]) -> Finding:
    """Nothing that runs in the domain can be reached from the network."""
    if not sockets:
        return Finding("exposure", "sockets", "ok", "no socket of the domain is open to the network")
    owners = ", ".join(sorted({socket.owner for socket in sockets}))
    first = sockets[0]
    found = f"{owners} listens on {first.address}:{first.port}: anyone in the network can write to it"
    remedy = "start it with the profile; a domain id is no protection"
    return Finding("exposure", "sockets", "warn", found, remedy)


def check_machine(cores: int, memory_free_bytes: int) -> Finding:
    """There is some processor and memory to run on."""
    found = f"{cores} cores, {_mb(memory_free_bytes)} of memory free"
    if cores < CORES_MIN:
        return Finding("machine", "processor", "warn", found, f"give it {CORES_MIN} cores: ticks will come late")
    if memory_free_bytes < MEMORY_MIN_BYTES:
        return Finding("machine", "memory", "warn", found, f"free some: {_mb(MEMORY_MIN_BYTES)} should be there")
    return Finding("machine", "", "ok", found)


def check_device(device: str, found: Sequence[str]) -> Finding:
    """The device that the policy computes on is there; `found` lists those of this machine."""
    if device in found:
        return Finding("policy", "device", "ok", f"computes on {device}")
    remedy = "pass --device cpu, or mend the driver of the accelerator"
    return Finding("policy", "device", "fail", f"'{device}' is not there; there is {', '.join(found)}", remedy)


def read_devices(device: str) -> list[str]:
    """List the devices of this machine; torch, which takes seconds, is asked only where it is not the cpu."""
    if device == "cpu":
        return ["cpu"]
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ["cpu", *(["cuda"] if count else []), *(f"cuda:{index}" for index in range(count))]


def _leftovers() -> tuple[str, ...]:
    """Name the lock files of Fast DDS that no process holds any more."""
    locks = Path("/proc/locks")
    if not locks.is_file():
        return ()
    held = {int(inode) for inode in re.findall(r"[0-9a-f]+:[0-9a-f]+:(\d+) ", locks.read_text())}
    files = [file for file in SHM.glob("*_[es]l") if file.name.startswith(("fastrtps_", "fastdds_"))]
    return tuple(sorted(file.name for file in files if _inode(file) not in {*held, 0}))


def _inode(file: Path) -> int:
    """Return the inode of a file; 0 when it has gone in between."""
    try:
        return file.stat().st_ino
    except FileNotFoundError:
        return 0


def _open_sockets(domain_id: int) -> tuple[Socket, ...]:
    """List the sockets on the ports of a domain that listen on more than the loopback."""
    ports = range(7400 + 250 * domain_id, 7400 + 250 * (domain_id + 1))
    return tuple(
        Socket(c.laddr.ip, c.laddr.port, _process(c.pid))
        for c in psutil.net_connections(kind="udp")
        if c.laddr and c.laddr.port in ports and not c.laddr.ip.startswith(("127.", "::1"))
    )


def _process(pid: int | None) -> str:
    """Name a process, or say that it is somebody else's."""
    try:
        return "a process of another user" if pid is None else f"{psutil.Process(pid).name()} ({pid})"
    except psutil.Error:
        return f"process {pid}"


def _mb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
