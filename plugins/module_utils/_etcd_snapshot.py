# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""Snapshots of etcd: saved through the gateway, verified by the sum at their end, restored by etcd's own program.

A snapshot is the database file and the SHA-256 of it. Its keys are every secret in the store, so it is never
readable for anyone but its owner, and never in a message.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import typing as t
from dataclasses import dataclass

from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_cluster import (
    EtcdClusterClient,
    OpenMember,
    Status,
    look,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http import (
    ClusterError,
    OptionError,
    printable,
)

# bbolt writes whole pages; what is left over is the sum
_PAGE = 512
_SUM = 32
# a revision that no client can have seen, as etcd's own guide to recovery has it
BUMP = 1_000_000_000
_RECORD = "flotilla-restored.json"

RunCommand = t.Callable[[list[str]], tuple[int, str, str]]


class SnapshotError(ClusterError):
    """A snapshot that cannot be had, or is not what it should be."""


@dataclass(frozen=True)
class Snapshot:
    """A verified file. C(sha256) is of the whole file, so that any tool can check a copy of it."""

    path: str
    size: int
    sha256: str


def verify(path: str) -> Snapshot:
    """Reads the whole file and compares it with the sum at its end.

    :raises SnapshotError: when it is no snapshot, or not what was saved
    """
    content, whole = hashlib.sha256(), hashlib.sha256()
    try:
        size = os.path.getsize(path)
        if size % _PAGE != _SUM or size < _PAGE:
            raise SnapshotError(
                f"{path} has {size} bytes, so it is no whole snapshot of etcd (pages of {_PAGE} bytes and a sum of"
                f" {_SUM}): give a file that etcd_snapshot or 'etcdctl snapshot save' wrote"
            )
        left = size - _SUM
        with open(path, "rb") as file:
            while left:
                part = file.read(min(left, 1 << 20))
                if not part:
                    raise SnapshotError(f"{path} became shorter while it was read; wait until it is written")
                content.update(part)
                whole.update(part)
                left -= len(part)
            stated = file.read(_SUM)
            whole.update(stated)
    except OSError as error:
        raise SnapshotError(f"{path} cannot be read: {os.strerror(error.errno or 0).lower()}; correct path") from error
    if content.digest() != stated:
        raise SnapshotError(
            f"{path} is damaged: its content has the SHA-256 {content.hexdigest()}, and the sum at its end is"
            f" {stated.hex()}; use another snapshot"
        )
    return Snapshot(path, size, whole.hexdigest())


def choose(client: EtcdClusterClient, open_member: OpenMember) -> tuple[tuple[str, ...], Status]:
    """The client URLs of the member to take a snapshot of: the follower that has got furthest, else the leader.

    :raises SnapshotError: when no member answers for itself
    """
    view, reason = look(client, open_member)
    if view is None:
        # without a majority nobody gives the list, and a member's own data are all the more worth saving
        for endpoint in client.endpoints:
            try:
                status = client.status(endpoint)
            except ClusterError:
                continue
            return (endpoint,), status
        raise SnapshotError(f"no member can be asked for a snapshot: {reason}")
    choices = [
        (status.leader != status.member_id, status.raft_applied_index, member.client_urls, status)
        for member in view.members
        for status in [view.statuses.get(member.id)]
        if isinstance(status, Status) and not member.is_learner
    ]
    if not choices:
        silent = "; ".join(str(status) for status in view.statuses.values())
        raise SnapshotError(f"no member answers for itself: {silent}")
    best = max(choices, key=lambda choice: choice[:2])
    return best[2], best[3]


def save(source: EtcdClusterClient, path: str) -> Snapshot:
    """Writes a verified snapshot of one member, in one piece or not at all.

    :param source: a client for that member alone
    """
    part = f"{path}.part"
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                for result in source.stream("/maintenance/snapshot", {}, silence=60.0):
                    file.write(result.octets("blob"))
                file.flush()
                os.fsync(file.fileno())
            found = verify(part)
            os.replace(part, path)
        except BaseException:
            os.unlink(part)
            raise
    except OSError as error:
        raise SnapshotError(
            f"{path} cannot be written: {os.strerror(error.errno or 0).lower()}; give a path in a directory that"
            " exists and has room"
        ) from error
    return Snapshot(path, found.size, found.sha256)


@dataclass(frozen=True)
class Restore:
    """How a member's data directory is to be made from a snapshot."""

    snapshot: str
    data_dir: str
    name: str
    initial_cluster: str
    peer_urls: tuple[str, ...]
    token: str
    bump: bool
    programs: tuple[str, ...]

    @property
    def record(self) -> dict[str, t.Any]:
        """What tells this restore from another one, apart from the snapshot."""
        return {"name": self.name, "initial_cluster": self.initial_cluster, "token": self.token}


def restored_from(data_dir: str) -> dict[str, t.Any] | None:
    """The record of the restore that made a data directory, None when none did."""
    try:
        with open(os.path.join(data_dir, _RECORD), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def is_restored(wanted: Restore, found: Snapshot) -> bool:
    """Whether the data directory was made by this very restore.

    :raises SnapshotError: when it holds the data of a member that was not
    """
    if not os.path.isdir(os.path.join(wanted.data_dir, "member")):
        return False
    if restored_from(wanted.data_dir) == {**wanted.record, "sha256": found.sha256}:
        return True
    raise SnapshotError(
        f"{wanted.data_dir} holds the data of a member already: move {wanted.data_dir}/member away first, as a restore"
        " never overwrites data"
    )


def command(wanted: Restore, run: RunCommand, target: str) -> list[str]:
    """The command that restores, with the options that the program at hand knows.

    :raises SnapshotError: when no program is there, or it cannot raise the revision though it is wanted
    """
    for program in wanted.programs:
        path = shutil.which(program)
        if path is None:
            continue
        code, shown, errors = run([path, "snapshot", "restore", "--help"])
        if code != 0 or "--data-dir" not in shown + errors:
            continue
        bump: list[str] = []
        if wanted.bump:
            if "--bump-revision" not in shown + errors:
                raise SnapshotError(
                    f"{path} cannot raise the revision (--bump-revision, from etcd 3.6): watchers could take old"
                    " revisions for new ones; give programs of a newer release, or accept that with"
                    " bump_revision=false"
                )
            bump = [f"--bump-revision={BUMP}", "--mark-compacted"]
        return [
            path,
            "snapshot",
            "restore",
            wanted.snapshot,
            f"--data-dir={target}",
            f"--name={wanted.name}",
            f"--initial-cluster={wanted.initial_cluster}",
            f"--initial-cluster-token={wanted.token}",
            f"--initial-advertise-peer-urls={','.join(wanted.peer_urls)}",
            *bump,
        ]
    raise SnapshotError(
        f"none of {', '.join(wanted.programs)} is there to restore a snapshot with: install etcd's programs, or name"
        " one in programs"
    )


def restore(wanted: Restore, found: Snapshot, run: RunCommand) -> None:
    """Makes the data directory; it belongs to whom it belonged before.

    The data are made beside their place and renamed, so there is a whole member or none.
    """
    target = os.path.join(wanted.data_dir, ".restore")
    try:
        owner = os.stat(wanted.data_dir)
        shutil.rmtree(target, ignore_errors=True)
        code, out, errors = run(command(wanted, run, target))
        if code != 0:
            last = (errors.strip() or out.strip()).splitlines()[-1:]
            raise SnapshotError(f"the restore of {wanted.snapshot} failed: {printable(' '.join(last))}; see its words")
        record = os.path.join(wanted.data_dir, _RECORD)
        with open(record, "w", encoding="utf-8") as file:
            json.dump({**wanted.record, "sha256": found.sha256}, file, sort_keys=True)
        os.chmod(record, 0o600)
        for folder, _folders, names in os.walk(target):
            for path in [folder, *(os.path.join(folder, name) for name in names)]:
                os.chown(path, owner.st_uid, owner.st_gid)
        os.chown(record, owner.st_uid, owner.st_gid)
        os.rename(os.path.join(target, "member"), os.path.join(wanted.data_dir, "member"))
        shutil.rmtree(target, ignore_errors=True)
    except OSError as error:
        raise SnapshotError(
            f"{wanted.data_dir} cannot be made: {os.strerror(error.errno or 0).lower()}; run as root, with the"
            " directory there"
        ) from error


def parse_restore(params: t.Mapping[str, t.Any]) -> Restore:
    """:raises OptionError: for a value that cannot be"""
    members = params["initial_cluster"]
    if not all(isinstance(url, str) and url for url in members.values()):
        raise OptionError("initial_cluster has a member without a URL; give a mapping of names to peer URLs")
    if params["name"] not in members:
        raise OptionError(
            f"name {printable(params['name'])!r} is none of initial_cluster ({', '.join(sorted(members))});"
            " add it there"
        )
    return Restore(
        snapshot=params["path"],
        data_dir=params["data_dir"],
        name=params["name"],
        initial_cluster=",".join(f"{name}={url}" for name, url in sorted(members.items())),
        peer_urls=(str(members[params["name"]]),),
        token=params["token"],
        bump=params["bump_revision"],
        programs=tuple(params["programs"]),
    )
