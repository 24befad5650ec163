# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pure decisions: names, addresses, groups, what to start. No I/O."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

POOL = ipaddress.IPv4Network("10.79.0.0/16")
MAX_HOSTS = 200
MAX_MEMBERS = 5
STATE_VERSION = 1

_FIRST_ADDRESS = 10  # host 1 is .11, so that low addresses stay free for the machine
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_PREFIX = re.compile(r"[a-z]([a-z0-9-]{0,30})?")


class HostsError(Exception):
    """Something the user can act on; its text is one sentence and is printed without a traceback."""


@dataclass(frozen=True)
class Host:
    """One machine: ``number`` (1..200) fixes its address, ``layers`` are the images below its disk, lowest first."""

    name: str
    number: int
    machine_id: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Cluster:
    """What is remembered of a cluster between runs. What runs now is read from its cgroups instead."""

    name: str
    prefix: str
    subnet: ipaddress.IPv4Network
    hosts: tuple[Host, ...] = ()
    etcd: tuple[str, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    inventories: tuple[str, ...] = ()

    @property
    def gateway(self) -> ipaddress.IPv4Address:
        """The machine's own address on the bridge."""
        return self.subnet.network_address + 1

    def address(self, host: Host) -> ipaddress.IPv4Address:
        """The address of a host."""
        return self.subnet.network_address + _FIRST_ADDRESS + host.number

    def host(self, name: str) -> Host:
        """The host of that name.

        Raises HostsError when there is none.
        """
        for host in self.hosts:
            if host.name == name:
                return host
        known = ", ".join(host.name for host in self.hosts) or "none"
        raise HostsError(f"cluster {self.name} has no host {name!r}; its hosts are: {known}")


def check_cluster_name(name: str) -> str:
    """Return a valid cluster name or raise HostsError."""
    if not _NAME.fullmatch(name):
        raise HostsError(
            f"cluster name {name!r} is not usable: at most 40 of a-z, 0-9 and -, with a letter or digit at both ends"
        )
    return name


def check_prefix(prefix: str) -> str:
    """Return a valid host name prefix or raise HostsError."""
    if not _PREFIX.fullmatch(prefix):
        raise HostsError(f"--prefix {prefix!r} is not usable: at most 32 of a-z, 0-9 and -, beginning with a letter")
    return prefix


def tag(cluster: str) -> str:
    """At most 8 characters that stand for a cluster in names which the kernel keeps short (interfaces have 15)."""
    if len(cluster) <= 8:
        return cluster
    return cluster[:3] + hashlib.sha256(cluster.encode()).hexdigest()[:5]


def bridge_name(cluster: str) -> str:
    """The bridge of a cluster."""
    return f"flo-{tag(cluster)}"


def machine_name(cluster: str, number: int) -> str:
    """The name that systemd-nspawn knows a host by: unique on the machine, unlike the host name."""
    return f"{tag(cluster)}-{number}"


def veth_name(cluster: str, number: int) -> str:
    """The end of a host's network cable in the bridge, as systemd-nspawn calls it."""
    return f"vb-{machine_name(cluster, number)}"


def host_name(prefix: str, number: int) -> str:
    """``core-01`` for prefix ``core-`` and number 1."""
    return f"{prefix}{number:02d}"


def choose_subnet(cluster: str, used: Iterable[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """The cluster's /24 from POOL: always the same one when it is free, else the next that overlaps no network in use.

    Raises HostsError when every /24 is taken.
    """
    taken = list(used)
    candidates = list(POOL.subnets(new_prefix=24))
    first = zlib.crc32(cluster.encode()) % len(candidates)
    for candidate in candidates[first:] + candidates[:first]:
        if not any(candidate.overlaps(network) for network in taken):
            return candidate
    raise HostsError(f"no free /24 is left in {POOL} for cluster {cluster}: take down a cluster that is no longer used")


def choose_members(names: Sequence[str]) -> tuple[str, ...]:
    """The first 1, 3 or 5 hosts: an even number of members tolerates no more failures than one fewer."""
    count = min(len(names), MAX_MEMBERS)
    return tuple(names[: count - 1 if count % 2 == 0 else count])


def check_count(count: int) -> int:
    """Return a valid number of hosts or raise HostsError."""
    if not 1 <= count <= MAX_HOSTS:
        raise HostsError(f"--hosts {count} is not possible: a cluster has 1 to {MAX_HOSTS} hosts")
    return count


def grow(cluster: Cluster, count: int, layers: Sequence[str], machine_ids: Iterable[str]) -> Cluster:
    """The cluster with at least ``count`` hosts; hosts it has are kept as they are.

    The etcd group is chosen once: members are bootstrapped together, so hosts added later only join ``machines``.
    """
    fresh_id = iter(machine_ids)
    have = {host.number for host in cluster.hosts}
    added = [
        Host(host_name(cluster.prefix, number), number, next(fresh_id), tuple(layers))
        for number in range(1, count + 1)
        if number not in have
    ]
    hosts = tuple(sorted((*cluster.hosts, *added), key=lambda host: host.number))
    etcd = cluster.etcd or choose_members([host.name for host in hosts])
    return replace(cluster, hosts=hosts, etcd=etcd)


def to_json(cluster: Cluster) -> str:
    """The text of a cluster's state file."""
    data = {
        "version": STATE_VERSION,
        "name": cluster.name,
        "prefix": cluster.prefix,
        "subnet": str(cluster.subnet),
        "etcd": list(cluster.etcd),
        "variables": dict(cluster.variables),
        "inventories": list(cluster.inventories),
        "hosts": [
            {
                "name": h.name,
                "number": h.number,
                "machine_id": h.machine_id,
                "layers": list(h.layers),
            }
            for h in cluster.hosts
        ],
    }
    return json.dumps(data, indent=1, sort_keys=True) + "\n"


def from_json(text: str, where: str) -> Cluster:
    """Parse a state file; ``where`` names it in errors.

    Raises HostsError when the file is damaged or of another version.
    """
    try:
        data = json.loads(text)
        version = data["version"]
        if version == STATE_VERSION:
            return Cluster(
                name=data["name"],
                prefix=data["prefix"],
                subnet=ipaddress.IPv4Network(data["subnet"]),
                etcd=tuple(data["etcd"]),
                variables=dict(data["variables"]),
                inventories=tuple(data["inventories"]),
                hosts=tuple(
                    Host(h["name"], int(h["number"]), h["machine_id"], tuple(h["layers"])) for h in data["hosts"]
                ),
            )
    except (ValueError, KeyError, TypeError) as error:
        raise HostsError(f"{where} is damaged ({error!r}): remove the cluster with 'down' and make it again") from error
    raise HostsError(
        f"{where} has version {version!r} and this program knows {STATE_VERSION}:"
        " remove the cluster with 'down' and make it again"
    )


def recipe_hash(parts: Mapping[str, Any]) -> str:
    """Twelve hex digits that change when anything an image is made from changes."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def cut_pairs(cluster: Cluster, name: str, peers: Collection[str], one_way: bool) -> list[tuple[str, str]]:
    """(from, to) interface pairs whose frames are dropped to part a host from its peers (all others when empty).

    Raises HostsError for an unknown host or when a host would be parted from itself.
    """
    source = cluster.host(name)
    others = [cluster.host(peer) for peer in peers] or [host for host in cluster.hosts if host != source]
    if source in others:
        raise HostsError(f"{name} cannot be parted from itself: name other hosts of cluster {cluster.name}")
    here = veth_name(cluster.name, source.number)
    there = [veth_name(cluster.name, host.number) for host in others]
    pairs = [(here, veth) for veth in there]
    return pairs if one_way else pairs + [(veth, here) for veth in there]
