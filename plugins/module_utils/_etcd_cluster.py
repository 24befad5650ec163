# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""An etcd cluster as a whole: its members, what they say of themselves, and whether that is healthy."""

from __future__ import annotations

import math
import re
import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_stream import EtcdStreamClient
from ansible_collections.flotilla.cluster.plugins.module_utils._http import ClusterError


class Member(t.NamedTuple):
    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool

    @property
    def started(self) -> bool:
        """A member that was added but never ran has no name yet."""
        return bool(self.name)


class Status(t.NamedTuple):
    """What one member says of itself; C(leader) is 0 when it knows none."""

    endpoint: str
    member_id: int
    version: str
    db_size: int
    leader: int
    revision: int
    raft_index: int
    raft_applied_index: int
    raft_term: int
    is_learner: bool
    errors: tuple[str, ...]
    db_size_in_use: int = 0
    # since etcd 3.6; 0 before
    db_size_quota: int = 0


class Alarm(t.NamedTuple):
    """:ivar kind: NOSPACE or CORRUPT"""

    member_id: int
    kind: str


class EtcdClusterClient(EtcdStreamClient):
    """A client that can also ask for members, their state and alarms."""

    def member_list(self) -> list[Member]:
        """The members, by name."""
        answer = self.call("/cluster/member/list", {})
        members = [
            Member(
                id=item.integer("ID"),
                name=item.text("name"),
                peer_urls=tuple(item.texts("peerURLs")),
                client_urls=tuple(item.texts("clientURLs")),
                is_learner=item.flag("isLearner"),
            )
            for item in answer.objects("members")
        ]
        return sorted(members, key=lambda member: (member.name, member.id))

    def status(self, endpoint: str | None = None) -> Status:
        """What one member says of itself; without an endpoint the one that answers first."""
        answer = self.call("/maintenance/status", {}, endpoint=endpoint)
        header = answer.object("header")
        return Status(
            endpoint=endpoint or self._order[0],
            member_id=header.integer("member_id"),
            version=answer.text("version"),
            db_size=answer.integer("dbSize"),
            leader=answer.integer("leader"),
            revision=header.integer("revision"),
            raft_index=answer.integer("raftIndex"),
            raft_applied_index=answer.integer("raftAppliedIndex"),
            raft_term=answer.integer("raftTerm"),
            is_learner=answer.flag("isLearner"),
            errors=tuple(answer.texts("errors")),
            db_size_in_use=answer.integer("dbSizeInUse"),
            db_size_quota=answer.integer("dbSizeQuota"),
        )

    def alarms(self) -> list[Alarm]:
        """The alarms that are on, each with the member that raised it."""
        answer = self.call("/maintenance/alarm", {"action": "GET"})
        return [Alarm(item.integer("memberID"), item.text("alarm")) for item in answer.objects("alarms")]

    def hash_kv(self, revision: int) -> tuple[int, int]:
        """Hash of the member's keys and values up to a revision, and the revision that it was compacted to.

        Members that agree on both hold the same data. From etcd 3.5 on.
        """
        answer = self.call("/maintenance/hashkv", {"revision": str(revision)})
        return answer.integer("hash"), answer.integer("compact_revision")

    def metric(self, name: str) -> float:
        """A metric without labels of the member that is asked first, 0 when it has none of that name."""
        reply = self._client(self._order[0]).request("GET", "/metrics")
        found = re.search(rf"^{re.escape(name)} (\S+)$", reply.body.decode("utf-8", "replace"), re.MULTILINE)
        try:
            value = float(found[1]) if found and reply.status == 200 else 0.0
        except ValueError:
            return 0.0
        return value if math.isfinite(value) else 0.0


OpenMember = t.Callable[[t.Sequence[str]], EtcdClusterClient]


def member_opener(params: t.Mapping[str, t.Any]) -> OpenMember:
    """What makes a client for the client URLs of one member, with the same parameters for all else."""
    return lambda urls: EtcdClusterClient.of({**params, "endpoints": list(urls)})


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


def look(client: EtcdClusterClient, open_member: OpenMember) -> tuple[View | None, str]:
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
