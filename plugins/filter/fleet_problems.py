# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: fleet_problems
short_description: What in the values of role fleet cannot work
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Judges the values of role P(flotilla.cluster.fleet#role), before anything is changed. Nothing is asked of a host.
options:
  _input:
    description: The value of O(flotilla.cluster.fleet#role:main:fleet_etcd_servers).
    type: list
    elements: str
    required: true
  metadata:
    description: The value of O(flotilla.cluster.fleet#role:main:fleet_metadata).
    type: dict
    required: true
  agent_ttl:
    description: The value of O(flotilla.cluster.fleet#role:main:fleet_agent_ttl).
    type: str
    required: true
  listen:
    description: The value of O(flotilla.cluster.fleet#role:main:fleet_listen).
    type: str
    required: true
  host:
    description: Name of the host, for messages.
    type: str
    required: true
  public_ip:
    description: The value of O(flotilla.cluster.fleet#role:main:fleet_public_ip).
    type: str
    required: true
  addresses:
    description: Addresses of the host. An empty list stands for those that are not known.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
---
- name: Refuse an address that is not the host's
  ansible.builtin.assert:
    that: >-
      fleet_etcd_servers | flotilla.cluster.fleet_problems(metadata={'zone': 'b'}, agent_ttl='30s', listen='',
      host=inventory_hostname, public_ip='192.0.2.11', addresses=host.addresses) == []
"""

RETURN = r"""
_value:
  description: One sentence for each problem.
  type: list
  elements: str
  sample:
    - 'fleet_agent_ttl is "soon": give a duration such as 30s or 1m30s'
"""

import re
import typing as t

SERVER = re.compile(r"https?://[^/ ]+/?$")
DURATION = re.compile(r"([0-9]+(\.[0-9]+)?(ms|s|m|h))+$")
LISTEN = re.compile(r"(\[[0-9a-fA-F:]+\]|[0-9.]+):[0-9]+$")
# fleet.conf and the HTTP API separate with these.
NO_WORD = re.compile(r"[,=\s]|^$")


def server_problems(servers: t.Sequence[str]) -> t.Iterator[str]:
    """Members of etcd that cannot be asked."""
    if not servers:
        yield "fleet_etcd_servers is empty: name hosts in the etcd group or give the URLs of etcd"
    if any(server.startswith("https://:") for server in servers):
        yield "the address of an etcd member is not known: set etcd_address for each of them"
    for server in servers:
        if not SERVER.match(server):
            yield f'fleet_etcd_servers holds "{server}": give URLs such as https://192.0.2.11:2379'


def metadata_problems(metadata: t.Mapping[str, t.Any]) -> t.Iterator[str]:
    """Keys and values that the configuration has no form for."""
    for word in map(str, [*metadata.keys(), *metadata.values()]):
        if NO_WORD.search(word):
            yield f'fleet_metadata holds "{word}": keys and values are words without space, comma and "="'


def fleet_problems(
    servers: t.Sequence[str],
    *,
    metadata: t.Mapping[str, t.Any],
    agent_ttl: str,
    listen: str,
    host: str,
    public_ip: str,
    addresses: t.Sequence[str],
) -> list[str]:
    """Return what RETURN describes."""
    found = [*server_problems(servers), *metadata_problems(metadata)]
    if not DURATION.match(agent_ttl):
        found.append(f'fleet_agent_ttl is "{agent_ttl}": give a duration such as 30s or 1m30s')
    if listen and not LISTEN.match(listen):
        found.append(f'fleet_listen is "{listen}": give an address and a port such as 192.0.2.11:49153')
    if public_ip and addresses and public_ip not in addresses:
        known = ", ".join(addresses)
        found.append(f"fleet_public_ip of {host} is {public_ip}, which is none of the host's addresses ({known})")
    return found


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"fleet_problems": fleet_problems}
