# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: docker_problems
short_description: What in a configuration of docker cannot work or is not safe
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Judges what role P(flotilla.cluster.docker#role) is about to write, before anything is changed. Nothing is asked of
    a host, and no secret is ever part of a sentence.
  - dockerd itself judges names and types of the keys in C(daemon.json); this is about what it cannot know.
options:
  _input:
    description: The whole C(daemon.json), as a dictionary.
    type: dict
    required: true
  networks:
    description: Networks of all hosts, by their names, as C(networks) of M(flotilla.cluster.host_info) says them.
    type: dict
    default: {}
  registries:
    description: The value of O(flotilla.cluster.docker#role:main:docker_registries).
    type: list
    elements: dict
    default: []
  listen:
    description: Address and port at which docker is to listen, empty for none.
    type: str
    default: ""
  addresses:
    description: Addresses of the host. An empty list stands for those that are not known.
    type: list
    elements: str
    default: []
  path:
    description: Path of the user's own C(daemon.json), for messages.
    type: str
    default: ""
  text:
    description: What that file holds.
    type: str
notes:
  - Networks are compared with the Python package C(netaddr), which has to be on the controller for that.
"""

EXAMPLES = r"""
---
- name: Refuse pools that containers and hosts would both use
  ansible.builtin.assert:
    that: >-
      daemon | flotilla.cluster.docker_problems(networks={'core-01': host.networks}) == []
  vars:
    daemon:
      default-address-pools: [{base: 10.200.0.0/16, size: 24}]
"""

RETURN = r"""
_value:
  description: One sentence for each problem.
  type: list
  elements: str
  sample:
    - "docker_address_pools has 10.79.0.0/16, which overlaps 10.79.140.0/24 (host0 of core-01): containers could not
      reach that network; choose one that no host uses"
"""

import collections
import json
import re
import typing as t

from ansible.errors import AnsibleFilterError

Daemon = t.Mapping[str, t.Any]
Networks = t.Mapping[str, t.Sequence[t.Mapping[str, str]]]
# Interfaces that docker makes: what it has taken from a pool overlaps that pool, and has to.
OF_DOCKER = re.compile(r"^(docker\d+|docker_gwbridge|br-[0-9a-f]{12}|veth[0-9a-f]+|podman\d+|cni-podman\d+)$")
REGISTRY = re.compile(r"^([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:]+\])(:[0-9]{1,5})?$")
LISTEN = re.compile(r"^(\[([0-9a-fA-F:]+)\]|([0-9.]+)):([0-9]{1,5})$")
TLS_KEYS = ("tls", "tlsverify", "tlscacert", "tlscert", "tlskey")


# --- the user's own file -------------------------------------------------------------------------------------


def text_problems(path: str, text: str) -> t.Iterator[str]:
    """A file that holds no object in JSON."""
    try:
        content = json.loads(text)
        found = "" if isinstance(content, dict) else f"which holds a {type(content).__name__} and no object"
    except ValueError as error:
        found = f"which holds no JSON ({error})" if text else "which is not there or is empty"
    if found:
        yield f"docker_daemon_file is {path!r}, {found}: give the path of a daemon.json on the controller"


# --- networks -------------------------------------------------------------------------------------------------


def _netaddr() -> t.Any:
    """The package netaddr, None where the controller has none."""
    # Ansible imports all filters of a collection for the first of them: what only this one needs waits until it runs.
    try:
        import netaddr
    except ImportError:
        return None
    return netaddr


def _network(text: t.Any) -> t.Any:
    """The network of "address/length" or None."""
    netaddr = _netaddr()
    if not isinstance(text, str) or "/" not in text:
        return None
    try:
        return netaddr.IPNetwork(text)
    except (netaddr.AddrFormatError, ValueError, TypeError):
        return None


def _overlap(one: t.Any, other: t.Any) -> bool:
    return bool(one.version == other.version and one.first <= other.last and other.first <= one.last)


def pool_problems(pool: t.Any) -> t.Iterator[str]:
    """The form of one address pool."""
    base = pool.get("base") if isinstance(pool, t.Mapping) else None
    network = _network(base)
    if network is None or network.ip != network.network:
        yield (
            f"docker_address_pools has the base {base!r}, which is no network: give one such as 10.200.0.0/16, whose"
            " address has only zeros behind the prefix"
        )
        return
    size, longest = str(pool.get("size")), network.size.bit_length() - 1 + network.prefixlen
    if not size.isdigit() or not network.prefixlen <= int(size) < longest:
        yield (
            f"docker_address_pools cuts {base} into networks of /{pool.get('size')}: give a size from"
            f" {network.prefixlen} to {longest - 1}"
        )


def bridge_problems(bip: t.Any) -> t.Iterator[str]:
    """The form of the address of the bridge."""
    network = _network(bip)
    if network is None or network.ip == network.network or network.size < 4:
        yield f"docker_bridge_address is {bip!r}: give the bridge's own address and its network, such as 10.201.0.1/24"


def network_problems(daemon: Daemon, networks: Networks) -> t.Iterator[str]:
    """Networks of containers that hosts have already, or that are there twice."""
    pools = daemon.get("default-address-pools") or []
    bip = daemon.get("bip")
    if not pools and not bip:
        return
    if _netaddr() is None:
        yield (
            "the networks of containers cannot be compared with those of the hosts, because the Python package netaddr"
            " is not on the controller: install it for the Python that runs Ansible, for example with"
            " 'pip install netaddr'"
        )
        return
    problems = [problem for pool in pools for problem in pool_problems(pool)]
    problems += bridge_problems(bip) if bip else []
    yield from problems
    if problems:
        return
    wanted = [("docker_address_pools has", pool["base"]) for pool in pools]
    wanted += [("docker_bridge_address is", bip)] if bip else []
    for number, (name, text) in enumerate(wanted):
        for _other_name, other in wanted[:number]:
            if _overlap(_network(text), _network(other)):
                yield f"{name} {text}, which overlaps {other}, of which containers get addresses as well: keep one"
        yield from _taken(name, text, networks)


def _taken(name: str, text: str, networks: Networks) -> t.Iterator[str]:
    """Networks of hosts that one of containers overlaps, a sentence for each."""
    found: dict[str, list[str]] = collections.defaultdict(list)
    for host, entries in networks.items():
        for entry in entries:
            known = _network(entry["network"])
            if known is not None and not OF_DOCKER.match(entry["interface"]) and _overlap(_network(text), known):
                found[entry["network"]].append(f"{entry['interface']} of {host}")
    for network, places in found.items():
        yield (
            f"{name} {text}, which overlaps {network} ({', '.join(places)}): containers could not reach that network;"
            " choose one that no host uses"
        )


# --- registries -----------------------------------------------------------------------------------------------


def registry_problems(registries: t.Sequence[t.Mapping[str, t.Any]]) -> t.Iterator[str]:
    """Names and credentials of registries."""
    names = [str(registry.get("name") or "") for registry in registries]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"docker_registries has {name!r} more than once: keep one entry"
    for name, registry in zip(names, registries):
        if not REGISTRY.match(name):
            yield (
                f"docker_registries has the name {name!r}: give it as images begin with it, such as"
                " registry.example:5000, without a scheme and a path"
            )
        if bool(registry.get("username")) != bool(registry.get("password")):
            missing = "password" if registry.get("username") else "username"
            yield f"docker_registries: {name} has no {missing}: give both username and password, or neither"
        if ":" in str(registry.get("username") or ""):
            yield f"docker_registries: the username of {name} holds a colon, which no username of a registry can"
        authority = str(registry.get("ca") or "")
        if authority and "-----BEGIN CERTIFICATE-----" not in authority:
            yield (
                f"docker_registries: the ca of {name} is no certificate in PEM form: give its text, for example by"
                " lookup('ansible.builtin.file', PATH)"
            )


def mirror_problems(daemon: Daemon) -> t.Iterator[str]:
    """Mirrors that are asked without TLS."""
    insecure = [str(name) for name in daemon.get("insecure-registries") or []]
    for mirror in daemon.get("registry-mirrors") or []:
        scheme, _separator, rest = str(mirror).partition("://")
        host = rest.partition("/")[0]
        if not rest or scheme not in ("http", "https"):
            yield f"docker_registry_mirrors has {mirror!r}: give a URL such as https://mirror.example"
        elif scheme == "http" and host not in insecure:
            yield (
                f"docker_registry_mirrors has {mirror!r}, whose answers anybody on the way could replace: use https, or"
                f" name {host} in insecure-registries of docker_daemon as well"
            )


# --- TCP ------------------------------------------------------------------------------------------------------


def listen_problems(daemon: Daemon, listen: str, addresses: t.Sequence[str]) -> t.Iterator[str]:
    """The port: one address of the host, and never without certificates on both sides."""
    if "hosts" in daemon:
        yield (
            'docker\'s configuration has the key "hosts", but the unit gives it on the command line already and docker'
            " would not start: leave it out and set docker_listen, which takes connections with a certificate only"
        )
    if not listen:
        return
    match = LISTEN.match(listen)
    if not match or not 0 < int(match.group(4)) < 65536:
        yield f"docker_listen is {listen!r}: give an address and a port such as 192.0.2.11:2376"
    elif addresses and (match.group(2) or match.group(3)) not in addresses:
        yield (
            f"docker_listen is {listen!r}, whose address is none of the host's ({', '.join(addresses)}): whoever"
            " reaches that port is root, so name the one address it is for"
        )
    given = [key for key in TLS_KEYS if key in daemon]
    if given:
        yield (
            f"docker's configuration has {' and '.join(given)}, which docker_listen sets by itself with the"
            " certificates of role pki: leave them out"
        )


def docker_problems(
    daemon: Daemon,
    networks: Networks | None = None,
    registries: t.Sequence[t.Mapping[str, t.Any]] = (),
    listen: str = "",
    addresses: t.Sequence[str] = (),
    path: str = "",
    text: str | None = None,
) -> list[str]:
    """Return what RETURN describes. Raises AnsibleFilterError when the input has not the form of DOCUMENTATION."""
    if not isinstance(daemon, t.Mapping):
        raise AnsibleFilterError("docker_problems needs the content of daemon.json as a dictionary")
    return [
        *([] if text is None else text_problems(path, text)),
        *network_problems(daemon, networks or {}),
        *registry_problems(registries),
        *mirror_problems(daemon),
        *listen_problems(daemon, listen, addresses),
    ]


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"docker_problems": docker_problems}
