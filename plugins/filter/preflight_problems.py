# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: preflight_problems
short_description: All that keeps a set of hosts from becoming a cluster
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Takes what M(flotilla.cluster.host_info) returned for each host of a play, and what the play wants of them. Returns
    everything that is wrong as sentences, so that a role can refuse all of it at once and before it changes anything.
  - Nothing is asked of the hosts; equal input gives equal output.
options:
  _input:
    description: Hosts by their names in the inventory.
    type: dict
    required: true
    suboptions:
      host:
        description: The host as M(flotilla.cluster.host_info) returned it.
        type: dict
        required: true
      hostname:
        description: Name the host will have; empty when it keeps its own.
        type: str
      addresses:
        description: Addresses that other hosts use to reach this one, by the name of the variable they come from.
        type: dict
      ports:
        description: Ports that the cluster needs on the host.
        type: list
        elements: dict
        suboptions:
          port:
            description: Number of the port.
            type: int
            required: true
          unit:
            description: The systemd unit that may hold it.
            type: str
            required: true
          proto:
            description: Protocol.
            type: str
            choices: [tcp, udp]
            default: tcp
      asked_at:
        description: The controller's clock before the host was asked, in seconds since the epoch.
        type: float
      answered_at:
        description: The controller's clock after the host had answered.
        type: float
      errors:
        description: Sentences about values of variables that somebody else found wrong.
        type: list
        elements: str
  etcd_group:
    description: Name of the group of etcd members, for messages; empty skips the checks of its size.
    type: str
    default: etcd
  etcd_members:
    description: All hosts in that group, also those that are not in the play.
    type: list
    elements: str
    default: []
  etcd_allow_even:
    description: Whether an even number of members is fine.
    type: bool
    default: false
  systems:
    description: Supported operating systems, by the ID in os-release, and their versions.
    type: dict
    default: {}
  python:
    description: Lowest version of Python.
    type: str
    default: '3.9'
  clock_tolerance:
    description: Seconds that a host's clock may differ from that of the controller.
    type: float
    default: 5
"""

EXAMPLES = r"""
---
- name: Show what is wrong
  ansible.builtin.debug:
    msg: >-
      {{ {'core-01': {'host': machine.host, 'addresses': {'etcd_address': '192.0.2.11'}}}
         | flotilla.cluster.preflight_problems(etcd_members=groups['etcd']) }}
"""

RETURN = r"""
_value:
  description: One sentence for each problem; hosts with the same problem share one.
  type: list
  elements: str
  sample:
    - "core-02, core-03: they share the machine-id 8b53ce0f6dc64a0b9bb60d97cf2f3d1d (cloned image?). Run
      'rm /etc/machine-id && systemd-machine-id-setup' on all but one of them and reboot it."
"""

import collections
import ipaddress
import re
import typing as t

from ansible.errors import AnsibleFilterError

Hosts = t.Mapping[str, t.Mapping[str, t.Any]]
Problem = tuple[str, str]  # host, sentence

LABEL = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", re.IGNORECASE)
MACHINE_ID = re.compile(r"^[0-9a-f]{32}$")


# --- one host -------------------------------------------------------------------------------------------------


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def system_problems(host: t.Mapping[str, t.Any], systems: t.Mapping[str, t.Any]) -> t.Iterator[str]:
    """Operating system and init of one host."""
    found = host["os"]
    versions = [str(version) for version in systems.get(found["id"], [])]
    if systems and found["version_id"] not in versions:
        supported = "; ".join(f"{name} {', '.join(map(str, systems[name]))}" for name in sorted(systems))
        shown = found["pretty_name"] or f"{found['id']} {found['version_id']}"
        yield (
            f"the operating system is {shown} ({found['id']} {found['version_id'] or 'without version'});"
            f" supported are: {supported} (bootstrap_systems)."
        )
    if host["init"] != "systemd":
        yield f"process 1 is {host['init']}, not systemd; fleet and the roles need a host booted with systemd."


def python_problems(host: t.Mapping[str, t.Any], lowest: str) -> t.Iterator[str]:
    """Python of one host."""
    if _version(host["python"]) < _version(lowest):
        yield (
            f"Python is {host['python']}, but modules need {lowest} or newer;"
            " point ansible_python_interpreter at a newer one."
        )


def machine_id_problems(host: t.Mapping[str, t.Any]) -> t.Iterator[str]:
    """Form of the machine-id of one host."""
    found = host["machine_id"]
    if not MACHINE_ID.match(found) or not found.strip("0"):
        yield (
            f"the machine-id is {found!r}, but it must be 32 hexadecimal digits, not all zero; run"
            " 'rm -f /etc/machine-id && systemd-machine-id-setup' there and reboot it."
        )


def hostname_problems(name: str) -> t.Iterator[str]:
    """Form of a host name, after RFC 1123."""
    if len(name) > 253 or not all(LABEL.match(label) for label in name.split(".")):
        yield (
            f"the name {name!r} is no host name: each part must be 1 to 63 letters, digits or '-', and start and end"
            " with a letter or digit; set bootstrap_hostname or rename it."
        )


def _by_address(addresses: t.Mapping[str, str]) -> dict[str, str]:
    """Addresses and the variables that give them, joined; one slip usually reaches several variables."""
    found: dict[str, list[str]] = {}
    for variable, address in sorted(addresses.items()):
        found.setdefault(address, []).append(variable)
    return {address: " and ".join(variables) for address, variables in found.items()}


def address_problems(host: t.Mapping[str, t.Any], addresses: t.Mapping[str, str]) -> t.Iterator[str]:
    """Addresses at which one host is said to be reached."""
    for address, variables in _by_address(addresses).items():
        shown = f"{variables} {address!r}"
        if not address:
            yield f"the address is not known: set {variables}, or ansible_host to an IP address."
            continue
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            yield f"{shown} is not an IP address; give one like 192.0.2.11 or 2001:db8::11, without a port."
            continue
        if parsed.is_loopback or parsed.is_unspecified or parsed.is_multicast or parsed.is_link_local:
            yield f"{shown} cannot be reached by other hosts; give an address of its network card."
        elif not any(ipaddress.ip_address(own.split("%")[0]) == parsed for own in host["addresses"]):
            yield (
                f"{shown} is not an address of the host ({', '.join(host['addresses']) or 'it has none'});"
                f" set {variables} to the one at which the other hosts reach it."
            )


def port_problems(host: t.Mapping[str, t.Any], ports: t.Sequence[t.Mapping[str, t.Any]]) -> t.Iterator[str]:
    """Ports of one host that are claimed twice or held by something else."""
    claims: dict[tuple[str, int], set[str]] = collections.defaultdict(set)
    for claim in ports:
        claims[claim.get("proto") or "tcp", int(claim["port"])].add(claim["unit"])
    for (proto, port), units in sorted(claims.items()):
        shown = f"{proto} port {port}"
        if not 0 < port < 65536:
            yield f"{shown} for {', '.join(sorted(units))} does not exist; ports go from 1 to 65535."
        if len(units) > 1:
            yield f"{shown} is wanted by {' and by '.join(sorted(units))}; give each a port of its own."
        holders = {
            (entry["process"] or "an unknown process", entry["pid"], entry["unit"])
            for entry in host.get("listening", [])
            if entry["proto"] == proto and entry["port"] == port and entry["unit"] not in units
        }
        for process, pid, unit in sorted(holders):
            place = f", process {pid}" + (f" of {unit}" if unit else "") if pid else ""
            yield (
                f"{shown}, which {', '.join(sorted(units))} needs, is used by {process}{place};"
                " stop that or choose another port."
            )


def clock_offset(entry: t.Mapping[str, t.Any]) -> float:
    """Seconds by which a host's clock is surely ahead of the controller's (below 0: behind).

    The host read its clock at some moment between asking and answer; so long as its reading lies in between, nothing
    can be said against it, however long the host took.
    """
    time = float(entry["host"]["time"])
    if time > float(entry["answered_at"]):
        return time - float(entry["answered_at"])
    return min(0.0, time - float(entry["asked_at"]))


# --- hosts beside each other ----------------------------------------------------------------------------------


def _same(values: t.Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """Values that more than one host has, with the hosts; compared without regard to case."""
    seen: dict[str, list[str]] = collections.defaultdict(list)
    for name, value in values.items():
        if value:
            seen[value.lower()].append(name)
    return [(value, names) for value, names in seen.items() if len(names) > 1]


def shared_machine_ids(hosts: Hosts) -> t.Iterator[str]:
    """Hosts with one machine-id; a machine that is in the inventory twice is told from a clone by its boot-id."""
    for machine_id, names in _same({name: entry["host"]["machine_id"] for name, entry in hosts.items()}):
        boots = {hosts[name]["host"]["boot_id"] for name in names}
        if len(boots) == 1:
            yield (
                f"{', '.join(names)}: they are one and the same machine (machine-id {machine_id}, same boot);"
                " check ansible_host and remove all but one from the inventory."
            )
        else:
            yield (
                f"{', '.join(names)}: they share the machine-id {machine_id} (cloned image?). Run"
                " 'rm /etc/machine-id && systemd-machine-id-setup' on all but one of them and reboot it."
            )


def shared_names(hosts: Hosts) -> t.Iterator[str]:
    """Hosts with one name."""
    for name, names in _same({name: _hostname(entry) for name, entry in hosts.items()}):
        yield f"{', '.join(names)}: they share the host name {name!r}; set bootstrap_hostname for each, or rename them."
    for name, names in _same({name: name for name in hosts}):
        yield f"{', '.join(names)}: their names in the inventory differ only in case ({name}); rename all but one."


def shared_addresses(hosts: Hosts) -> t.Iterator[str]:
    """Hosts that are said to be reached at one address."""
    users: dict[str, dict[str, set[str]]] = {}
    for name, entry in hosts.items():
        for variable, address in (entry.get("addresses") or {}).items():
            if address:
                users.setdefault(address.lower(), {}).setdefault(variable, set()).add(name)
    for address, by_variable in users.items():
        shared = [variable for variable, names in sorted(by_variable.items()) if len(names) > 1]
        names = sorted({name for variable in shared for name in by_variable[variable]})
        if names:
            yield f"{', '.join(names)}: they have the same {' and '.join(shared)}, {address}; give each its own."


def clock_problems(hosts: Hosts, tolerance: float) -> t.Iterator[Problem | str]:
    """Clocks that are off. When all are off alike, it is the controller's that is wrong."""
    offsets = {name: clock_offset(entry) for name, entry in hosts.items() if "answered_at" in entry}
    wrong = {name: offset for name, offset in offsets.items() if abs(offset) > tolerance}
    if len(wrong) > 1 and len(wrong) == len(hosts) and max(wrong.values()) - min(wrong.values()) <= tolerance:
        offset = min(wrong.values(), key=abs)
        relation = "behind" if offset > 0 else "ahead of"
        yield (
            f"The controller's clock is {abs(offset):.0f} s {relation} those of all hosts, which agree with each other;"
            f" at most {tolerance:g} s are allowed (bootstrap_clock_tolerance). Set it."
        )
        return
    for name, offset in wrong.items():
        yield (
            name,
            f"the clock is {abs(offset):.0f} s {'ahead of' if offset > 0 else 'behind'} the controller's;"
            f" at most {tolerance:g} s are allowed (bootstrap_clock_tolerance). Set it, for example with"
            " 'timedatectl set-ntp true'.",
        )


def etcd_problems(group: str, members: t.Sequence[str], allow_even: bool) -> t.Iterator[str]:
    """Number of etcd members."""
    count = len(members)
    if not group:
        return
    if count == 0:
        yield (
            f"The inventory has no host in the group {group!r}, so there would be no etcd; put 1, 3 or 5 hosts in it,"
            " or name another group in etcd_group."
        )
    elif count % 2 == 0 and not allow_even:
        losses = (count - 1) // 2
        tolerate = f"tolerate {losses or 'no'} failure{'s' if losses > 1 else ''}"
        yield (
            f"The group {group!r} has {count} hosts, and {count} etcd members {tolerate}, no more than {count - 1}"
            f" would; use {count - 1} or {count + 1}, or set etcd_allow_even."
        )


# --- all together ----------------------------------------------------------------------------------------------


def _hostname(entry: t.Mapping[str, t.Any]) -> str:
    return str(entry.get("hostname") or entry["host"]["hostname"])


def _together(problems: t.Iterable[Problem]) -> list[str]:
    """One sentence for all hosts that have the same problem."""
    found: dict[str, list[str]] = {}
    for name, sentence in problems:
        found.setdefault(sentence, []).append(name)
    return [f"{', '.join(names)}: {sentence}" for sentence, names in found.items()]


def _host_problems(
    name: str, entry: t.Mapping[str, t.Any], systems: t.Mapping[str, t.Any], python: str
) -> t.Iterator[Problem]:
    host = entry["host"]
    checks = (
        system_problems(host, systems),
        python_problems(host, python),
        machine_id_problems(host),
        hostname_problems(_hostname(entry)),
        address_problems(host, entry.get("addresses") or {}),
        port_problems(host, entry.get("ports") or []),
        entry.get("errors") or [],
    )
    for check in checks:
        for sentence in check:
            yield name, str(sentence)


def preflight_problems(
    hosts: Hosts,
    etcd_group: str = "etcd",
    etcd_members: t.Sequence[str] = (),
    etcd_allow_even: bool = False,
    systems: t.Mapping[str, t.Any] | None = None,
    python: str = "3.9",
    clock_tolerance: float = 5,
) -> list[str]:
    """Return what DOCUMENTATION says. Raises AnsibleFilterError when the input has not the form it describes."""
    if not isinstance(hosts, t.Mapping) or not all(isinstance(entry, t.Mapping) for entry in hosts.values()):
        raise AnsibleFilterError("preflight_problems needs hosts by name, each a dictionary with the key 'host'.")
    try:
        problems = [
            problem for name, entry in hosts.items() for problem in _host_problems(name, entry, systems or {}, python)
        ]
        clocks = list(clock_problems(hosts, float(clock_tolerance)))
        problems += [problem for problem in clocks if not isinstance(problem, str)]
        return [
            *etcd_problems(etcd_group, etcd_members, etcd_allow_even),
            *shared_machine_ids(hosts),
            *shared_names(hosts),
            *shared_addresses(hosts),
            *(problem for problem in clocks if isinstance(problem, str)),
            *_together(problems),
        ]
    except (KeyError, TypeError, ValueError) as error:
        message = f"preflight_problems cannot read its input: {type(error).__name__}: {error}"
        raise AnsibleFilterError(message) from error


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"preflight_problems": preflight_problems}
