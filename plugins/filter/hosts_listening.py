# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: hosts_listening
short_description: Names of the hosts on which a unit listens on a port
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Reads what M(flotilla.cluster.host_info) found on the hosts in the same play.
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
  unit:
    description: Name of a systemd unit.
    type: str
    required: true
  port:
    description: TCP port.
    type: int
    required: true
"""

EXAMPLES = r"""
---
- name: Show where etcd runs
  ansible.builtin.debug:
    msg: "{{ hostvars | flotilla.cluster.hosts_listening(groups['etcd'], 'etcd.service', 2380) }}"
"""

RETURN = r"""
_value:
  description: Those of O(hosts), in their order.
  type: list
  elements: str
  sample: [core-01]
"""

import typing as t


def hosts_listening(
    hostvars: t.Mapping[str, t.Any], hosts: t.Iterable[str], unit: str, port: int | str
) -> list[str]:
    """Return the hosts on which the unit listens on the port; a host not looked at is none."""
    found = []
    for host in hosts:
        seen = hostvars[host].get("__flotilla_host") or {}
        if any(
            entry["unit"] == unit and entry["port"] == int(port) and entry["proto"] == "tcp"
            for entry in seen.get("listening", [])
        ):
            found.append(host)
    return found


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"hosts_listening": hosts_listening}
