# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection.
# It can change in breaking ways at any time.

"""Whether an etcd cluster is healthy, from what its members say; and how to ask them."""

from __future__ import annotations

import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import (
    EtcdClient,
    Member,
    OpenMember,
    Status,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http import ClusterError


class View(t.NamedTuple):
    """The cluster as one host sees it.

    C(statuses) has an entry for each member that has a client URL, by member id: what it says, or
    the sentence that says why it did not answer.
    """

    members: tuple[Member, ...]
    statuses: t.Mapping[int, Status | str]


def problems_of(view: View, expected: t.Collection[str], *, others: bool = True) -> list[str]:
    """Return why the cluster is not whole and healthy, one sentence each; [] when it is.

    :param expected: names of members that must be there
    :param others: whether further members are judged as well
    """
    found = []
    present = {member.name for member in view.members}
    found += [f"{name} is not in the member list" for name in sorted(set(expected) - present)]
    leaders = {status.leader for status in view.statuses.values() if isinstance(status, Status) and status.leader}
    for member in view.members:
        if not others and member.name not in expected:
            continue
        what = member.name or f"the member at {', '.join(member.peer_urls)}"
        # Not Member.started: the members of a new cluster have their names from the beginning.
        # Its client URLs are what a member publishes when it joins.
        if not member.client_urls:
            found.append(f"{what} has not joined yet")
            continue
        found += _member_problems(what, member, view.statuses.get(member.id))
    if len(leaders) > 1:
        found.append("members follow different leaders")
    return found


def _member_problems(what: str, member: Member, status: Status | str | None) -> list[str]:
    if not isinstance(status, Status):
        return [f"{what} does not answer ({status})"]
    found = []
    if status.member_id != member.id:
        found.append(f"{what} should be member {member.id:x}, but {status.endpoint} is member {status.member_id:x}")
    if not status.leader:
        found.append(f"{what} has no leader")
    found += [f"{what} reports {error}" for error in status.errors]
    return found


def look(client: EtcdClient, open_member: OpenMember) -> tuple[View | None, str]:
    """Ask for the member list, then every member for its status.

    :param open_member: makes a client for the client URLs of one member
    :returns: the view, or None with the sentence that says why there is none
    """
    try:
        members = tuple(client.member_list())
    except ClusterError as exc:
        return None, str(exc)
    statuses: dict[int, Status | str] = {}
    for member in members:
        if not member.client_urls:
            continue
        try:
            own = open_member(member.client_urls)
            try:
                statuses[member.id] = own.status()
            finally:
                own.close()
        except ClusterError as exc:
            statuses[member.id] = str(exc)
    return View(members, statuses), ""
