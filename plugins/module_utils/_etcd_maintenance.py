# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""Upkeep of etcd's database: old revisions, room that nothing uses, and alarms.

What is due is decided by pure functions; C(Maintenance) does it, on one member at a time and the leader last.
"""

from __future__ import annotations

import time
import typing as t
from contextlib import closing
from dataclasses import dataclass, field

from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import EtcdError
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_cluster import (
    Alarm,
    EtcdClusterClient,
    Member,
    OpenMember,
    Status,
    View,
    look,
    problems_of,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http import ClusterError, OptionError

ALARMS = ("NOSPACE", "CORRUPT")
_OUT_OF_RANGE = 11
_PAUSE = 0.3


class MaintenanceError(ClusterError):
    """Upkeep that is refused, or that did not come about."""


@dataclass(frozen=True)
class Wanted:
    """:ivar keep: revisions to keep, None to leave them all
    :ivar unused: share of the database that nothing uses, from which on it is written anew; None to leave it
    :ivar least: bytes below which nothing is written anew
    :ivar alarms: kinds of alarms to disarm
    """

    keep: int | None
    unused: float | None
    least: int
    alarms: tuple[str, ...]


@dataclass
class Done:
    """What was done, or in check mode would be."""

    compacted: int = 0
    defragmented: list[dict[str, t.Any]] = field(default_factory=list)
    disarmed: list[dict[str, str]] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return bool(self.compacted or self.defragmented or self.disarmed)


def parse_wanted(params: t.Mapping[str, t.Any]) -> Wanted:
    """:raises OptionError: for a value that cannot be"""
    if params["keep_revisions"] is not None and params["keep_revisions"] < 0:
        raise OptionError(f"keep_revisions is {params['keep_revisions']}; give 0 or more")
    if not 0 <= params["unused"] <= 1:
        raise OptionError(f"unused is {params['unused']:g}; give a share from 0 to 1")
    return Wanted(
        keep=params["keep_revisions"],
        unused=params["unused"] if params["defragment"] else None,
        least=params["least_bytes"],
        alarms=tuple(params["disarm"]),
    )


def due(status: Status, wanted: Wanted) -> bool:
    """Whether a member's database has so much room that nothing uses."""
    if wanted.unused is None or status.db_size < max(1, wanted.least):
        return False
    return (status.db_size - status.db_size_in_use) / status.db_size >= wanted.unused


def in_order(view: View) -> list[tuple[Member, Status]]:
    """The members that answer, the leader last, so that there is one election at most."""
    found = [
        (member, status)
        for member in view.members
        for status in [view.statuses.get(member.id)]
        if isinstance(status, Status)
    ]
    return sorted(found, key=lambda pair: pair[1].leader == pair[0].id)


def problems_without_alarms(view: View) -> list[str]:
    """What is wrong with the cluster beside alarms, which are here to be mended."""
    calm: dict[int, Status | str] = {
        number: status._replace(errors=()) if isinstance(status, Status) else status
        for number, status in view.statuses.items()
    }
    return problems_of(View(view.members, calm), ())


class Maintenance:
    """Works on one cluster.

    :param open_member: makes a client for the client URLs of one member
    """

    def __init__(self, client: EtcdClusterClient, open_member: OpenMember, *, check: bool) -> None:
        self._client = client
        self._open = open_member
        self._check = check

    def apply(self, wanted: Wanted) -> Done:
        """Compacts, then writes databases anew, then disarms: in the order in which each one helps the next."""
        view = self._view()
        problems = problems_without_alarms(view)
        if problems and (wanted.unused is not None or wanted.keep is not None):
            raise MaintenanceError(
                f"nothing is done to a cluster that is not whole: {'; '.join(problems)}; see to that first"
            )
        done = Done()
        if wanted.keep is not None:
            done.compacted = self._compact(wanted.keep)
            if done.compacted and not self._check:
                view = self._view()
        if wanted.unused is not None:
            for member, status in in_order(view):
                # what compaction would free in check mode nobody knows
                if due(status, wanted):
                    done.defragmented.append(self._defragment(member, status))
        for alarm in self._client.alarms() if wanted.alarms else ():
            if alarm.kind in wanted.alarms:
                done.disarmed.append(self._disarm(alarm, view))
        return done

    def _view(self) -> View:
        view, reason = look(self._client, self._open)
        if view is None:
            raise MaintenanceError(f"the member list cannot be read: {reason}")
        return view

    def _compact(self, keep: int) -> int:
        """Forgets revisions; returns the newest one that is forgotten, 0 when all of them were already."""
        revision = self._client.status().revision - keep
        if revision < 1:
            return 0
        if self._check:
            return 0 if self._is_compacted(revision) else revision
        try:
            # physical: the room is free when the answer comes
            self._client.call("/kv/compaction", {"revision": str(revision), "physical": True})
        except EtcdError as error:
            if error.code == _OUT_OF_RANGE and "compacted" in error.message:
                return 0
            raise
        return revision

    def _is_compacted(self, revision: int) -> bool:
        try:
            self._client.range(b"\x00", revision=max(1, revision - 1), limit=1, count_only=True)
        except EtcdError as error:
            if error.code == _OUT_OF_RANGE:
                return True
            raise
        return revision == 1

    def _defragment(self, member: Member, status: Status) -> dict[str, t.Any]:
        result = {"name": member.name, "before": status.db_size, "after": status.db_size_in_use}
        if self._check:
            return result
        with closing(self._open(member.client_urls)) as own:
            # the member answers nothing else until it is done
            own.call("/maintenance/defragment", {})
            result["after"] = self._answering(own, member).db_size
        return result

    @staticmethod
    def _answering(own: EtcdClusterClient, member: Member) -> Status:
        """The member's state, once it answers again."""
        while True:
            problem = "it has no leader"
            try:
                status = own.status()
                if status.leader:
                    return status
            except ClusterError as error:
                problem = str(error)
            if own.deadline.left() < _PAUSE:
                raise MaintenanceError(f"{member.name} was defragmented and does not answer: {problem}")
            time.sleep(_PAUSE)

    def _disarm(self, alarm: Alarm, view: View) -> dict[str, str]:
        if not self._check:
            # each by its member: without one etcd says yes and disarms nothing
            body = {"action": "DEACTIVATE", "memberID": str(alarm.member_id), "alarm": alarm.kind}
            self._client.call("/maintenance/alarm", body)
        name = next((member.name for member in view.members if member.id == alarm.member_id), "")
        return {"name": name or f"{alarm.member_id:x}", "alarm": alarm.kind}
