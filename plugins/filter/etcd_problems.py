# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: etcd_problems
short_description: List all that is wrong with the settings of an etcd member
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Checks what an argument specification cannot, such as values that depend on one another or on
    the host, and returns every problem at once.
options:
  _input:
    description: The members that the inventory names, from P(flotilla.cluster.cluster_members#filter).
    type: list
    elements: dict
    required: true
  host:
    description: Name of the host in the inventory.
    type: str
    required: true
  settings:
    description: Values of the role's variables, without the C(etcd_) prefix.
    type: dict
    required: true
  addresses:
    description: IP addresses of the host. Without any the host's address is not compared.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
---
- name: Refuse values that cannot work
  ansible.builtin.fail:
    msg: "{{ problems | join('; ') }}"
  when: problems | length > 0
  vars:
    problems: >-
      {{ members | flotilla.cluster.etcd_problems('core-01', {'group': 'etcd', 'client_port': 2379}) }}
"""

RETURN = r"""
_value:
  description: One sentence a problem, without a full stop.
  type: list
  elements: str
  sample: ["the group etcd has 2 members, which tolerates no failure: use 1, 3 or 5"]
"""

import collections
import ipaddress
import re
import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_versions import discovery_problem, flag_problems

Member = t.Mapping[str, str]


def size_problems(group: str, count: int, allow_even: bool) -> list[str]:
    """Judge the number of members."""
    if count == 0:
        return [
            f"the group {group} has no host: name 1, 3 or 5 hosts in it, or set etcd_group to the"
            " group that the etcd members are in"
        ]
    if count % 2 == 0 and not allow_even:
        return [
            f"the group {group} has {count} members, which tolerates"
            f" {_failures((count - 1) // 2)} like {count - 1}: use {count - 1} or {count + 1}, or set"
            " etcd_allow_even"
        ]
    return []


def _failures(count: int) -> str:
    return {0: "no failure", 1: "1 failure"}.get(count, f"{count} failures")


def member_problems(members: t.Sequence[Member]) -> list[str]:
    """Judge names and addresses, each and together."""
    found = []
    for member in members:
        host, address, name = member["host"], member["address"], member["name"]
        if not address:
            found.append(
                f"the address of {host} is not known: set etcd_address for it, or make ansible_host an IP address"
            )
        elif not _usable(address):
            found.append(f"etcd_address of {host} is {address!r}: give an IP address that other hosts can reach")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name):
            found.append(f"etcd_name of {host} is {name!r}: use letters, digits, '.', '_' and '-'")
    for what, key in (("etcd_address", "address"), ("etcd_name", "name")):
        count = collections.Counter(member[key] for member in members if member[key])
        for value in sorted(item for item, times in count.items() if times > 1):
            hosts = " and ".join(member["host"] for member in members if member[key] == value)
            found.append(f"{hosts} have the same {what} {value}: each member needs its own")
    return found


def _usable(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return not (parsed.is_loopback or parsed.is_unspecified or parsed.is_multicast)


def port_problems(settings: t.Mapping[str, t.Any]) -> list[str]:
    """Judge the three ports."""
    ports = {key: int(settings[key]) for key in ("client_port", "peer_port", "metrics_port")}
    found = [f"etcd_{key} is {port}: give 1 to 65535" for key, port in ports.items() if not 0 < port < 65536]
    if len(set(ports.values())) < len(ports):
        shown = ", ".join(f"etcd_{key} {port}" for key, port in ports.items())
        found.append(f"two of the ports are the same ({shown}): give three different ones")
    return found


def release_problems(settings: t.Mapping[str, t.Any]) -> list[str]:
    """Judge where a release comes from."""
    if settings["source"] != "release":
        return []
    found = []
    if not re.fullmatch(r"\d+\.\d+\.\d+[A-Za-z0-9.+-]*", settings["release_version"]):
        found.append(
            f"etcd_release_version is {settings['release_version']!r}: etcd_source is 'release', so"
            " give the version of the archive, such as 3.6.14"
        )
    if not re.match(r"(https://|file:///|/).+", settings["release_url"]):
        found.append(
            f"etcd_release_url is {settings['release_url']!r}: give an https:// URL or the absolute"
            " path of an archive on the controller"
        )
    if not settings["release_sha256"]:
        found.append(
            f"the SHA-256 of etcd {settings['release_version']}'s archive is not known here: give the 64 hexadecimal"
            " digits from the release's SHA256SUMS as etcd_release_sha256"
        )
    elif not re.fullmatch(r"[0-9a-f]{64}", settings["release_sha256"]):
        found.append(
            f"etcd_release_sha256 is {settings['release_sha256']!r}: give the 64 hexadecimal digits"
            " from the release's SHA256SUMS"
        )
    if settings.get("enable_v2") and _minor(settings["release_version"]) >= (3, 6):
        found.append(
            f"etcd_enable_v2 is set and etcd_release_version is {settings['release_version']}: etcd has the v2 API,"
            " which upstream's fleet needs, up to 3.5 only, so use a release of 3.5 or leave etcd_enable_v2 unset"
        )
    return found


def _minor(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def bootstrap_problems(settings: t.Mapping[str, t.Any], count: int) -> list[str]:
    """Judge how members are to find each other."""
    how = settings.get("bootstrap") or "static"
    if how == "srv":
        if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", settings["discovery_srv"]):
            return []
        return [
            f"etcd_discovery_srv is {settings['discovery_srv']!r}: etcd_bootstrap is 'srv', so give the domain that has"
            " the SRV records, such as example.org"
        ]
    if how != "discovery":
        return []
    found = []
    protocol = settings["discovery_protocol"]
    if count > 9:
        found.append(f"the group has {count} members: discovery is for 9 at most, so set etcd_bootstrap to static")
    if protocol == "v2" and not settings["discovery_url"] and not settings["discovery_token"]:
        found.append(
            "etcd_discovery_url is empty: etcd_bootstrap is 'discovery', so give the URL of a v2 discovery service"
        )
    if protocol == "v3" and not settings["discovery_endpoints"]:
        found.append(
            "etcd_discovery_endpoints is empty: etcd_bootstrap is 'discovery', so give the https:// URLs of the"
            " registry"
        )
    if protocol == "v3":
        found += [
            f"etcd_discovery_endpoints has {url!r}: give https:// URLs, as a token is a secret"
            for url in settings["discovery_endpoints"]
            if not re.fullmatch(r"https://[^/,\s]+/?", str(url))
        ]
    problem = discovery_problem(str(settings.get("version") or ""), protocol)
    return [*found, problem] if problem else found


def etcd_problems(
    members: t.Sequence[Member],
    host: str,
    settings: t.Mapping[str, t.Any],
    addresses: t.Collection[str] = (),
) -> list[str]:
    """Return the sentences that RETURN describes."""
    found = size_problems(settings["group"], len(members), bool(settings["allow_even"]))
    found += member_problems(members)
    found += port_problems(settings)
    found += release_problems(settings)
    found += bootstrap_problems(settings, len(members))
    found += flag_problems(str(settings.get("version") or ""), settings.get("extra_flags") or ())
    mine = next((member for member in members if member["host"] == host), None)
    if members and mine is None:
        found.append(
            f"{host} is not in the group {settings['group']}: run the role only on members, or name"
            " their group in etcd_group"
        )
    if mine and addresses and _usable(mine["address"]) and mine["address"] not in addresses:
        found.append(
            f"etcd_address of {host} is {mine['address']}, which is none of the host's addresses"
            f" ({', '.join(sorted(addresses))})"
        )
    quorum = len(members) // 2 + 1
    if int(settings["forks"]) < quorum:
        found.append(
            f"forks is {settings['forks']}: {quorum} of {len(members)} members must start at the same"
            " time, so run with --forks of at least that"
        )
    if not 4 <= int(settings["bcrypt_cost"]) <= 31:
        found.append(f"etcd_bcrypt_cost is {settings['bcrypt_cost']}: give 4 to 31")
    if int(settings["election_timeout"]) < 5 * int(settings["heartbeat_interval"]):
        found.append(
            f"etcd_election_timeout is {settings['election_timeout']}: give at least five times"
            f" etcd_heartbeat_interval ({settings['heartbeat_interval']})"
        )
    return found


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"etcd_problems": etcd_problems}
