# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: etcd_upgrade_plan
short_description: Decide whether and how the members of etcd go to another version
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - etcd goes up one minor version at a time, from certain patch versions on, and never down once all members run a
    minor version. This filter says what stands in the way, and whether members have to write a raft snapshot first.
options:
  _input:
    description: The members, as M(flotilla.cluster.etcd_cluster_info) returns them.
    type: list
    elements: dict
    required: true
  target:
    description: The version to go to.
    type: str
    required: true
"""

EXAMPLES = r"""
---
- name: Refuse a step that etcd does not take
  ansible.builtin.fail:
    msg: "{{ plan.problems | join('; ') }}"
  when: plan.problems | length > 0
  vars:
    plan: "{{ seen.members | flotilla.cluster.etcd_upgrade_plan('3.6.14') }}"
"""

RETURN = r"""
_value:
  description: The decision.
  type: dict
  sample: {problems: [], flush: true, needed: true}
  contains:
    problems:
      description: Why the members cannot go there, one sentence each.
      type: list
      elements: str
    flush:
      description:
        - Whether all members have to write a raft snapshot on their present version first, because the target cannot
          read what may still be in their logs.
      type: bool
    needed:
      description: Whether any member runs another version.
      type: bool
"""

import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_versions import (
    flush_needed,
    parse,
    upgrade_problems,
)


def etcd_upgrade_plan(members: t.Sequence[t.Mapping[str, t.Any]], target: str) -> dict[str, t.Any]:
    """Return the decision that RETURN describes."""
    present = {str(member["name"] or member["id"]): str(member["version"]) for member in members}
    problems = upgrade_problems(present, target)
    return {
        "problems": problems,
        "flush": not problems and flush_needed(present.values(), target),
        "needed": any(parse(version) != parse(target) for version in present.values()),
    }


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"etcd_upgrade_plan": etcd_upgrade_plan}
