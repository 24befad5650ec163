# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
# Do not use this code from other collections or standalone plugins and modules!

"""What C(host_service) wants, what it found, and the pure function that decides what to do.

Nothing here touches the host: `make_plan(desired, observed)` returns a `Plan`. NamedTuples instead of dataclasses,
because importing `dataclasses` costs more than the whole decision on a target with an older ansible-core.
"""

from __future__ import annotations

import hashlib
import os.path
import re
import typing as t

UNIT_DIRECTORIES = (
    "/etc/systemd/system/",
    "/run/systemd/system/",
    "/usr/lib/systemd/",
    "/lib/systemd/",
    "/usr/local/lib/systemd/",
)
UNIT_NAME = re.compile(r"^[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\-]+)?\.(service|socket|timer|target|path|mount)$")
ACCOUNT_NAME = re.compile(r"^[a-z_][a-z0-9_-]{0,31}$")
VERSION_NAME = re.compile(r"^[0-9a-f]{12}$")
# States of a unit file for which "systemctl enable" has nothing to do.
ENABLED_STATES = frozenset({"enabled", "static", "generated", "transient", "indirect", "alias"})
# Kernel file times lag behind the clock by up to one tick; a file this close to the start may be newer than it looks.
CLOCK_TICK = 0.01


class FileSpec(t.NamedTuple):
    path: str
    content: bytes
    owner: str = "root"
    group: str = "root"
    mode: int = 0o644
    validate: str | None = None
    sensitive: bool = False
    restart: bool = True


class DirectorySpec(t.NamedTuple):
    path: str
    owner: str = "root"
    group: str = "root"
    mode: int = 0o755


class LinkSpec(t.NamedTuple):
    path: str
    target: str
    restart: bool = True


class TreeSpec(t.NamedTuple):
    """A directory of text files kept in versions: `<root>/<version>/...`, and `<root>/<link>` naming the one in use."""

    root: str
    files: t.Mapping[str, bytes]
    link: str = "current"
    compile: bool = True
    restart: bool = True

    @property
    def version(self) -> str:
        """First 12 hex digits of a SHA-256 over the sorted paths and contents."""
        digest = hashlib.sha256()
        for path in sorted(self.files):
            content = self.files[path]
            digest.update(f"{path}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.hexdigest()[:12]

    @property
    def link_path(self) -> str:
        return os.path.join(self.root, self.link)


class UserSpec(t.NamedTuple):
    name: str
    group: str
    home: str = "/nonexistent"
    shell: str = "/usr/sbin/nologin"
    groups: tuple[str, ...] = ()


class Desired(t.NamedTuple):
    name: str
    groups: tuple[str, ...] = ()
    users: tuple[UserSpec, ...] = ()
    directories: tuple[DirectorySpec, ...] = ()
    files: tuple[FileSpec, ...] = ()
    links: tuple[LinkSpec, ...] = ()
    trees: tuple[TreeSpec, ...] = ()
    absent: tuple[str, ...] = ()
    enabled: bool = True
    state: str = "started"
    sockets: tuple[str, ...] = ()
    restart: str = "auto"
    reads: tuple[str, ...] = ()  # files that others write and the unit reads only when it starts


class PathState(t.NamedTuple):
    """One path as lstat() sees it. `content` is set for regular files only, `changed_at` is max(mtime, ctime)."""

    kind: str = "absent"  # absent, file, directory, link, other
    owner: str = ""
    uid: int = -1
    group: str = ""
    gid: int = -1
    mode: int = 0
    target: str = ""
    content: bytes | None = None
    changed_at: float = 0.0


class TreeState(t.NamedTuple):
    target: str = ""  # what <root>/<link> points at; "" when there is no link
    complete: bool = False  # the wanted version is there, byte for byte
    versions: tuple[str, ...] = ()  # version directories, newest first


class UnitState(t.NamedTuple):
    load: str = "not-found"
    active: str = "inactive"
    sub: str = "dead"
    file_state: str = ""
    invocation: str = ""
    started_at: float = 0.0  # wall clock, seconds; when the main process was forked
    need_reload: bool = False
    succeeded: bool = True  # result of the last run

    @property
    def running(self) -> bool:
        if self.active == "activating":
            return self.sub != "auto-restart"
        return self.active in ("active", "reloading", "refreshing")


class Stamp(t.NamedTuple):
    """What the process running as `invocation` was started with. `pending`: files changed since, restart still due."""

    sha256: str
    invocation: str
    pending: bool = False


class Observed(t.NamedTuple):
    paths: t.Mapping[str, PathState] = {}
    trees: t.Mapping[str, TreeState] = {}
    users: t.Mapping[
        str, frozenset[str]
    ] = {}  # account -> supplementary groups; accounts that do not exist are left out
    groups: frozenset[str] = frozenset()
    units: t.Mapping[str, UnitState] = {}
    stamp: Stamp | None = None


NOTHING = Observed()


class Plan(t.NamedTuple):
    """What has to be done. Empty lists and `action` "none" mean: the host is as described."""

    problems: tuple[str, ...]  # any of these: change nothing
    unknown_owners: tuple[str, ...]  # fatal too, but in check mode a package may bring them
    groups: tuple[str, ...]
    users: tuple[UserSpec, ...]
    memberships: tuple[tuple[str, tuple[str, ...]], ...]
    remove: tuple[str, ...]
    directories: tuple[DirectorySpec, ...]
    files: tuple[FileSpec, ...]
    attributes: tuple[FileSpec, ...]  # content is right, owner or mode is not
    links: tuple[LinkSpec, ...]
    trees: tuple[TreeSpec, ...]  # build this version
    switches: tuple[TreeSpec, ...]  # point the link at this version
    prune: tuple[str, ...]
    enable: tuple[str, ...]
    reenable: tuple[str, ...]
    disable: tuple[str, ...]
    reload: bool
    start_sockets: tuple[str, ...]
    restart_sockets: tuple[str, ...]
    stop_sockets: tuple[str, ...]
    action: str  # none, start, restart, stop
    restart_due: bool
    reasons: tuple[str, ...]  # why the unit has to restart

    @property
    def changed(self) -> bool:
        """Whether carrying out the plan changes the host. A reload of what somebody else changed does count."""
        lists = (self.groups, self.users, self.memberships, self.remove, self.directories, self.files, self.attributes,
                 self.links, self.trees, self.switches, self.prune, self.enable, self.reenable, self.disable,
                 self.start_sockets, self.restart_sockets, self.stop_sockets)  # fmt: skip
        return any(lists) or self.reload or self.action != "none"

    @property
    def touches_running(self) -> bool:
        """Whether something is about to change that the running process was started with."""
        return (
            any(f.restart for f in self.files)
            or any(x.restart for x in self.links)
            or any(x.restart for x in (*self.switches, *self.trees))
            or bool(self.remove)
        )

    @property
    def paths(self) -> list[str]:
        """Every path that is written, fixed or removed, sorted."""
        found = {f.path for f in self.files} | {f.path for f in self.attributes} | {x.path for x in self.links}
        found |= {d.path for d in self.directories} | set(self.remove) | set(self.prune)
        found |= {x.link_path for x in self.switches} | {os.path.join(x.root, x.version) for x in self.trees}
        return sorted(found)


def restart_digest(desired: Desired, observed: Observed = NOTHING) -> str:
    """SHA-256 over everything a restart takes over: contents of files, link targets, versions of trees, and what was
    found of files that others write."""
    digest = hashlib.sha256()
    lines = [f"file {f.path} {hashlib.sha256(f.content).hexdigest()}" for f in desired.files if f.restart]
    lines += [f"link {x.path} {x.target}" for x in desired.links if x.restart]
    lines += [f"tree {x.root} {x.version}" for x in desired.trees if x.restart]
    for path in desired.reads:
        content = observed.paths.get(path, PathState()).content
        lines.append(f"reads {path} {'' if content is None else hashlib.sha256(content).hexdigest()}")
    for line in sorted(lines):
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def relevant_paths(desired: Desired) -> list[str]:
    """Paths on disk whose change the running process does not see without a restart."""
    paths = [f.path for f in desired.files if f.restart]
    paths += [x.path for x in desired.links if x.restart]
    return [*paths, *(x.link_path for x in desired.trees if x.restart), *desired.reads]


def unit_file_name(unit: str) -> str:
    """The file a unit is loaded from: `web@1.service` comes from `web@.service`."""
    stem, dot, suffix = unit.rpartition(".")
    return stem.split("@", 1)[0] + "@" + dot + suffix if "@" in stem else unit


def install_section(text: bytes) -> list[str]:
    """The assignments of the [Install] sections, which decide what "systemctl enable" links."""
    found: list[str] = []
    section = ""
    for line in text.decode("utf-8", "replace").splitlines():
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            section = line
        elif section == "[Install]" and line and line[0] not in "#;":
            found.append(line)
    return found


def is_unit_path(path: str) -> bool:
    return path.startswith(UNIT_DIRECTORIES)


def own_unit_file(unit: str, desired: Desired) -> FileSpec | None:
    """The described file that a unit is loaded from, None when it comes from elsewhere, such as a package."""
    for spec in desired.files:
        if is_unit_path(spec.path) and os.path.basename(spec.path) == unit_file_name(unit):
            return spec
    return None


def is_drop_in(path: str, unit: str) -> bool:
    """Whether a path is that of a drop-in of the unit."""
    folder, name = os.path.split(path)
    return is_unit_path(path) and os.path.basename(folder) == f"{unit}.d" and name.endswith(".conf")


def _changed_since(path: str, unit: UnitState, observed: Observed) -> bool:
    return observed.paths.get(path, PathState()).changed_at > unit.started_at - CLOCK_TICK


def restart_reasons(desired: Desired, observed: Observed) -> list[str]:
    """Why the running unit does not run what is on disk (as it was found, before this call writes anything).

    The decision is made from the state of the host, never from what an earlier task did, so that a play that died
    between writing a file and the restart heals on the next run:

    * The stamp says which content the process with a given InvocationID was started with. Before a relevant file
      changes, the stamp is marked pending, so whoever died in between left a note, also when the unit has been
      restarted by somebody else with only half of the files in place.
    * Without a stamp for this very process (first run, reboot: /run is empty, restart by hand or after a crash) the
      times decide. A file that last changed before the process was forked has been read by it. ctime counts beside
      mtime: a file moved into place keeps an old mtime. systemd's own definition is not read at fork but at
      daemon-reload, hence NeedDaemonReload.
    """
    unit = observed.units.get(desired.name, UnitState())
    stamp = observed.stamp
    if stamp and stamp.pending:
        return ["an earlier run changed its files and did not get as far as the restart"]
    if stamp and stamp.invocation == unit.invocation:
        if stamp.sha256 != restart_digest(desired, observed):
            return ["it was started with other content"]
        return []
    reasons = [
        f"{path} changed after it was started"
        for path in relevant_paths(desired)
        if _changed_since(path, unit, observed)
    ]
    if unit.need_reload:
        reasons.append("its unit file changed after systemd loaded it")
    return reasons


def difference(name: str, before: str, after: str) -> dict[str, str]:
    """One entry of what Ansible prints with --diff."""
    return {"before_header": name, "after_header": name, "before": before, "after": after}


def owner_differs(owner: str, group: str, found: PathState) -> bool:
    """Whether a path belongs to others than these, which are names or numbers."""
    return owner not in (found.owner, str(found.uid)) or group not in (found.group, str(found.gid))


def _plan_files(desired: Desired, observed: Observed) -> tuple[list[FileSpec], list[FileSpec], list[str]]:
    write: list[FileSpec] = []
    fix: list[FileSpec] = []
    problems: list[str] = []
    for spec in desired.files:
        found = observed.paths.get(spec.path, PathState())
        if found.kind in ("directory", "other"):
            kind = "directory" if found.kind == "directory" else "special file"
            problems.append(f"{spec.path} should be a file but is a {kind}; move it away.")
        elif found.kind != "file" or found.content != spec.content:
            write.append(spec)
        elif found.mode != spec.mode or owner_differs(spec.owner, spec.group, found):
            fix.append(spec)
    return write, fix, problems


def _plan_directories(desired: Desired, observed: Observed) -> tuple[list[DirectorySpec], list[str]]:
    make: list[DirectorySpec] = []
    problems: list[str] = []
    for spec in desired.directories:
        found = observed.paths.get(spec.path, PathState())
        if found.kind not in ("absent", "directory"):
            problems.append(f"{spec.path} should be a directory but is a {found.kind}; move it away.")
        elif found.kind == "absent" or found.mode != spec.mode or owner_differs(spec.owner, spec.group, found):
            make.append(spec)
    return make, problems


def _plan_links(desired: Desired, observed: Observed) -> tuple[list[LinkSpec], list[str]]:
    make: list[LinkSpec] = []
    problems: list[str] = []
    for spec in desired.links:
        found = observed.paths.get(spec.path, PathState())
        if found.kind not in ("absent", "link"):
            problems.append(f"{spec.path} should be a link to {spec.target} but is a {found.kind}; move it away.")
        elif found.kind == "absent" or found.target != spec.target:
            make.append(spec)
    return make, problems


def _plan_trees(desired: Desired, observed: Observed) -> tuple[list[TreeSpec], list[TreeSpec], list[str]]:
    build: list[TreeSpec] = []
    switch: list[TreeSpec] = []
    prune: list[str] = []
    for spec in desired.trees:
        found = observed.trees.get(spec.root, TreeState())
        if not found.complete:
            build.append(spec)
        if found.target != spec.version:
            switch.append(spec)
        others = [version for version in found.versions if version != spec.version]
        previous = found.target if found.target in others else (others[0] if others else "")
        prune += [os.path.join(spec.root, version) for version in others if version != previous]
    return build, switch, prune


def _plan_accounts(
    desired: Desired, observed: Observed
) -> tuple[list[str], list[UserSpec], list[tuple[str, tuple[str, ...]]]]:
    groups = [name for name in desired.groups if name not in observed.groups]
    users = [user for user in desired.users if user.name not in observed.users]
    memberships = []
    for user in desired.users:
        missing = tuple(g for g in user.groups if g not in observed.users.get(user.name, frozenset(user.groups)))
        if missing:
            memberships.append((user.name, missing))
    return groups, users, memberships


def _unknown_owners(desired: Desired, observed: Observed) -> list[str]:
    """Owners and groups that neither exist nor are made by this call, as sentences."""
    users = set(observed.users) | {user.name for user in desired.users}
    groups = set(observed.groups) | set(desired.groups)
    found = []
    specs: list[FileSpec | DirectorySpec] = [*desired.directories, *desired.files]
    for spec in specs:
        for kind, name, known in (("user", spec.owner, users), ("group", spec.group, groups)):
            if name not in known and not name.isdigit():
                found.append(
                    f"{spec.path} should belong to {kind} {name}, which does not exist;"
                    f" add it to {kind}s or install its package first."
                )
    for user in desired.users:
        for group in (user.group, *user.groups):
            if group not in groups:
                found.append(f"user {user.name} should be in group {group}, which does not exist; add it to groups.")
    return found


def _enable_step(unit: str, desired: Desired, observed: Observed, write: t.Sequence[FileSpec]) -> str:
    """What to do about the start of one unit at boot: "", "enable", "reenable", "disable", or "masked": impossible."""
    state = observed.units.get(unit, UnitState()).file_state
    if not desired.enabled:
        return "disable" if state in ("enabled", "enabled-runtime") else ""
    own = own_unit_file(unit, desired)
    if own is None:
        if state.startswith("masked"):
            return "masked"
        return "" if state in ENABLED_STATES else "enable"
    # From here on the unit file is ours, so its text says what systemd will see; a mask in its place is replaced.
    wanted = install_section(own.content)
    if not wanted:
        return ""
    if state not in ENABLED_STATES or (own in write and state == "static"):
        return "enable"
    before = observed.paths.get(own.path, PathState()).content
    return "reenable" if own in write and before is not None and install_section(before) != wanted else ""


def _plan_enable(
    desired: Desired, observed: Observed, write: t.Sequence[FileSpec]
) -> tuple[dict[str, list[str]], list[str]]:
    """Units by what to do about them, and problems."""
    steps: dict[str, list[str]] = {}
    for unit in (*desired.sockets, desired.name):
        steps.setdefault(_enable_step(unit, desired, observed, write), []).append(unit)
    problems = [
        f"{unit} is masked and cannot be started; run 'systemctl unmask {unit}' on the host if that is not meant to be."
        for unit in steps.get("masked", [])
        if desired.state == "started"
    ]
    return steps, problems


def _plan_sockets(
    desired: Desired, observed: Observed, write: t.Sequence[FileSpec], remove: t.Sequence[str]
) -> tuple[list[str], list[str], list[str]]:
    """Sockets to start, to restart (their own unit file or a drop-in changed), to stop."""
    start: list[str] = []
    restart: list[str] = []
    stop: list[str] = []
    for name in desired.sockets:
        unit = observed.units.get(name, UnitState())
        if desired.state == "stopped":
            if unit.running:
                stop.append(name)
            continue
        if not unit.running:
            start.append(name)
            continue
        own = [spec for spec in desired.files if is_drop_in(spec.path, name)]
        own += [spec for spec in [own_unit_file(name, desired)] if spec]
        gone = [path for path in desired.absent if is_drop_in(path, name)]
        # Of a drop-in that a killed run has removed nothing is left but its note that a restart is due.
        noted = bool(gone and observed.stamp and observed.stamp.pending)
        if (
            noted
            or any(path in remove for path in gone)
            or any(spec in write or _changed_since(spec.path, unit, observed) for spec in own)
        ):
            restart.append(name)
    return start, restart, stop


def _contradictions(desired: Desired) -> list[str]:
    """Descriptions that no host can match."""
    problems: list[str] = []
    paths = [f.path for f in desired.files] + [d.path for d in desired.directories] + [x.path for x in desired.links]
    paths += [x.link_path for x in desired.trees]
    for path in sorted({p for p in paths if paths.count(p) > 1}):
        problems.append(f"{path} is described more than once in directories, files, links and trees; keep one entry.")
    for path in sorted(set(desired.absent) & set(paths)):
        problems.append(f"{path} is both described and listed in absent; keep one of them.")
    return problems


def make_plan(desired: Desired, observed: Observed) -> Plan:
    """Decide what makes a host that looks like `observed` match `desired`. Pure: same input, same plan."""
    problems = _contradictions(desired)
    write, fix, found = _plan_files(desired, observed)
    problems += found
    directories, found = _plan_directories(desired, observed)
    problems += found
    links, found = _plan_links(desired, observed)
    problems += found
    build, switch, prune = _plan_trees(desired, observed)
    groups, users, memberships = _plan_accounts(desired, observed)
    steps, found = _plan_enable(desired, observed, write)
    problems += found
    remove = [path for path in desired.absent if observed.paths.get(path, PathState()).kind != "absent"]
    start_sockets, restart_sockets, stop_sockets = _plan_sockets(desired, observed, write, remove)

    unit = observed.units.get(desired.name, UnitState())
    touched = [f.path for f in write] + remove
    reload_units = any(is_unit_path(path) for path in touched) or any(u.need_reload for u in observed.units.values())

    reasons: list[str] = []
    if unit.running and desired.state == "started":
        reasons = [f"{f.path} changes" for f in write if f.restart] + [f"{x.path} changes" for x in links if x.restart]
        reasons += [f"{x.root}/{x.version} is damaged" for x in build if x.restart and x not in switch]
        reasons += [f"{x.link_path} changes" for x in switch if x.restart] + [f"{path} is removed" for path in remove]
        reasons = reasons or restart_reasons(desired, observed)
        reasons += [f"{name} has to be started before it" for name in (*start_sockets, *restart_sockets)]
    due = bool(reasons) and desired.restart != "never"
    action = "none"
    if desired.state == "stopped":
        action = "stop" if unit.running or unit.active == "activating" else "none"
    elif not unit.running:
        action = "start"
    elif due and desired.restart == "auto":
        action = "restart"
    if action == "none" and unit.running:
        # systemd refuses to start a socket whose service runs already; it waits for the restart of the service.
        start_sockets, restart_sockets = [], []

    return Plan(
        problems=tuple(problems),
        unknown_owners=tuple(_unknown_owners(desired, observed)),
        groups=tuple(groups),
        users=tuple(users),
        memberships=tuple(memberships),
        remove=tuple(remove),
        directories=tuple(directories),
        files=tuple(write),
        attributes=tuple(fix),
        links=tuple(links),
        trees=tuple(build),
        switches=tuple(switch),
        prune=tuple(prune),
        enable=tuple(steps.get("enable", ())),
        reenable=tuple(steps.get("reenable", ())),
        disable=tuple(steps.get("disable", ())),
        reload=reload_units,
        start_sockets=tuple(start_sockets),
        restart_sockets=tuple(restart_sockets),
        stop_sockets=tuple(stop_sockets),
        action=action,
        restart_due=due and action != "restart",
        reasons=tuple(reasons),
    )
