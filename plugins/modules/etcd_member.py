#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_member
short_description: Add, promote and remove members of an etcd cluster, and move its leadership
version_added: 1.0.0
description:
  - Changes the member list of a cluster that runs. It starts and stops no etcd.
  - A member is added as a learner by default. It has no vote, so a wrong URL or a host that never starts cannot cost
    the cluster its majority. It is promoted when it has caught up.
  - What would leave the cluster without a majority of members that answer is refused, as is a second member while one
    that was added has not joined yet.
  - After a request without a clear answer the member list is read before anything is tried again.
author:
  - flotilla.cluster contributors (@flotilla-cluster)
extends_documentation_fragment:
  - flotilla.cluster._attributes
  - flotilla.cluster._attributes.actiongroup_etcd
  - flotilla.cluster._etcd
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  state:
    description:
      - V(present) adds a member with O(peer_urls) unless there is one, and gives one that is named by O(name) or O(id)
        these URLs.
      - V(promoted) gives a learner its vote. It waits O(timeout) seconds for it to catch up.
      - V(absent) removes a member. If it leads, another one leads first.
      - V(leader) makes a member lead; V(follower) makes another one lead if it does.
    type: str
    choices: [present, promoted, absent, leader, follower]
    default: present
  name:
    description:
      - Name of the member. A member that was added has none before it joins; name it by its O(peer_urls) until then.
    type: str
  id:
    description:
      - Id of the member in hexadecimal digits. It wins over O(name) and O(peer_urls).
    type: str
  peer_urls:
    description:
      - URLs at which the other members reach it. One in common is enough to find a member.
    type: list
    elements: str
    default: []
  learner:
    description:
      - Whether a new member is added without a vote.
    type: bool
    default: true
  force:
    description:
      - Skips this module's own checks for O(state=present) and O(state=absent). etcd has some left that it does itself.
    type: bool
    default: false
seealso:
  - module: flotilla.cluster.etcd_cluster_info
"""

EXAMPLES = r"""
---
- name: Add a member without a vote
  flotilla.cluster.etcd_member:
    peer_urls: ["https://192.0.2.14:2380"]

- name: Give it a vote when it has caught up
  flotilla.cluster.etcd_member:
    peer_urls: ["https://192.0.2.14:2380"]
    state: promoted

- name: Remove a member that is gone for good
  flotilla.cluster.etcd_member:
    name: core-02
    state: absent

- name: Have another member lead before this one is restarted
  flotilla.cluster.etcd_member:
    name: core-01
    state: follower
"""

RETURN = r"""
member:
  description: The member, V(null) when it is not there, as after O(state=absent) or before it is added in check mode.
  returned: success
  type: dict
  sample: {id: 8e9e05c52164694d, name: core-04, learner: true, peer_urls: ["https://192.0.2.14:2380"], client_urls: []}
  contains:
    id:
      description: Its id in hexadecimal digits.
      type: str
    name:
      description: Its name, "" before it has joined.
      type: str
    learner:
      description: Whether it has no vote.
      type: bool
    peer_urls:
      description: URLs for other members.
      type: list
      elements: str
    client_urls:
      description: URLs for clients, empty before it has joined.
      type: list
      elements: str
leader:
  description: Name of the member that leads, "" when there is none.
  returned: success
  type: str
  sample: core-01
members:
  description: Names of all members, "" for those that have not joined yet.
  returned: success
  type: list
  elements: str
  sample: [core-01, core-02, core-03]
"""

import typing as t
from contextlib import closing

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import ETCD_ARGUMENTS, ETCD_REQUIRED_TOGETHER
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_cluster import (
    EtcdClusterClient,
    Member,
    View,
    member_opener,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_member import (
    Members,
    describe,
    find,
    leader_of,
    parse_wanted,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http import answer


def _described(member: Member | None) -> dict[str, t.Any] | None:
    if member is None:
        return None
    return {
        "id": f"{member.id:x}",
        "name": member.name,
        "learner": member.is_learner,
        "peer_urls": list(member.peer_urls),
        "client_urls": list(member.client_urls),
    }


def _listing(view: View) -> str:
    leader = leader_of(view)
    lines = [describe(member) + (" leader" if leader == member else "") for member in view.members]
    return "".join(f"{line}\n" for line in lines)


def run(params: dict[str, t.Any], *, check: bool, diff: bool) -> dict[str, t.Any]:
    wanted = parse_wanted(params)
    with closing(EtcdClusterClient.of(params)) as client:
        before, after, changed = Members(client, member_opener(params), check=check).apply(wanted)
    leader = leader_of(after)
    result: dict[str, t.Any] = {
        "changed": changed,
        "member": _described(find(after.members, wanted)),
        "leader": leader.name if leader else "",
        "members": [member.name for member in after.members],
    }
    if diff:
        result["diff"] = {"before": _listing(before), "after": _listing(after)}
        if check and changed:
            result["diff"]["after"] += f"({wanted.shown}: {wanted.state})\n"
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ETCD_ARGUMENTS,
            "state": {
                "type": "str",
                "choices": ["present", "promoted", "absent", "leader", "follower"],
                "default": "present",
            },
            "name": {"type": "str"},
            "id": {"type": "str"},
            "peer_urls": {"type": "list", "elements": "str", "default": []},
            "learner": {"type": "bool", "default": True},
            "force": {"type": "bool", "default": False},
        },
        required_together=ETCD_REQUIRED_TOGETHER,
        supports_check_mode=True,
    )
    answer(module, lambda: run(module.params, check=module.check_mode, diff=module._diff))


if __name__ == "__main__":
    main()
