# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: restarts_due
short_description: Hosts on which a unit still has to restart
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Returns those of the hosts on which M(flotilla.cluster.host_service) left a restart to a later task.
  - The result of that module is expected as C(__flotilla_services); a host without one has nothing due.
options:
  _input:
    description: Names of hosts.
    type: list
    elements: str
    required: true
  hostvars:
    description: Variables of all hosts.
    type: dict
    required: true
  unit:
    description: Name of a systemd unit.
    type: str
    required: true
"""

EXAMPLES = r"""
---
- name: Show what has to restart
  ansible.builtin.debug:
    msg: "{{ groups['etcd'] | flotilla.cluster.restarts_due(hostvars, 'etcd.service') }}"
"""

RETURN = r"""
_value:
  description: Names of hosts, in the order given.
  type: list
  elements: str
  sample: [core-01]
"""

import typing as t


def restarts_due(hosts: t.Iterable[str], hostvars: t.Mapping[str, t.Any], unit: str) -> list[str]:
    """Return what RETURN describes."""
    found = []
    for host in hosts:
        services = (hostvars[host].get("__flotilla_services") or {}).get("services") or {}
        if (services.get(unit) or {}).get("restart_pending"):
            found.append(host)
    return found


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"restarts_due": restarts_due}
