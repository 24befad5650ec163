# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clusters of hosts: bring up, take down, and what is done to single hosts in between."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import guest, image, network, plan, render
from .plan import Cluster, Host, HostsError
from .system import Progress, locked, remove_tree, run, write_file

_LOCK_TIMEOUT = 300.0
_STOP_TIMEOUT = 30.0
_DOWN_TIMEOUT = 3.0  # nothing of the disks is kept, so a unit that is slow to end is not waited for


def directory(cluster: str) -> Path:
    """What is kept of a cluster: state, keys, disks."""
    return guest.DISKS / cluster


def control_directory(cluster: str) -> Path:
    """Where Ansible keeps its open connections to the cluster's hosts."""
    return guest.RUNTIME / cluster / "cp"


def _state_file(cluster: str) -> Path:
    return directory(cluster) / "cluster.json"


def load(cluster: str) -> Cluster:
    """The remembered cluster.

    Raises HostsError when there is none or its state file is damaged.
    """
    path = _state_file(cluster)
    try:
        text = path.read_text()
    except FileNotFoundError as error:
        known = ", ".join(names()) or "none"
        raise HostsError(
            f"there is no cluster {cluster!r}; clusters on this machine: {known}; make it with 'up'"
        ) from error
    return plan.from_json(text, str(path))


def names() -> list[str]:
    """Every cluster that is remembered."""
    return sorted(path.parent.name for path in guest.DISKS.glob("*/cluster.json"))


def _save(cluster: Cluster) -> None:
    write_file(_state_file(cluster.name), plan.to_json(cluster), 0o600)


@contextlib.contextmanager
def _lock(cluster: str, progress: Progress) -> Iterator[None]:
    with locked(guest.RUNTIME / ".locks" / cluster, progress, f"cluster {cluster}", _LOCK_TIMEOUT):
        yield


@dataclass(frozen=True)
class Order:
    """What ``up`` is asked for; None keeps what the cluster has or takes the default."""

    cluster: str
    hosts: int | None = None
    prefix: str | None = None
    packages: str = "cached"
    suite: str | None = None
    inventory: Path | None = None
    variables: Mapping[str, Any] | None = None
    timeout: float = 60.0
    files: Path | None = None


@dataclass(frozen=True)
class Result:
    """The cluster after ``up`` and the names of the hosts that it switched on."""

    cluster: Cluster
    started: tuple[str, ...]


def up(order: Order, progress: Progress) -> Result:
    """Make a cluster, or complete one: hosts that run are left alone, others are switched on with their disks."""
    with _laid_out(order, progress) as (cluster, mtu):
        off = [host for host in cluster.hosts if not guest.is_running(guest.Place(cluster.name, host.name))]
        _boot(cluster, off, mtu, order.timeout, progress, order.files)
        running = len(cluster.hosts) - len(off)
        if running:
            progress.say(f"{running} of {len(cluster.hosts)} hosts of cluster {cluster.name} were running already")
        return Result(cluster, tuple(host.name for host in off))


def prepare(order: Order, progress: Progress) -> Cluster:
    """Settle what ``up`` would: names, addresses, keys, inventory, the network. No host is switched on."""
    with _laid_out(order, progress) as (cluster, _mtu):
        return cluster


@contextlib.contextmanager
def _laid_out(order: Order, progress: Progress) -> Iterator[tuple[Cluster, int]]:
    """The cluster as ordered with its image and network, and the network's MTU; nobody else changes it meanwhile."""
    plan.check_cluster_name(order.cluster)
    if order.hosts is not None:
        plan.check_count(order.hosts)
    layers = ensure_image(order.packages, order.suite, False, progress)
    with _lock(order.cluster, progress):
        cluster = _planned(order, layers, progress)
        network.raise_limits(progress)
        mtu = network.machine_mtu()
        network.raise_bridge(cluster, mtu)
        yield cluster, mtu


def _planned(order: Order, layers: Sequence[str], progress: Progress) -> Cluster:
    """The cluster as ordered, saved before anything of it exists, with its keys and texts on disk."""
    known = _state_file(order.cluster).exists()
    # Networks are given out one at a time, as two runs must not choose the same one.
    with locked(guest.RUNTIME / ".locks" / ".networks", progress, "the address plan", _LOCK_TIMEOUT):
        cluster = load(order.cluster) if known else _new(order)
        if order.prefix is not None and order.prefix != cluster.prefix:
            raise HostsError(
                f"cluster {cluster.name} has hosts named {cluster.prefix}NN and --prefix asks for {order.prefix}NN:"
                " take the cluster down first"
            )
        wanted = order.hosts or len(cluster.hosts) or 3
        if wanted < len(cluster.hosts):
            progress.say(
                f"cluster {cluster.name} has {len(cluster.hosts)} hosts and keeps them, though {wanted} were asked for"
            )
        cluster = plan.grow(cluster, wanted, layers, (uuid.uuid4().hex for _ in range(plan.MAX_HOSTS)))
        if order.variables is not None:
            cluster = replace(cluster, variables=dict(order.variables))
        if order.inventory is not None:
            cluster = replace(cluster, inventories=(*{*cluster.inventories, str(order.inventory.absolute())},))
        directory(cluster.name).mkdir(mode=0o700, parents=True, exist_ok=True)
        _save(cluster)
    _write_access(cluster)
    return cluster


def _new(order: Order) -> Cluster:
    for name in names():
        if plan.tag(name) == plan.tag(order.cluster):
            raise HostsError(f"the name {order.cluster} gives interfaces the same names as {name} does: choose another")
    readable, _all = _readable()
    used = [*network.networks_in_use(), *(other.subnet for other in readable)]
    prefix = plan.check_prefix(order.prefix if order.prefix is not None else "core-")
    return Cluster(name=order.cluster, prefix=prefix, subnet=plan.choose_subnet(order.cluster, used))


def _readable() -> tuple[list[Cluster], bool]:
    """The clusters whose state can be read, and whether that is all: a damaged one must not stop the others."""
    found = []
    known = names()
    for name in known:
        with contextlib.suppress(HostsError):
            found.append(load(name))
    return found, len(found) == len(known)


def ensure_image(packages: str, suite: str | None, rebuild: bool, progress: Progress) -> tuple[str, ...]:
    """Build what is missing of the base image, drop layers that nothing uses, and return the layers, lowest first.

    Raises HostsError when asked to build anew what hosts are using.
    """
    if rebuild and names():
        raise HostsError(f"hosts of {', '.join(names())} use the base image: take them down before --rebuild")
    image.ensure_machine_packages(progress)
    layers = image.ensure(progress, packages, suite, rebuild)
    clusters, complete = _readable()
    if complete:
        image.prune(progress, {*layers, *(key for one in clusters for host in one.hosts for key in host.layers)})
    return layers


def _write_access(cluster: Cluster) -> None:
    """Make missing keys, and write what ssh and Ansible need to reach the hosts."""
    here = directory(cluster.name)
    keys = [(here / "id_ed25519", f"flotilla-{cluster.name}")]
    keys += [(here / host.name / "ssh_host_ed25519_key", host.name) for host in cluster.hosts]
    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(lambda key: _make_key(*key), keys))
    public = {host.name: (here / host.name / "ssh_host_ed25519_key.pub").read_text() for host in cluster.hosts}
    control = control_directory(cluster.name)
    control.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_file(here / "known_hosts", render.known_hosts(cluster, public))
    write_file(here / "ssh_config", render.ssh_config(cluster, here))
    text = render.inventory(cluster, here, control)
    for path in (here / "inventory.yml", *(Path(name) for name in cluster.inventories)):
        if not path.exists() or path.read_text() != text:
            write_file(path, text)


def _make_key(path: Path, comment: str) -> None:
    if path.exists() and path.with_name(f"{path.name}.pub").exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path))


def _boot(
    cluster: Cluster,
    hosts: Sequence[Host],
    mtu: int,
    timeout: float,
    progress: Progress,
    files: Path | None = None,
) -> None:
    """Switch on hosts and wait until every host of the cluster answers."""
    if hosts:
        progress.say(f"switching on {', '.join(host.name for host in hosts)}")
    began = time.monotonic()
    children: dict[str, subprocess.Popen[bytes]] = {}
    for host in hosts:
        place = guest.Place(cluster.name, host.name)
        guest.kill([place])  # what a host that died by itself may have left
        _end_connections(cluster, host)
        children[host.name] = guest.start(cluster, host, mtu, files)
    guest.wait_for_banners(cluster, cluster.hosts, children, timeout, progress)
    for child in children.values():
        child.returncode = 0  # it goes on without this program, which is no longer its keeper
    if hosts:
        progress.say(f"{len(hosts)} hosts answer ssh, {time.monotonic() - began:.2f} s after they were switched on")


def _connection_masters(cluster: str) -> list[int]:
    """ssh processes that keep connections to a cluster's hosts open for Ansible."""
    title = f"ssh: {control_directory(cluster)}/"
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = path.read_bytes().decode(errors="replace")
            if command.startswith(title) and "[mux]" in command:
                found.append(int(path.parent.name))
    return found


def _end_connections(cluster: Cluster, host: Host) -> None:
    """End kept connections to a host that is off: the next play would wait on them, not on the host."""
    masters = _connection_masters(cluster.name)
    if masters:
        listed = run(
            "ss",
            "--no-header",
            "--numeric",
            "--processes",
            "--tcp",
            "dst",
            str(cluster.address(host)),
        )
        for pid in masters:
            if f"pid={pid}," in listed:
                guest.send_signal(guest.inspect(pid), signal.SIGTERM)


def start_host(cluster_name: str, name: str, timeout: float, progress: Progress) -> None:
    """Switch on one host and wait until it answers."""
    with _lock(cluster_name, progress):
        cluster = load(cluster_name)
        host = cluster.host(name)
        if guest.is_running(guest.Place(cluster.name, host.name)):
            progress.say(f"{name} is running already")
            return
        network.raise_limits(progress)
        mtu = network.machine_mtu()
        network.raise_bridge(cluster, mtu)
        _boot(replace(cluster, hosts=(host,)), [host], mtu, timeout, progress)


def stop_host(cluster_name: str, name: str, progress: Progress) -> None:
    """Switch off one host cleanly and keep its disk."""
    _end_host(
        cluster_name,
        name,
        progress,
        lambda place: guest.stop([place], progress, _STOP_TIMEOUT),
        "stopped",
    )


def kill_host(cluster_name: str, name: str, progress: Progress) -> None:
    """Take the power from one host and keep its disk."""
    _end_host(cluster_name, name, progress, lambda place: guest.kill([place]), "killed")


def _end_host(cluster_name: str, name: str, progress: Progress, end: Callable[[guest.Place], None], word: str) -> None:
    with _lock(cluster_name, progress):
        cluster = load(cluster_name)
        place = guest.Place(cluster.name, cluster.host(name).name)
        if not guest.processes(place):
            progress.say(f"{name} is off already")
            return
        began = time.monotonic()
        end(place)
        guest.clear(place)
        progress.say(f"{word} {name} in {time.monotonic() - began:.2f} s")


def part(cluster_name: str, name: str, peers: Sequence[str], one_way: bool, progress: Progress) -> None:
    """Cut the network between a host and its peers (none named: all others); one way: only what the host sends."""
    with _lock(cluster_name, progress):
        cluster = load(cluster_name)
        network.cut(cluster.name, plan.cut_pairs(cluster, name, peers, one_way))
        progress.say(f"{len(network.cuts(cluster.name) or [])} directions are cut in cluster {cluster.name}")


def heal(cluster_name: str, name: str | None, peers: Sequence[str], progress: Progress) -> None:
    """Undo cuts between a host and its peers, or all of them when no host is named."""
    with _lock(cluster_name, progress):
        cluster = load(cluster_name)
        network.mend(cluster.name, plan.cut_pairs(cluster, name, peers, False) if name else [])
        progress.say(f"{len(network.cuts(cluster.name) or [])} directions are cut in cluster {cluster.name}")


@dataclass(frozen=True)
class HostStatus:
    """One host as it is now: ``uptime`` in seconds, None when it is off; ``cut_from`` are hosts it cannot send to."""

    name: str
    address: str
    uptime: float | None
    cut_from: tuple[str, ...]


def status(cluster: Cluster) -> list[HostStatus]:
    """Every host of a cluster as it is now."""
    by_cable = {plan.veth_name(cluster.name, host.number): host.name for host in cluster.hosts}
    cut = network.cuts(cluster.name) or []
    return [
        HostStatus(
            name=host.name,
            address=str(cluster.address(host)),
            uptime=guest.uptime(guest.Place(cluster.name, host.name)),
            cut_from=tuple(
                by_cable.get(there, there) for here, there in cut if here == plan.veth_name(cluster.name, host.number)
            ),
        )
        for host in cluster.hosts
    ]


def _traces(name: str) -> list[str]:
    """Hosts of a cluster that have left anything on the machine, known to its state or not."""
    folders = [directory(name), guest.RUNTIME / name, *guest.cgroups_of(name)]
    found = {path.name for folder in folders for path in folder.glob("*/") if path.name != "cp"}
    return sorted(found)


def down(name: str, inventories: bool, progress: Progress) -> None:
    """Remove a cluster and everything that was made for it, also what a run that died half-way has left.

    ``inventories``: remove the inventory files that were written for it, too. Needs no intact state: everything is
    found by the cluster's name.
    """
    plan.check_cluster_name(name)
    with _lock(name, progress):
        written: tuple[str, ...] = ()
        with contextlib.suppress(HostsError):
            written = load(name).inventories
        places = [guest.Place(name, host) for host in _traces(name)]
        running = [place for place in places if guest.processes(place)]
        if running:
            progress.say(f"switching off {', '.join(place.host for place in running)}")
            guest.stop(running, progress, _DOWN_TIMEOUT, patient=False)
        for pid in _connection_masters(name):
            guest.send_signal(guest.inspect(pid), signal.SIGTERM)
        for place in places:
            guest.clear(place)
        for path in guest.cgroups_of(name):
            guest.remove_cgroup(path)
            with contextlib.suppress(OSError):
                path.parent.rmdir()  # refused while another cluster is in it
        network.remove_network(name, progress)
        with ThreadPoolExecutor(max_workers=4) as pool:
            list(pool.map(lambda place: remove_tree(place.disk), places))
        remove_tree(directory(name))
        remove_tree(guest.RUNTIME / name)
        if inventories:
            for file in written:
                Path(file).unlink(missing_ok=True)
    progress.say(f"nothing is left of cluster {name}" if places else f"there was no host of cluster {name}")
