# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: etcd_idle
short_description: What hosts have of etcd members when none of them can run
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Returns for each host what M(flotilla.cluster.etcd_cluster_info) would return there, made from what
    M(flotilla.cluster.host_info) saw already. So nobody has to be asked for a cluster that cannot be there.
  - Returns nothing as soon as a member may run or was not looked at.
options:
  _input:
    description: Names of all hosts of the etcd group.
    type: list
    elements: str
    required: true
  hostvars:
    description: Variables of all hosts.
    type: dict
    required: true
  idle:
    description: Hosts of the play on which etcd did not listen.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
---
- name: Show what there is
  ansible.builtin.debug:
    msg: "{{ groups['etcd'] | flotilla.cluster.etcd_idle(hostvars, idle) }}"
"""

RETURN = r"""
_value:
  description: For each host an empty list of members, and what is on its disk.
  type: dict
  sample:
    core-01:
      members: []
      local:
        data: false
        bootstrap: ""
        log: false
"""

import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_local import parse_bootstrap


def etcd_idle(
    group: t.Iterable[str], hostvars: t.Mapping[str, t.Any], idle: t.Iterable[str]
) -> dict[str, dict[str, t.Any]]:
    """Return what RETURN describes."""
    known = set(idle)
    found = {}
    for host in group:
        paths = (hostvars[host].get("__flotilla_host") or {}).get("paths", {}) if host in known else {}
        if not {"etcd_data", "etcd_bootstrap"} <= set(paths):
            return {}
        local = {
            "data": paths["etcd_data"]["kind"] == "directory",
            "bootstrap": parse_bootstrap(paths["etcd_bootstrap"]["text"]),
            "log": paths.get("etcd_log", paths["etcd_data"])["kind"] == "directory",
        }
        found[host] = {"members": [], "local": local}
    return found


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"etcd_idle": etcd_idle}
