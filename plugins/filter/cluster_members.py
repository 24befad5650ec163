# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: cluster_members
short_description: Names and addresses of hosts, by the rule that all roles follow
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Says where each of a list of hosts is reached by the other hosts.
    An address variable of the host comes first, then C(ansible_host) or the host's name in the
    inventory when that is an IP address, then the default address that
    M(flotilla.cluster.host_info) found on the host in the same play.
  - A host whose address is not known gets an empty one; the caller says what to do about it.
options:
  _input:
    description: The variables of all hosts, C(hostvars).
    type: dict
    required: true
  hosts:
    description: Names of hosts in the inventory.
    type: list
    elements: str
    required: true
  address_variable:
    description: Name of the variable that holds a host's address.
    type: str
    required: true
  name_variable:
    description: Name of the variable that holds a host's name in the cluster.
    type: str
"""

EXAMPLES = r"""
---
- name: Show the members
  ansible.builtin.debug:
    msg: "{{ hostvars | flotilla.cluster.cluster_members(groups['etcd'], 'etcd_address') }}"
"""

RETURN = r"""
_value:
  description: One record a host, in the order given.
  type: list
  elements: dict
  sample:
    - host: core-01
      name: core-01
      address: 192.0.2.11
      url_host: 192.0.2.11
  contains:
    host:
      description: Name in the inventory.
      type: str
    name:
      description: Name in the cluster.
      type: str
    address:
      description: IP address, "" when it is not known.
      type: str
    url_host:
      description: The address as it stands in a URL, an IPv6 one in brackets.
      type: str
"""

import ipaddress
import typing as t


def is_address(text: t.Any) -> bool:
    """Tell whether a value is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(str(text))
    except ValueError:
        return False
    return True


def _value(variables: t.Mapping[str, t.Any], name: str) -> t.Any:
    """Return a variable of a host, None when it is not set."""
    return variables.get(name)


def address_of(host: str, variables: t.Mapping[str, t.Any], address_variable: str) -> str:
    """Return where other hosts reach this one, "" when that is not known."""
    explicit = _value(variables, address_variable)
    if explicit:
        return str(explicit)
    candidate = _value(variables, "ansible_host") or host
    if is_address(candidate):
        return str(candidate)
    seen = _value(variables, "__flotilla_host")
    if isinstance(seen, t.Mapping):
        return str(seen.get("default_address") or "")
    return ""


def cluster_members(
    hostvars: t.Mapping[str, t.Any],
    hosts: t.Iterable[str],
    address_variable: str,
    name_variable: str | None = None,
) -> list[dict[str, str]]:
    """Return the records that RETURN describes."""
    members = []
    for host in hosts:
        variables = hostvars[host]
        address = address_of(host, variables, address_variable)
        name = _value(variables, name_variable) if name_variable else None
        members.append(
            {
                "host": str(host),
                "name": str(name or host),
                "address": address,
                "url_host": f"[{address}]" if ":" in address else address,
            }
        )
    return members


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"cluster_members": cluster_members}
