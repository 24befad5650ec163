# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pure texts: files for the hosts, the inventory, ssh settings."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from .plan import Cluster, Host


def network_file(cluster: Cluster, host: Host, mtu: int) -> str:
    """systemd-networkd's settings for the host's only cable.

    Its file name must sort before 80-container-host0.network; router advertisements and link-local addresses are off
    because waiting for them delays network-online.target by 13 s.
    """
    return (
        "[Match]\nName=host0\n\n"
        f"[Link]\nMTUBytes={mtu}\n\n"
        f"[Network]\nAddress={cluster.address(host)}/{cluster.subnet.prefixlen}\nGateway={cluster.gateway}\n"
        "IPv6AcceptRA=no\nLinkLocalAddressing=no\n"
    )


def hosts_file(host: Host) -> str:
    """/etc/hosts as Debian's installer writes it."""
    return (
        f"127.0.0.1\tlocalhost\n127.0.1.1\t{host.name}\n\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
    )


def resolv_conf(texts: Iterable[str]) -> str:
    """resolv.conf for hosts from the machine's candidates: the first that names a server which hosts can reach."""
    for text in texts:
        lines = [line.split() for line in text.splitlines()]
        servers = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
        reachable = [server for server in servers if not _is_local(server)]
        if reachable:
            return "".join(f"nameserver {server}\n" for server in reachable)
    return ""


def _is_local(server: str) -> bool:
    try:
        address = ipaddress.ip_address(server.partition("%")[0])
    except ValueError:
        return True
    return address.is_loopback or address.is_link_local


def known_hosts(cluster: Cluster, public_keys: Mapping[str, str]) -> str:
    """known_hosts with every host by name and address; ``public_keys`` maps host name to the text of its .pub file."""
    return "".join(
        f"{host.name},{cluster.address(host)} {' '.join(public_keys[host.name].split()[:2])}\n"
        for host in cluster.hosts
    )


def ssh_config(cluster: Cluster, directory: Path) -> str:
    """An ssh_config for ``ssh -F``: hosts by name, the cluster's key, host keys checked."""
    common = (
        f"    User root\n    IdentityFile {directory}/id_ed25519\n    IdentitiesOnly yes\n"
        f"    UserKnownHostsFile {directory}/known_hosts\n    GlobalKnownHostsFile /dev/null\n"
        "    StrictHostKeyChecking yes\n    LogLevel ERROR\n"
    )
    entries = [
        f"Host {host.name} {cluster.address(host)}\n    HostName {cluster.address(host)}\n{common}"
        for host in cluster.hosts
    ]
    return "\n".join(entries)


def inventory(cluster: Cluster, directory: Path, control_directory: Path) -> str:
    """An Ansible inventory in YAML with literal values only, because testinfra reads it without templating.

    Connections are kept below ``control_directory`` so that those to a host that is gone can be ended with it.
    """
    common_args = (
        f"-o UserKnownHostsFile={directory}/known_hosts -o GlobalKnownHostsFile=/dev/null"
        " -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes"
    )
    variables = {
        "ansible_user": "root",
        "ansible_ssh_private_key_file": f"{directory}/id_ed25519",
        "ansible_ssh_common_args": common_args,
        "ansible_control_path_dir": str(control_directory),
        "ansible_python_interpreter": "/usr/bin/python3",
        # The same etcd whether a mirror of its releases can be reached or not
        "etcd_source": "distribution",
        # playbooks/demo.yml knows by it that it may cut a host's power, and how
        "flotilla_local_cluster": cluster.name,
    }
    lines = ["# Written by tools/hosts.py; changes are lost.", "all:", "  vars:"]
    lines += [f"    {name}: {json.dumps(value)}" for name, value in variables.items()]
    # Quoted, as YAML takes a name such as "on" for a truth value.
    lines += [f"    {json.dumps(name)}: {json.dumps(value)}" for name, value in cluster.variables.items()]
    lines += ["  hosts:"]
    for host in cluster.hosts:
        lines += [
            f"    {host.name}:",
            f"      ansible_host: {json.dumps(str(cluster.address(host)))}",
        ]
    lines += ["  children:"]
    groups = {"etcd": cluster.etcd, "machines": tuple(host.name for host in cluster.hosts)}
    for group, names in groups.items():
        lines += [f"    {group}:", "      hosts:"] + [f"        {name}: {{}}" for name in names]
    return "\n".join(lines) + "\n"
