# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: union_of_groups
short_description: Pattern for the hosts that are in any of several groups
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Returns what a play takes as C(hosts).
  - A play's C(hosts) is worked out in Ansible's main process, which then has found all filters of this collection. Each
    task runs in a process of its own, and would look for them again.
options:
  _input:
    description: Names of groups.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
---
- name: Look at all hosts of the cluster
  hosts: "{{ ['etcd', 'machines'] | flotilla.cluster.union_of_groups }}"
  tasks:
    - name: Look
      flotilla.cluster.host_info:
"""

RETURN = r"""
_value:
  description: The pattern.
  type: str
  sample: etcd:machines
"""

import typing as t


def union_of_groups(names: t.Iterable[str]) -> str:
    """Return the pattern; a group that is named twice stands in it once."""
    return ":".join(dict.fromkeys(str(name) for name in names))


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"union_of_groups": union_of_groups}
