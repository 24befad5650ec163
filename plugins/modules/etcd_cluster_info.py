#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: etcd_cluster_info
short_description: Tell whether an etcd cluster is whole and healthy, and what a host knows of it
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Asks for the member list and every member for its state, and judges both. Healthy means that
    every member of the list has started, answers under its own id, follows one and the same leader
    and reports no alarm, and that all of O(members) are in the list.
  - Returns what it found; with O(wait=true) it waits for a healthy cluster and fails when there is
    none in time. That makes it a gate before and after any step that stops a member.
  - Also reads whether the host has the data of a member, for the decision how a member is started.
options:
  members:
    description: Names of members that must be in the list.
    type: list
    elements: str
    default: []
  others:
    description:
      - Whether further members of the list have to be healthy, too.
      - V(false) suits a step that is about O(members) alone and stops none.
    type: bool
    default: true
  wait:
    description: Whether to wait for O(timeout) seconds until the cluster is healthy, and fail otherwise.
    type: bool
    default: false
  data_dir:
    description: Data directory of the member on this host. Without it the host is not looked at.
    type: path
  bootstrap_file:
    description:
      - File that exists from the decision to start a new member until the member has joined.
      - Its variable C(FLOTILLA_ETCD_BOOTSTRAP) holds the options that the member is started with.
    type: path
extends_documentation_fragment:
  - flotilla.cluster._etcd
  - flotilla.cluster._attributes
  - flotilla.cluster._attributes.info_module
  - flotilla.cluster._attributes.actiongroup_etcd
seealso:
  - module: flotilla.cluster.etcd_kv
"""

EXAMPLES = r"""
---
- name: Wait for three healthy members
  flotilla.cluster.etcd_cluster_info:
    endpoints: ["https://192.0.2.11:2379", "https://192.0.2.12:2379", "https://192.0.2.13:2379"]
    members: [core-01, core-02, core-03]
    wait: true
    timeout: 30
"""

RETURN = r"""
healthy:
  description: Whether the cluster is whole and healthy.
  returned: always
  type: bool
  sample: true
problems:
  description: Why it is not, one sentence each.
  returned: always
  type: list
  elements: str
  sample: [core-02 does not answer]
members:
  description: The member list, by name; empty when no member gave it.
  returned: always
  type: list
  elements: dict
  sample:
    - id: 8e9e05c52164694d
      name: core-01
      peer_urls: ["https://192.0.2.11:2380"]
      client_urls: ["https://192.0.2.11:2379"]
      joined: true
      learner: false
      leader: true
      version: 3.5.33
      term: 4
      revision: 1042
      raft_index: 2210
      db_size: 65536
      db_size_in_use: 32768
      errors: []
  contains:
    id:
      description: Member id in hexadecimal, as C(etcdctl) shows it.
      type: str
    name:
      description: Name; "" for one that was added and has not joined yet.
      type: str
    peer_urls:
      description: Where other members reach it.
      type: list
      elements: str
    client_urls:
      description: Where clients reach it.
      type: list
      elements: str
    joined:
      description: Whether it has ever joined, which is when it says where clients reach it.
      type: bool
    learner:
      description: Whether it has no vote yet.
      type: bool
    leader:
      description: Whether it leads.
      type: bool
    version:
      description: Version of its etcd, "" when it does not answer.
      type: str
    term:
      description: The election that it goes by, V(0) when it does not answer; so with all numbers below.
      type: int
    revision:
      description: Revision of its store.
      type: int
    raft_index:
      description: Newest log entry that it has applied.
      type: int
    db_size:
      description: Bytes of its database.
      type: int
    db_size_in_use:
      description: Bytes of its database that hold something.
      type: int
    errors:
      description: Alarms and other errors that it reports.
      type: list
      elements: str
local:
  description: What this host has.
  returned: when O(data_dir) is given
  type: dict
  sample:
    data: true
    bootstrap: ""
    snapshot_index: 100001
  contains:
    data:
      description: Whether O(data_dir) holds the data of a member.
      type: bool
    bootstrap:
      description: The start options of a member that has not joined yet, "" when there is none.
      type: str
    snapshot_index:
      description: Log entry up to which the newest raft snapshot on the disk goes, V(0) when there is none.
      type: int
"""

import os
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flotilla.cluster.plugins.module_utils import _http
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import (
    ETCD_ARGUMENTS,
    ETCD_REQUIRED_TOGETHER,
    Status,
    etcd_client,
    member_opener,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_cluster import (
    View,
    look,
    problems_of,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_local import newest_snapshot, parse_bootstrap

PAUSE = 0.3


def read_local(data_dir: str, bootstrap_file: str | None) -> dict[str, t.Any]:
    """Return what the host has of a member."""
    bootstrap = ""
    if bootstrap_file:
        try:
            with open(bootstrap_file, encoding="utf-8") as handle:
                bootstrap = parse_bootstrap(handle.read())
        except FileNotFoundError:
            bootstrap = ""
    return {
        "data": os.path.isdir(os.path.join(data_dir, "member")),
        "bootstrap": bootstrap,
        "snapshot_index": newest_snapshot(os.path.join(data_dir, "member", "snap")),
    }


def describe(view: View | None) -> list[dict[str, t.Any]]:
    """Return the members as RETURN describes them."""
    if view is None:
        return []
    described = []
    for member in view.members:
        status = view.statuses.get(member.id)
        answered = status if isinstance(status, Status) else None
        described.append(
            {
                "id": f"{member.id:x}",
                "name": member.name,
                "peer_urls": list(member.peer_urls),
                "client_urls": list(member.client_urls),
                "joined": bool(member.client_urls),
                "learner": member.is_learner,
                "leader": bool(answered and answered.leader == member.id),
                "version": answered.version if answered else "",
                "term": answered.raft_term if answered else 0,
                "revision": answered.revision if answered else 0,
                "raft_index": answered.raft_applied_index if answered else 0,
                "db_size": answered.db_size if answered else 0,
                "db_size_in_use": answered.db_size_in_use if answered else 0,
                "errors": list(answered.errors) if answered else [],
            }
        )
    return described


def run(params: dict[str, t.Any]) -> dict[str, t.Any]:
    """Look at the cluster until it is healthy or the time is up; raises ClusterError for bad options."""
    deadline = time.monotonic() + params["timeout"]

    while True:
        client = etcd_client({**params, "timeout": max(0.1, deadline - time.monotonic())})
        try:
            view, reason = look(client, member_opener(params))
        finally:
            client.close()
        problems = [reason]
        if view is not None:
            problems = problems_of(view, params["members"], others=params["others"])
        if not problems or not params["wait"] or time.monotonic() + PAUSE > deadline:
            return {"healthy": not problems, "problems": problems, "members": describe(view)}
        time.sleep(PAUSE)


def main() -> None:
    """Read the parameters, look, and fail only where the caller waits for health."""
    module = AnsibleModule(
        argument_spec={
            **ETCD_ARGUMENTS,
            "members": {"type": "list", "elements": "str", "default": []},
            "others": {"type": "bool", "default": True},
            "wait": {"type": "bool", "default": False},
            "data_dir": {"type": "path"},
            "bootstrap_file": {"type": "path"},
        },
        required_together=ETCD_REQUIRED_TOGETHER,
        supports_check_mode=True,
    )
    params = module.params
    result: dict[str, t.Any] = {"changed": False}
    if params["data_dir"]:
        try:
            result["local"] = read_local(params["data_dir"], params["bootstrap_file"])
        except OSError as exc:
            module.fail_json(msg=f"cannot read what this host has of a member: {exc}")
    if _http.REQUESTS_ERROR is not None and module.check_mode:
        reason = "python3-requests is not installed on this host yet"
        module.exit_json(healthy=False, problems=[reason], members=[], **result)
    _http.require_requests(module)
    try:
        result.update(run(params))
    except _http.ClusterError as exc:
        module.fail_json(msg=str(exc), **result)
    if params["wait"] and not result["healthy"]:
        seen = "; ".join(result["problems"])
        module.fail_json(msg=f"the etcd cluster is not healthy after {params['timeout']:g} s: {seen}", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
