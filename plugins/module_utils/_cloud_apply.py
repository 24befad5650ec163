# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""A description on a running host, without an agent: what it comes to, and what has to be done. Pure.

The files are those that CoreOS's own agent writes. Settings of sections go below /etc instead of /run unless asked for
otherwise, because nothing would write them again after a boot.
"""

from __future__ import annotations

import hashlib
import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_model as models
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_render as renderers
from ansible_collections.flotilla.cluster.plugins.module_utils._cloud_model import Directory, File, Model, Unit, User
from ansible_collections.flotilla.cluster.plugins.module_utils._host_plan import PathState, UnitState, owner_differs

MANIFEST = "/var/lib/flotilla/cloud-config.json"
_UNIT_FOLDERS = ("/etc/systemd/system/", "/run/systemd/system/")
_NETWORK_FOLDERS = ("/etc/systemd/network/", "/run/systemd/network/")
_UPDATE_CONF = "/etc/coreos/update.conf"
_UPDATE_UNITS = ("locksmithd.service", "update-engine.service")  # who reads it, once at the start


class Manifest(t.NamedTuple):
    """What earlier calls have put on the host, and units that were changed and not yet told."""

    files: t.Mapping[str, str] = {}  # path to SHA-256 of what was written there
    links: t.Mapping[str, str] = {}
    enabled: tuple[str, ...] = ()
    started: tuple[str, ...] = ()
    keys: t.Mapping[str, tuple[str, ...]] = {}
    pending: tuple[str, ...] = ()

    @classmethod
    def from_data(cls, data: t.Mapping[str, t.Any]) -> Manifest:
        """A manifest as it was saved; ValueError, KeyError or TypeError when it was not."""
        return cls(
            files={str(path): str(digest) for path, digest in data["files"].items()},
            links={str(path): str(target) for path, target in data["links"].items()},
            enabled=tuple(map(str, data["enabled"])),
            started=tuple(map(str, data["started"])),
            keys={str(user): tuple(map(str, keys)) for user, keys in data["keys"].items()},
            pending=tuple(map(str, data["pending"])),
        )

    def as_data(self) -> dict[str, t.Any]:
        return {
            "files": dict(self.files),
            "links": dict(self.links),
            "enabled": list(self.enabled),
            "started": list(self.started),
            "keys": {user: list(keys) for user, keys in self.keys.items()},
            "pending": list(self.pending),
        }


class Desired(t.NamedTuple):
    """What shall be on the host. C(merged) are files of which only some lines are ours."""

    files: tuple[File, ...] = ()
    merged: tuple[File, ...] = ()
    links: t.Mapping[str, str] = {}
    directories: tuple[Directory, ...] = ()
    users: tuple[User, ...] = ()
    groups: tuple[str, ...] = ()
    units: tuple[Unit, ...] = ()
    hostname: str = ""


class Account(t.NamedTuple):
    """A user of the host: the hash of its password, and the lines of its authorized_keys."""

    password: str = ""
    keys: tuple[str, ...] = ()


class Observed(t.NamedTuple):
    """The host. C(accounts) and C(groups) hold those that exist."""

    paths: t.Mapping[str, PathState] = {}
    accounts: t.Mapping[str, Account] = {}
    groups: frozenset[str] = frozenset()
    units: t.Mapping[str, UnitState] = {}
    hostname: str = ""
    manifest: Manifest = Manifest()


class Plan(t.NamedTuple):
    """What to do, in this order."""

    problems: tuple[str, ...] = ()
    hostname: str = ""
    groups: tuple[str, ...] = ()
    users: tuple[User, ...] = ()
    passwords: tuple[tuple[str, str], ...] = ()
    keys: tuple[tuple[str, tuple[str, ...]], ...] = ()  # user and all lines of its authorized_keys
    directories: tuple[Directory, ...] = ()
    write: tuple[File, ...] = ()
    fix: tuple[File, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    stop: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    reload: bool = False
    networkd: bool = False
    enable: tuple[str, ...] = ()
    actions: tuple[tuple[str, str], ...] = ()  # what and unit
    touched: tuple[str, ...] = ()  # units whose files change
    manifest: Manifest = Manifest()

    @property
    def changed(self) -> bool:
        """Whether carrying it out changes the host."""
        return bool(self.hostname or self.reload or self.networkd) or any(
            (self.groups, self.users, self.passwords, self.keys, self.directories, self.write, self.fix, self.links,
             self.stop, self.disable, self.remove, self.enable, self.actions)
        )  # fmt: skip

    @property
    def paths(self) -> list[str]:
        """Paths that are written, linked, fixed or removed."""
        return sorted(
            {one.path for one in (*self.write, *self.fix)}
            | {one.path for one in self.directories}
            | {path for path, _target in self.links}
            | set(self.remove)
        )


def desired_from(model: Model, persistent: bool = True) -> Desired:
    """What a model comes to on a host.

    :param persistent: settings of sections outlive a boot
    """
    ruled = _rebooter(model, persistent)
    units = (*models.unit_files(model, runtime=not persistent), *ruled)
    system = models.system_files(model, _UPDATE_CONF)
    files = [file for file in system if not file.append]
    files += [file for unit in units for file in renderers.unit_paths(unit)]
    named = {file.path for file in model.files}
    # what the user gives wins
    files = [file for file in files if file.path not in named] + list(model.files)
    links = {link.path: link.target for link in model.links}
    links.update({f"{unit.directory}/{unit.name}": "/dev/null" for unit in units if unit.mask})
    links.update({link.path: link.target for link in renderers.boot_links(model.units)} if persistent else {})
    return Desired(
        files=tuple(file for file in files if file.path not in links),
        merged=tuple(file for file in system if file.append),
        links=links,
        directories=model.directories,
        users=model.users,
        groups=model.groups,
        units=(*(map(_kept, model.units) if persistent else model.units), *ruled),
        hostname=model.hostname,
    )


def _rebooter(model: Model, persistent: bool) -> tuple[Unit, ...]:
    """A strategy of off stops and masks who would reboot, as in the original."""
    if model.update.get("reboot_strategy") != "off":
        return ()
    return (Unit(_UPDATE_UNITS[0], mask=True, runtime=not persistent, command="stop"),)


def _kept(unit: Unit) -> Unit:
    """The original runs commands at each boot; without it, a unit that is started has to be enabled."""
    starts = unit.command in ("start", "restart") and not unit.is_network and not unit.mask
    return unit._replace(enable=True) if starts and (unit.installs or unit.content is None) else unit


def paths_of(desired: Desired, manifest: Manifest) -> list[str]:
    """Every path that has to be looked at."""
    found = {one.path for one in (*desired.files, *desired.merged)} | {one.path for one in desired.directories}
    return sorted(found | set(desired.links) | set(manifest.files) | set(manifest.links))


def units_of(desired: Desired, manifest: Manifest) -> list[str]:
    """Every unit that systemd has to be asked about."""
    names = [unit.name for unit in desired.units if not unit.is_network]
    names += _UPDATE_UNITS if any(file.path == _UPDATE_CONF for file in desired.merged) else ()
    return list(dict.fromkeys([*names, *manifest.enabled, *manifest.started]))


def _merged(file: File, existing: bytes | None) -> File:
    """A file of the system with our lines in it."""
    before = (existing or b"").decode("utf-8", "replace")
    ours = dict(line.split("=", 1) for line in file.content.decode().splitlines())
    return file._replace(content=models.environment_file(ours, before).encode(), append=False)


def _files(desired: Desired, observed: Observed) -> tuple[list[File], list[File], list[str]]:
    write, fix, problems = [], [], []
    wanted = list(desired.files)
    for file in desired.merged:
        found = observed.paths.get(file.path, PathState())
        one = _merged(file, found.content)
        wanted.append(one._replace(mode=found.mode or one.mode))
    for file in wanted:
        found = observed.paths.get(file.path, PathState())
        if found.kind == "directory":
            problems.append(f"{file.path} should be a file but is a directory; move it away")
        elif found.kind != "file" or found.content != file.content:
            write.append(file)
        elif found.mode != file.mode or owner_differs(file.owner, file.group, found):
            fix.append(file)
    return write, fix, problems


def _directories(desired: Desired, observed: Observed) -> tuple[list[Directory], list[str]]:
    make, problems = [], []
    for one in desired.directories:
        found = observed.paths.get(one.path, PathState())
        if found.kind not in ("absent", "directory"):
            problems.append(f"{one.path} should be a directory but is a {found.kind}; move it away")
        elif found.kind == "absent" or found.mode != one.mode or owner_differs(one.owner, one.group, found):
            make.append(one)
    return make, problems


def _links(desired: Desired, observed: Observed) -> tuple[list[tuple[str, str]], list[str]]:
    make, problems = [], []
    for path, target in desired.links.items():
        found = observed.paths.get(path, PathState())
        # the original deletes the file of a unit that is masked, too
        if found.kind == "directory" or (found.kind == "file" and target != "/dev/null"):
            problems.append(f"{path} should be a link to {target} but is a {found.kind}; move it away")
        elif found.target != target:
            make.append((path, target))
    return make, problems


def _accounts(
    desired: Desired, observed: Observed
) -> tuple[list[User], list[tuple[str, str]], list[tuple[str, tuple[str, ...]]]]:
    """Users to make, passwords to set, and authorized_keys to write; a user that exists keeps all else."""
    users, passwords, keys = [], [], []
    wanted = {user.name: user for user in desired.users}
    for user in desired.users:
        if user.name not in observed.accounts:
            users.append(user)
        if user.passwd and observed.accounts.get(user.name, Account()).password != user.passwd:
            passwords.append((user.name, user.passwd))
    for name in dict.fromkeys([*wanted, *observed.manifest.keys]):
        account = observed.accounts.get(name)
        if account is None and name not in wanted:
            continue
        ours = wanted[name].ssh_authorized_keys if name in wanted else ()
        dropped = set(observed.manifest.keys.get(name, ())) - set(ours)
        before = account.keys if account else ()
        after = [line for line in before if line not in dropped]
        after += [key for key in ours if key not in after]
        if tuple(after) != before:
            keys.append((name, tuple(after)))
    return users, passwords, keys


def unit_of_path(path: str) -> str:
    """The unit that a file belongs to, "" for one that is no unit's."""
    for folder in (*_UNIT_FOLDERS, *_NETWORK_FOLDERS):
        if path.startswith(folder):
            first = path[len(folder) :].split("/")[0]
            return first[:-2] if first.endswith(".d") else "" if first.endswith((".wants", ".requires")) else first
    return ""


def _action(unit: Unit, state: UnitState, touched: bool) -> str:
    """What "command" comes to now, "" for nothing: a second call does not start or restart anything again."""
    command = unit.command
    if command in ("start", "restart"):
        if not state.running:
            return "start"
        return "restart" if touched else ""
    if command == "stop":
        return "stop" if state.running else ""
    if command.startswith(("reload", "try")):
        return command if touched and state.running else ""
    return ""


def _dropped_units(desired: Desired, observed: Observed, removed: t.Collection[str]) -> tuple[list[str], list[str]]:
    """Units that an earlier description started or enabled and this one does not know: to stop, to disable."""
    known = {unit.name for unit in desired.units}
    gone = {unit_of_path(path) for path in removed}
    stop = [
        name
        for name in observed.manifest.started
        if name not in known and name in gone and observed.units.get(name, UnitState()).running
    ]
    disable = [
        name
        for name in observed.manifest.enabled
        if name not in {unit.name for unit in desired.units if unit.enable}
        and observed.units.get(name, UnitState()).file_state == "enabled"
    ]
    return stop, disable


def _enable(desired: Desired, observed: Observed) -> list[str]:
    """Units to enable. systemd is asked before it knows a unit that is written now, which is not enabled either."""
    found = []
    for unit in desired.units:
        state = observed.units.get(unit.name, UnitState())
        if unit.enable and not unit.is_network and not unit.mask and state.file_state in ("", "disabled", "masked"):
            found.append(unit.name)
    return found


def make_plan(desired: Desired, observed: Observed) -> Plan:
    """Decide what to do."""
    write, fix, problems = _files(desired, observed)
    directories, more = _directories(desired, observed)
    links, still_more = _links(desired, observed)
    users, passwords, keys = _accounts(desired, observed)
    kept = {file.path for file in desired.files} | set(desired.links)
    remove = [
        path
        for path in (*observed.manifest.files, *observed.manifest.links)
        if path not in kept and observed.paths.get(path, PathState()).kind in ("file", "link")
    ]
    changing = [*(file.path for file in write), *(path for path, _target in links), *remove]
    touched = list(dict.fromkeys([*filter(None, map(unit_of_path, changing)), *observed.manifest.pending]))
    touched += [name for name in _UPDATE_UNITS if _UPDATE_CONF in changing and name not in touched]
    stop, disable = _dropped_units(desired, observed, remove)
    actions = []
    for unit in desired.units:
        # one that is masked can still be told to stop
        if not unit.is_network and (not unit.mask or unit.command == "stop"):
            action = _action(unit, observed.units.get(unit.name, UnitState()), unit.name in touched)
            actions += [(action, unit.name)] if action else []
    gone = {*stop, *(path.rpartition("/")[2] for path in remove)}
    actions += [
        ("try-restart", name) for name in touched if name not in gone and _has_settings(name, desired, observed)
    ]
    return Plan(
        problems=(*problems, *more, *still_more),
        hostname=desired.hostname if desired.hostname not in ("", observed.hostname) else "",
        groups=tuple(name for name in desired.groups if name not in observed.groups),
        users=tuple(users),
        passwords=tuple(passwords),
        keys=tuple(keys),
        directories=tuple(directories),
        write=tuple(write),
        fix=tuple(fix),
        links=tuple(links),
        stop=tuple(stop),
        disable=tuple(disable),
        remove=tuple(remove),
        reload=any(path.startswith(_UNIT_FOLDERS) for path in changing) or bool(observed.manifest.pending),
        networkd=any(path.startswith(_NETWORK_FOLDERS) for path in changing),
        enable=tuple(_enable(desired, observed)),
        actions=tuple(actions),
        touched=tuple(touched),
        manifest=_manifest(desired, keys, observed),
    )


def _has_settings(name: str, desired: Desired, observed: Observed) -> bool:
    """Whether a unit that the description does not command runs and has new settings."""
    commanded = {unit.name for unit in desired.units if unit.command}
    return name not in commanded and observed.units.get(name, UnitState()).running


def _manifest(desired: Desired, keys: t.Sequence[tuple[str, tuple[str, ...]]], observed: Observed) -> Manifest:
    return Manifest(
        files={file.path: hashlib.sha256(file.content).hexdigest() for file in desired.files},
        links=dict(desired.links),
        enabled=tuple(unit.name for unit in desired.units if unit.enable and not unit.is_network and not unit.mask),
        started=tuple(unit.name for unit in desired.units if unit.command in ("start", "restart")),
        keys={user.name: user.ssh_authorized_keys for user in desired.users if user.ssh_authorized_keys},
    )


def user_command(user: User, default_shell: str = "/bin/bash") -> list[str]:
    """The command that makes a user."""
    argv = ["useradd"]
    values = {
        "--comment": user.gecos,
        "--home-dir": user.homedir,
        "--gid": user.primary_group,
        "--groups": ",".join(user.groups),
        "--shell": user.shell or default_shell,
    }
    for option, value in values.items():
        argv += [option, value] if value else []
    argv.append("--no-create-home" if user.no_create_home else "--create-home")
    argv += ["--no-user-group"] if user.no_user_group or user.primary_group else []
    argv += ["--system"] if user.system else []
    argv += ["--no-log-init"] if user.no_log_init else []
    return [*argv, user.name]
