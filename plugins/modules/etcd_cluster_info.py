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
  cluster:
    description: Whether to ask the cluster at all. V(false) looks at this host only.
    type: bool
    default: true
  details:
    description:
      - Whether to ask each member for its quota and the certificate that it serves, and the cluster for its alarms.
      - V(true) when O(limits) is given.
    type: bool
    default: false
  hash:
    description:
      - Whether to ask each member for the hash of its data at one revision, which is the same in all members whose data
        are. It takes the longer the more keys there are. etcd 3.4 does not tell it.
    type: bool
    default: false
  limits:
    description: What must not be exceeded. What is, is told in RV(findings), beside RV(problems).
    type: dict
    suboptions:
      certificate_days:
        description: Fewest days that a certificate may have left.
        type: int
        default: 21
      authority_days:
        description: Fewest days that an authority among O(certificates) may have left.
        type: int
        default: 90
      quota:
        description: Greatest share of its quota that a database may have.
        type: float
        default: 0.8
      disk:
        description: Greatest share of its disk that may be in use, where O(data_dir) lies.
        type: float
        default: 0.85
  certificates:
    description: PEM files with certificates on this host, to look at their ends.
    type: list
    elements: path
    default: []
  data_dir:
    description: Data directory of the member on this host. Without it the host's data are not looked at.
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
requirements:
  - cryptography on the host (C(python3-cryptography) of the distribution), for O(certificates)
seealso:
  - module: flotilla.cluster.etcd_maintenance
"""

EXAMPLES = r"""
---
- name: Wait for three healthy members
  flotilla.cluster.etcd_cluster_info:
    endpoints: ["https://192.0.2.11:2379", "https://192.0.2.12:2379", "https://192.0.2.13:2379"]
    members: [core-01, core-02, core-03]
    wait: true
    timeout: 30

- name: Find out what the members will run out of
  flotilla.cluster.etcd_cluster_info:
    limits: {certificate_days: 21, quota: 0.8, disk: 0.85}
    hash: true
    data_dir: /var/lib/etcd
    certificates: [/etc/flotilla/pki/etcd-peer.crt, /etc/flotilla/pki/etcd-peer-ca.crt]
  register: etcd_found
  failed_when: etcd_found.findings | length > 0
"""

RETURN = r"""
healthy:
  description: Whether the cluster is whole and healthy; V(true) when it was not asked.
  returned: always
  type: bool
  sample: true
problems:
  description: Why it is not, one sentence each.
  returned: always
  type: list
  elements: str
  sample: [core-02 does not answer]
findings:
  description: RV(problems), and what exceeds O(limits) or differs between members, one sentence each.
  returned: when O(limits) is given
  type: list
  elements: str
  sample:
    - "core-01: its database has 1.7 GiB, 85% of its quota of 2.0 GiB, and the limit is 80%: defragment it, as only 0.3
      GiB are in use"
leader:
  description: Name of the member that leads, "" when there is none.
  returned: when the cluster was asked
  type: str
  sample: core-01
alarms:
  description: Alarms that are on.
  returned: with O(details) or O(limits)
  type: list
  elements: dict
  contains:
    name:
      description: Name of the member that raised it.
      type: str
    alarm:
      description: V(NOSPACE) or V(CORRUPT).
      type: str
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
      quota: 2147483648
      certificate_until: "2027-11-22T08:15:00Z"
      hash: 9ad2f1c4
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
    quota:
      description: Bytes that its database may have; with O(details) or O(limits), and V(0) when it does not tell.
      type: int
    certificate_until:
      description: When the certificate that it serves ends; with O(details) or O(limits), and "" when it shows none.
      type: str
    hash:
      description: Hash of its data at a revision that all members have; with O(hash), and "" when it does not tell.
      type: str
local:
  description: What this host has.
  returned: when O(data_dir) or O(certificates) is given
  type: dict
  sample:
    data: true
    bootstrap: ""
    log: true
    snapshot_index: 100001
    disk: {size: 52521566208, free: 31138512896}
    certificates:
      - {path: /etc/flotilla/pki/etcd-peer.crt, until: "2027-11-22T08:15:00Z", problem: ""}
  contains:
    disk:
      description: Bytes of the disk that O(data_dir) lies on, and how many are free; null when it is not there.
      type: dict
    certificates:
      description: Each of O(certificates), with its end, of several in one file the first, or why it cannot be read.
      type: list
      elements: dict
    data:
      description: Whether O(data_dir) holds the data of a member.
      type: bool
    bootstrap:
      description: The start options of a member that has not joined yet, "" when there is none.
      type: str
    log:
      description: Whether O(data_dir) holds a log, which a member makes when it has joined.
      type: bool
    snapshot_index:
      description: Log entry up to which the newest raft snapshot on the disk goes, V(0) when there is none.
      type: int
"""

import datetime
import os
import time
import typing as t
from contextlib import closing

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flotilla.cluster.plugins.module_utils import _etcd_check, _http, _http_session
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import ETCD_ARGUMENTS, ETCD_REQUIRED_TOGETHER
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_cluster import (
    EtcdClusterClient,
    Status,
    View,
    look,
    member_opener,
    problems_of,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_local import newest_snapshot, parse_bootstrap

PAUSE = 0.3


def stamp(moment: datetime.datetime | None) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}" if moment else ""


def read_data(data_dir: str, bootstrap_file: str | None) -> dict[str, t.Any]:
    """Return what the host has of a member."""
    bootstrap = ""
    if bootstrap_file:
        try:
            with open(bootstrap_file, encoding="utf-8") as handle:
                bootstrap = parse_bootstrap(handle.read())
        except FileNotFoundError:
            bootstrap = ""
    disk = _etcd_check.read_disk(data_dir)
    return {
        "data": os.path.isdir(os.path.join(data_dir, "member")),
        "bootstrap": bootstrap,
        "log": os.path.isdir(os.path.join(data_dir, "member", "wal")),
        "snapshot_index": newest_snapshot(os.path.join(data_dir, "member", "snap")),
        "disk": {"size": disk.size, "free": disk.free} if disk else None,
    }


def read_local(params: dict[str, t.Any], limits: _etcd_check.Limits | None) -> dict[str, t.Any]:
    """Return what this host has, and what of it exceeds the limits; OSError, ClusterError."""
    result: dict[str, t.Any] = {"findings": []} if limits else {}
    local: dict[str, t.Any] = {}
    if params["data_dir"]:
        local.update(read_data(params["data_dir"], params["bootstrap_file"]))
        if limits:
            result["findings"] += _etcd_check.disk_findings(_etcd_check.read_disk(params["data_dir"]), limits)
    if params["certificates"]:
        found = _etcd_check.read_certificates(params["certificates"])
        local["certificates"] = [{"path": one.name, "until": stamp(one.until), "problem": one.problem} for one in found]
        if limits:
            result["findings"] += _etcd_check.certificate_findings(found, limits, now())
    return {**result, "local": local} if local else result


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def describe(view: View | None, details: t.Mapping[int, _etcd_check.Detail]) -> list[dict[str, t.Any]]:
    """Return the members as RETURN describes them."""
    if view is None:
        return []
    described = []
    for member in view.members:
        status = view.statuses.get(member.id)
        answered = status if isinstance(status, Status) else None
        detail = details.get(member.id, _etcd_check.Detail())
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
                "quota": detail.quota,
                "certificate_until": stamp(detail.certificate.until) if detail.certificate else "",
                "hash": f"{detail.hash[0]:08x}" if detail.hash else "",
            }
        )
    return described


def run(params: dict[str, t.Any], limits: _etcd_check.Limits | None) -> dict[str, t.Any]:
    """Look at the cluster until it is healthy or the time is up; raises ClusterError for bad options."""
    deadline = time.monotonic() + params["timeout"]

    while True:
        client = EtcdClusterClient.of({**params, "timeout": max(0.1, deadline - time.monotonic())})
        try:
            view, reason = look(client, member_opener(params))
        finally:
            client.close()
        problems = [reason]
        if view is not None:
            problems = problems_of(view, params["members"], others=params["others"])
        if not problems or not params["wait"] or time.monotonic() + PAUSE > deadline:
            return {"healthy": not problems, "problems": problems, **more(view, problems, params, limits)}
        time.sleep(PAUSE)


def more(
    view: View | None, problems: list[str], params: dict[str, t.Any], limits: _etcd_check.Limits | None
) -> dict[str, t.Any]:
    """Return the members, and what was asked for beside their health."""
    result: dict[str, t.Any] = {}
    details: dict[int, _etcd_check.Detail] = {}
    closer = bool(params["details"] or limits)
    if view is not None and (closer or params["hash"]):
        tls = _http.Tls.of(params)
        details = _etcd_check.look_closer(
            view, member_opener(params), tls, seconds=params["request_timeout"], hashes=params["hash"]
        )
    if closer:
        result["alarms"] = alarms(view, params)
    if limits:
        result["findings"] = problems + (_etcd_check.member_findings(view, details, limits, now()) if view else [])
    members = describe(view, details)
    leader = next((member["name"] for member in members if member["leader"]), "")
    return {**result, "members": members, "leader": leader}


def alarms(view: View | None, params: dict[str, t.Any]) -> list[dict[str, str]]:
    """Return the alarms; none when nobody tells."""
    if view is None:
        return []
    names = {member.id: member.name for member in view.members}
    try:
        with closing(EtcdClusterClient.of(params)) as client:
            found = client.alarms()
    except _http.ClusterError:
        # what keeps members from answering is among the problems
        return []
    return [{"name": names.get(one.member_id, f"{one.member_id:x}"), "alarm": one.kind} for one in found]


LIMITS: dict[str, dict[str, t.Any]] = {
    "certificate_days": {"type": "int", "default": 21},
    "authority_days": {"type": "int", "default": 90},
    "quota": {"type": "float", "default": 0.8},
    "disk": {"type": "float", "default": 0.85},
}


def main() -> None:
    """Read the parameters, look, and fail only where the caller waits for health."""
    module = AnsibleModule(
        argument_spec={
            **ETCD_ARGUMENTS,
            "members": {"type": "list", "elements": "str", "default": []},
            "others": {"type": "bool", "default": True},
            "wait": {"type": "bool", "default": False},
            "cluster": {"type": "bool", "default": True},
            "details": {"type": "bool", "default": False},
            "hash": {"type": "bool", "default": False},
            "limits": {"type": "dict", "options": LIMITS},
            "certificates": {"type": "list", "elements": "path", "default": []},
            "data_dir": {"type": "path"},
            "bootstrap_file": {"type": "path"},
        },
        required_together=ETCD_REQUIRED_TOGETHER,
        supports_check_mode=True,
    )
    params = module.params
    result: dict[str, t.Any] = {"changed": False}
    try:
        limits = _etcd_check.parse_limits(params["limits"]) if params["limits"] else None
        result.update(read_local(params, limits))
    except OSError as exc:
        module.fail_json(msg=f"cannot read what this host has of a member: {exc}")
    except _http.ClusterError as exc:
        module.fail_json(msg=str(exc))
    if not params["cluster"]:
        module.exit_json(healthy=True, problems=[], members=[], **result)
    if _http_session.REQUESTS_ERROR is not None and module.check_mode:
        reason = "python3-requests is not installed on this host yet"
        module.exit_json(healthy=False, problems=[reason], members=[], **result)
    _http.require_requests(module)
    try:
        found = run(params, limits)
        if limits:
            found["findings"] += result["findings"]
        result.update(found)
    except _http.ClusterError as exc:
        module.fail_json(msg=str(exc), **result)
    if params["wait"] and not result["healthy"]:
        seen = "; ".join(result["problems"])
        module.fail_json(msg=f"the etcd cluster is not healthy after {params['timeout']:g} s: {seen}", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
