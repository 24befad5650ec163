# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: etcd_origin
short_description: Say where the programs of the members of etcd come from
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Reads what M(flotilla.cluster.host_info) found on the hosts in the same play.
    One host with a release is enough, as a play that was killed may not have reached the others.
options:
  _input:
    description: Names of the members' hosts.
    type: list
    elements: str
    required: true
  hostvars:
    description: The variables of all hosts.
    type: dict
    required: true
"""

EXAMPLES = r"""
---
- name: Show where etcd comes from
  ansible.builtin.debug:
    msg: "{{ groups['etcd'] | flotilla.cluster.etcd_origin(hostvars) }}"
"""

RETURN = r"""
_value:
  description: V(release), V(distribution), or "" when none of the hosts has an etcd, or none was looked at.
  type: str
  sample: release
"""

import typing as t


def etcd_origin(hosts: t.Iterable[str], hostvars: t.Mapping[str, t.Any]) -> str:
    """Return the origin; hosts that were not looked at tell nothing."""
    seen = [hostvars[host].get("__flotilla_host") or {} for host in hosts]
    if any(host.get("paths", {}).get("etcd_release", {}).get("target") for host in seen):
        return "release"
    return "distribution" if any("etcd-server" in host.get("packages", {}) for host in seen) else ""


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"etcd_origin": etcd_origin}
