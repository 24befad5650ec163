# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""Adding, promoting and removing members of etcd, and moving the leadership, only where no majority is at stake.

What may be done is decided by pure functions on a C(View); C(apply) does the requests.
"""

from __future__ import annotations

import time
import typing as t
from dataclasses import dataclass

from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import (
    FAILED_PRECONDITION,
    NOT_FOUND,
    UNAVAILABLE,
    EtcdError,
    EtcdUncertain,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_cluster import (
    EtcdClusterClient,
    Member,
    OpenMember,
    Status,
    View,
    look,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http import (
    ClusterError,
    Deadline,
    OptionError,
    base_url,
    printable,
)

_PAUSE = 0.3


class MemberError(ClusterError):
    """A change of the member list that is refused, or that did not come about."""


@dataclass(frozen=True)
class Wanted:
    """The member that is meant, by whatever of it is known, and how it shall be.

    :ivar id: 0 when it is not given
    :ivar state: C(present), C(promoted), C(absent), C(leader) or C(follower)
    """

    state: str
    name: str = ""
    id: int = 0
    peer_urls: tuple[str, ...] = ()
    learner: bool = True
    force: bool = False

    @property
    def shown(self) -> str:
        """The member in words."""
        return self.name or (f"member {self.id:x}" if self.id else f"the member at {', '.join(self.peer_urls)}")


def parse_wanted(params: t.Mapping[str, t.Any]) -> Wanted:
    """The wanted member from a module's parameters.

    :raises OptionError: for a value that cannot be
    """
    number = 0
    if params["id"] is not None:
        try:
            number = int(params["id"], 16)
        except ValueError:
            number = 0
        if not 0 < number < 1 << 64:
            raise OptionError(
                f"id is {printable(params['id'])!r}; give a member's id in hexadecimal digits, as member lists show it"
            )
    urls = tuple(base_url("peer_urls", url) for url in params["peer_urls"])
    if params["state"] == "present" and not urls:
        raise OptionError("peer_urls is empty; give the URLs at which the other members will reach the new one")
    if not (params["name"] or number or urls):
        raise OptionError("no member is named; give its name, its id or its peer_urls")
    return Wanted(params["state"], params["name"] or "", number, urls, params["learner"], params["force"])


def find(members: t.Sequence[Member], wanted: Wanted) -> Member | None:
    """The member that is meant.

    :raises MemberError: when what is given belongs to several members
    """
    found = {
        member.id: member
        for member in members
        if (wanted.id and member.id == wanted.id)
        or (not wanted.id and wanted.name and member.name == wanted.name)
        or (not wanted.id and set(member.peer_urls) & set(wanted.peer_urls))
    }
    if len(found) > 1:
        several = "; ".join(describe(member) for member in found.values())
        raise MemberError(f"{wanted.shown} could be several members ({several}); give the id of one")
    return next(iter(found.values()), None)


def describe(member: Member) -> str:
    """A member in one line, for differences and messages."""
    role = "learner" if member.is_learner else "voter"
    return f"{member.id:x} {member.name or '(not joined)'} {role} {','.join(member.peer_urls)}"


def _answers(view: View, member: Member) -> bool:
    status = view.statuses.get(member.id)
    return isinstance(status, Status) and bool(status.leader)


def _named(members: t.Iterable[Member]) -> str:
    return ", ".join(member.name or f"{member.id:x}" for member in members)


def refuse_add(view: View, wanted: Wanted) -> str:
    """Why a member may not be added now, empty when it may."""
    waiting = [member for member in view.members if not member.client_urls]
    if waiting:
        return (
            f"{_named(waiting)} ({', '.join(waiting[0].peer_urls)}) was added and has not joined yet: start its etcd,"
            " or remove it first"
        )
    voters = [member for member in view.members if not member.is_learner]
    silent = [member for member in voters if not _answers(view, member)]
    if silent:
        return (
            f"{_named(silent)} does not answer: bring it back, or remove it first if it is gone for good;"
            " a member is added to a whole cluster only"
        )
    learners = [member for member in view.members if member.is_learner]
    if wanted.learner and learners:
        return f"{_named(learners)} is a learner still: promote it first, as etcd takes one at a time"
    return ""


def refuse_remove(view: View, member: Member) -> str:
    """Why a member may not be removed now, empty when it may."""
    if member.is_learner:
        return ""
    rest = [other for other in view.members if not other.is_learner and other.id != member.id]
    if not rest:
        return "it is the last voting member: without it there is no cluster; delete the cluster instead"
    healthy = [other for other in rest if _answers(view, other)]
    quorum = len(rest) // 2 + 1
    if len(healthy) < quorum:
        return (
            f"of the {len(rest)} voting members that are left {len(healthy)} would answer"
            f" ({_named(healthy) or 'none'}), and {quorum} are needed: bring members back first"
        )
    return ""


def next_leader(view: View, leader: Member) -> Member | None:
    """The voter that should lead in place of another: the one that has got furthest."""
    choices = [
        (status.raft_applied_index, -index, member)
        for index, member in enumerate(view.members)
        for status in [view.statuses.get(member.id)]
        if isinstance(status, Status) and status.leader and not member.is_learner and member.id != leader.id
    ]
    return max(choices)[2] if choices else None


def leader_of(view: View) -> Member | None:
    """The member that the others follow."""
    leaders = {status.leader for status in view.statuses.values() if isinstance(status, Status)}
    return next((member for member in view.members if member.id in leaders), None)


class Members:
    """Does what is wanted with one cluster.

    :param open_member: makes a client for the client URLs of one member
    """

    def __init__(self, client: EtcdClusterClient, open_member: OpenMember, *, check: bool) -> None:
        self._client = client
        self._open = open_member
        self._check = check
        self._deadline: Deadline = client.deadline

    def view(self) -> View:
        """:raises MemberError: when no member gives the list"""
        view, reason = look(self._client, self._open)
        if view is None:
            raise MemberError(f"the member list cannot be read: {reason}")
        return view

    def apply(self, wanted: Wanted) -> tuple[View, View, bool]:
        """Brings the member list to what is wanted.

        :returns: how the cluster was, how it is, and whether it was or would be changed
        """
        before = self.view()
        steps = {
            "present": self._present,
            "promoted": self._promoted,
            "absent": self._absent,
            "leader": self._leader,
            "follower": self._follower,
        }
        changed = steps[wanted.state](before, wanted)
        return before, (before if self._check or not changed else self.view()), changed

    def _must(self, view: View, wanted: Wanted) -> Member:
        member = find(view.members, wanted)
        if member is None:
            raise MemberError(f"{wanted.shown} is none of the members ({_named(view.members)}); add it first")
        return member

    def _present(self, view: View, wanted: Wanted) -> bool:
        member = find(view.members, wanted)
        if member is not None and set(member.peer_urls) == set(wanted.peer_urls):
            return False
        if member is not None:
            if not self._check:
                body = {"ID": str(member.id), "peerURLs": list(wanted.peer_urls)}
                self._insist(
                    "/cluster/member/update",
                    body,
                    lambda now: set(self._must(now, Wanted("", id=member.id)).peer_urls) == set(wanted.peer_urls),
                )
            return True
        reason = "" if wanted.force else refuse_add(view, wanted)
        if reason:
            raise MemberError(f"{wanted.shown} is not added: {reason}")
        if not self._check:
            body = {"peerURLs": list(wanted.peer_urls)}
            if wanted.learner:
                body["isLearner"] = True  # type: ignore[assignment]
            self._insist("/cluster/member/add", body, lambda now: find(now.members, wanted) is not None)
        return True

    def _promoted(self, view: View, wanted: Wanted) -> bool:
        member = self._must(view, wanted)
        if not member.is_learner:
            return False
        if not self._check:
            if not member.client_urls:
                # a learner that never ran is never in sync
                raise MemberError(f"{wanted.shown} has not joined yet: start its etcd, then promote it")
            self._insist(
                "/cluster/member/promote",
                {"ID": str(member.id)},
                lambda now: not self._must(now, Wanted("", id=member.id)).is_learner,
            )
        return True

    def _absent(self, view: View, wanted: Wanted) -> bool:
        member = find(view.members, wanted)
        if member is None:
            return False
        reason = "" if wanted.force else refuse_remove(view, member)
        if reason:
            raise MemberError(f"{wanted.shown} is not removed: {reason}")
        if not self._check:
            leader = leader_of(view)
            # one that died leads on in what the others say, until they have elected another
            if leader is not None and leader.id == member.id and _answers(view, member):
                self._move(view, leader, next_leader(view, leader))
            self._insist(
                "/cluster/member/remove",
                {"ID": str(member.id)},
                lambda now: find(now.members, Wanted("", id=member.id)) is None,
                gone=True,
            )
        return True

    def _leader(self, view: View, wanted: Wanted) -> bool:
        member = self._must(view, wanted)
        leader = leader_of(view)
        if leader is None:
            raise MemberError("the cluster has no leader now; see to a majority of its members first")
        if leader.id == member.id:
            return False
        if member.is_learner or not _answers(view, member):
            what = "is a learner" if member.is_learner else "does not answer"
            raise MemberError(f"{wanted.shown} cannot lead: it {what}")
        if not self._check:
            self._move(view, leader, member)
        return True

    def _follower(self, view: View, wanted: Wanted) -> bool:
        member = self._must(view, wanted)
        leader = leader_of(view)
        if leader is None or leader.id != member.id:
            return False
        target = next_leader(view, leader)
        if target is None:
            # one member alone leads whatever anyone wishes
            return False
        if not self._check:
            self._move(view, leader, target)
        return True

    def _move(self, view: View, leader: Member, target: Member | None) -> None:
        """Only the leader itself takes the request."""
        if target is None:
            return
        own = self._open(leader.client_urls)
        try:
            own.call("/maintenance/transfer-leadership", {"targetID": str(target.id)}, write=True)
        except (EtcdError, EtcdUncertain) as error:
            # it may have been done all the same, or the leader may have changed by itself
            self._settled(lambda now: leader_of(now) not in (None, leader), error)
        finally:
            own.close()

    def _settled(self, done: t.Callable[[View], bool], error: ClusterError) -> None:
        while True:
            if done(self.view()):
                return
            if self._deadline.left() < _PAUSE:
                raise error
            time.sleep(_PAUSE)

    def _insist(self, path: str, body: dict[str, t.Any], done: t.Callable[[View], bool], *, gone: bool = False) -> None:
        """Asks until it is done, or the time is up, or etcd refuses for good.

        Members count as unhealthy for some seconds after a start, and a learner takes its time to catch up.
        """
        while True:
            try:
                self._client.call(path, body, write=True)
                return
            except EtcdUncertain as error:
                last: ClusterError = error
            except EtcdError as error:
                if gone and error.code == NOT_FOUND:
                    return
                passing = error.code == UNAVAILABLE or (
                    error.code == FAILED_PRECONDITION
                    and any(words in error.message for words in ("in sync", "unhealthy", "not enough started"))
                )
                if not passing:
                    raise
                last = error
            if done(self.view()):
                return
            if self._deadline.left() < _PAUSE:
                raise MemberError(f"{last}; tried again for {self._deadline.seconds:g} s") from last
            time.sleep(_PAUSE)
