# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: etcd_bootstrap_plan
short_description: Decide how the etcd members of a play are started
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Decides from what the hosts have and what running members say, never from the inventory alone,
    which hosts start as members of a new cluster, which join one that runs, and which just start.
  - Whatever could form a second cluster or bring back a member without its data is a problem, not
    a decision.
options:
  _input:
    description: The members that the inventory names, from P(flotilla.cluster.cluster_members#filter).
    type: list
    elements: dict
    required: true
  seen:
    description:
      - What M(flotilla.cluster.etcd_cluster_info) returned on each host of the play, by the host's name.
      - Hosts that are not in the play have no entry.
    type: dict
    required: true
  peer_port:
    description: Port of the members' peer URLs.
    type: int
    default: 2380
  token:
    description: Name of the cluster, C(--initial-cluster-token).
    type: str
    required: true
  found_by:
    description:
      - Start options with which the members of a new cluster find each other, in place of a list of all of them.
      - A member that has begun with others and has not joined yet begins anew, because it can register only once.
    type: str
    default: ""
"""

EXAMPLES = r"""
---
- name: Decide
  ansible.builtin.set_fact:
    plan: "{{ members | flotilla.cluster.etcd_bootstrap_plan(seen, token='production') }}"
"""

RETURN = r"""
_value:
  description: The decision.
  type: dict
  sample:
    problems: []
    forms: true
    again: []
    start:
      core-01: "--initial-cluster=core-01=https://192.0.2.11:2380 --initial-cluster-state=new --initial-cluster-token=t"
  contains:
    problems:
      description: Why nothing may be started, one sentence each.
      type: list
      elements: str
    forms:
      description: Whether the hosts in RV(_value.start) form a new cluster.
      type: bool
    again:
      description: Hosts of RV(_value.start) that wait to form a cluster and have to be stopped and emptied first.
      type: list
      elements: str
    start:
      description: Start options of the hosts that have no data yet. Hosts with data are not in it.
      type: dict
"""

import typing as t

Member = t.Mapping[str, str]
Seen = t.Mapping[str, t.Any]


def peer_url(member: Member, peer_port: int) -> str:
    """Return the URL at which other members reach this one."""
    return f"https://{member['url_host']}:{peer_port}"


def options(members: t.Sequence[Member], peer_port: int, state: str, token: str) -> str:
    """Return the options that only a member without data needs."""
    cluster = ",".join(f"{member['name']}={peer_url(member, peer_port)}" for member in members)
    return f"--initial-cluster={cluster} --initial-cluster-state={state} --initial-cluster-token={token}"


def _add(member: Member, url: str) -> str:
    return f"'etcdctl member add {member['name']} --peer-urls={url}'"


def _join(
    running: t.Sequence[t.Mapping[str, t.Any]], member: Member, url: str
) -> tuple[t.Mapping[str, t.Any] | None, str]:
    """Return the entry of the member list under which a host may join, or why it may not."""
    entry = next((item for item in running if url in item["peer_urls"]), None)
    if entry is None:
        names = ", ".join(item["name"] or "?" for item in running)
        return None, (
            f"{member['host']} has no data and is not a member of the cluster that runs ({names}): on a"
            f" member run {_add(member, url)}, then run again"
        )
    if entry["joined"]:
        return None, (
            f"{member['host']} has lost its data: it is member {entry['id']} of the cluster that"
            f" runs, and would come back without what it agreed to; on another member run 'etcdctl"
            f" member remove {entry['id']}' and {_add(member, url)}, then run again"
        )
    return entry, ""


def _name(item: t.Mapping[str, t.Any], empty: t.Sequence[Member], peer_port: int) -> str:
    """Return the name of an entry of the member list; one that was added has none before it joins."""
    waiting = [member["name"] for member in empty if peer_url(member, peer_port) in item["peer_urls"]]
    return (waiting or [item["name"]])[0]


def _running(
    running: t.Sequence[t.Mapping[str, t.Any]],
    empty: t.Sequence[Member],
    peer_port: int,
    token: str,
) -> tuple[dict[str, str], list[str]]:
    """A cluster runs: hosts without data may only join under an entry that waits for them."""
    start: dict[str, str] = {}
    problems = []
    for member in empty:
        url = peer_url(member, peer_port)
        entry, problem = _join(running, member, url)
        if entry is None:
            problems.append(problem)
            continue
        # exactly the member list: etcd compares the two
        cluster = ",".join(
            f"{_name(item, empty, peer_port)}={address}" for item in running for address in item["peer_urls"]
        )
        start[member["host"]] = (
            f"--initial-cluster={cluster} --initial-cluster-state=existing --initial-cluster-token={token}"
        )
    return start, problems


def _new(
    members: t.Sequence[Member],
    empty: t.Sequence[Member],
    seen: t.Mapping[str, Seen],
    peer_port: int,
    token: str,
    found_by: str,
) -> tuple[dict[str, str], list[str]]:
    """No cluster answers: a new one may be formed only by all members, and only if none ever was."""
    problems = []
    wanted = found_by or options(members, peer_port, "new", token)
    absent = [member["host"] for member in members if member["host"] not in seen]
    if absent:
        problems.append(
            f"{', '.join(absent)} of the etcd group take no part in this play and no etcd answers"
            " there: a new cluster needs all its members, so run without --limit and without serial"
        )
    formed = [
        member["host"]
        for member in members
        if seen.get(member["host"], {}).get("local", {}).get("data") and not seen[member["host"]]["local"]["bootstrap"]
    ]
    if formed:
        problems.append(
            f"{', '.join(member['host'] for member in empty)} has no data, while"
            f" {', '.join(formed)} has the data of a cluster that does not answer: bring that cluster"
            " back first (start etcd on the hosts that have data), then run again"
        )
    for host, found in seen.items():
        other = found["local"]["bootstrap"]
        if found["local"]["data"] and other and other != wanted:
            problems.append(
                f"{host} had begun to form another cluster ({other}) than the inventory describes"
                f" ({wanted}): if it holds nothing of value, stop etcd and empty its data directory"
                " there, then run again"
            )
    return {member["host"]: wanted for member in empty}, problems


def _waits(local: t.Mapping[str, t.Any]) -> bool:
    """Whether a member was begun and has not got as far as its log, which it writes when it knows all others."""
    return bool(local["data"] and local["bootstrap"] and not local.get("log", True))


def etcd_bootstrap_plan(
    members: t.Sequence[Member],
    seen: t.Mapping[str, Seen],
    peer_port: int = 2380,
    *,
    token: str,
    found_by: str = "",
) -> dict[str, t.Any]:
    """Return the decision that RETURN describes. Pure: what is not in ``seen`` does not exist."""
    lists = [found["members"] for found in seen.values() if found["members"]]
    here = [member for member in members if member["host"] in seen]
    again = [member["host"] for member in here if found_by and not lists and _waits(seen[member["host"]]["local"])]
    empty = [member for member in here if member["host"] in again or not seen[member["host"]]["local"]["data"]]
    nothing: dict[str, t.Any] = {"start": {}, "forms": False, "again": []}
    if not empty:
        return {**nothing, "problems": []}
    clusters = {tuple(sorted(item["id"] for item in running)) for running in lists}
    if len(clusters) > 1:
        return {
            **nothing,
            "problems": [
                "hosts of the etcd group belong to different clusters: "
                + "; ".join(", ".join(ids) for ids in sorted(clusters))
                + " (member ids); decide which one to keep and empty the other's data directories"
            ],
        }
    if lists:
        start, problems = _running(lists[0], empty, int(peer_port), token)
    else:
        start, problems = _new(members, empty, seen, int(peer_port), token, found_by)
    if problems:
        return {**nothing, "problems": problems}
    return {"start": start, "forms": not lists, "again": again, "problems": []}


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"etcd_bootstrap_plan": etcd_bootstrap_plan}
