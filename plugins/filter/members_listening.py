# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: members_listening
short_description: Names of the hosts on which a unit listens at the member's address
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Reads what M(flotilla.cluster.host_info) found on the hosts in the same play.
    A unit of the right name that listens elsewhere, such as only on the loopback address, does not count.
options:
  _input:
    description: Members, from P(flotilla.cluster.cluster_members#filter).
    type: list
    elements: dict
    required: true
  hostvars:
    description: The variables of all hosts.
    type: dict
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
    msg: "{{ members | flotilla.cluster.members_listening(hostvars, 'etcd.service', 2380) }}"
"""

RETURN = r"""
_value:
  description: Names in the inventory, in the members' order.
  type: list
  elements: str
  sample: [core-01]
"""

import typing as t


def members_listening(
    members: t.Iterable[t.Mapping[str, str]],
    hostvars: t.Mapping[str, t.Any],
    unit: str,
    port: int | str,
) -> list[str]:
    """Return the hosts on which the unit listens; a host that was not looked at is none."""
    found = []
    for member in members:
        seen = hostvars[member["host"]].get("__flotilla_host") or {}
        wanted = {"unit": unit, "port": int(port), "proto": "tcp", "address": member["address"]}
        if any(all(entry[key] == value for key, value in wanted.items()) for entry in seen.get("listening", [])):
            found.append(member["host"])
    return found


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"members_listening": members_listening}
