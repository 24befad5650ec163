# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
# Do not use this code from other collections or standalone plugins and modules!

"""The thin side of C(host_service): looks at the host and carries out a plan. Decisions live in `_host_plan`."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import time
import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils import _lock
from ansible_collections.flotilla.cluster.plugins.module_utils._host_plan import (
    UNIT_DIRECTORIES,
    VERSION_NAME,
    Desired,
    FileSpec,
    LinkSpec,
    Observed,
    PathState,
    Plan,
    Stamp,
    TreeSpec,
    TreeState,
    UnitState,
)

STAMP_DIRECTORY = "/run/flotilla"
TREE_TEMPORARY = ".flotilla.new"
LOCK_TIMEOUT = 120
UNIT_PROPERTIES = (
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "InvocationID",
    "ExecMainStartTimestampMonotonic",
    "ActiveEnterTimestampMonotonic",
    "NeedDaemonReload",
    "Result",
)
COMMAND_TIMEOUT = 30
# Where systemd looks for unit files of the system, as far as packages and administrators write there.
UNIT_FOLDERS = tuple(path if path.endswith("/system/") else f"{path}system/" for path in UNIT_DIRECTORIES)
_ENVIRONMENT = {"LC_ALL": "C", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": "", "SYSTEMD_LESS": ""}


class HostError(Exception):
    """Something could not be done on the host; the message is one sentence for the user."""


class UnitError(HostError):
    """systemd did not do what it was asked to do with a unit."""


class CommandResult(t.NamedTuple):
    rc: int
    stdout: str
    stderr: str


def run(
    argv: t.Sequence[str], timeout: float = COMMAND_TIMEOUT, environment: t.Mapping[str, str] | None = None
) -> CommandResult:
    """Run a command without a shell. A missing program gives rc 127, one that takes too long rc 124."""
    try:
        # module.run_command knows no deadline
        done = subprocess.run(  # pylint: disable=ansible-bad-function
            list(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
            env={**os.environ, **_ENVIRONMENT, **(environment or {})},
        )
    except FileNotFoundError:
        return CommandResult(127, "", f"{argv[0]}: no such program")
    except OSError as error:
        return CommandResult(126, "", f"{argv[0]}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return CommandResult(124, "", f"{argv[0]} did not end within {timeout:g} s")
    return CommandResult(
        done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    )


def must(
    argv: t.Sequence[str],
    doing: str,
    timeout: float = COMMAND_TIMEOUT,
    environment: t.Mapping[str, str] | None = None,
) -> CommandResult:
    """Run a command that has to succeed; `doing` says what for. Raises HostError."""
    result = run(argv, timeout, environment)
    if result.rc != 0:
        said = (result.stderr.strip() or result.stdout.strip()).replace("\n", " ")
        raise HostError(f"{doing} failed: '{shlex.join(argv)}' ended with {result.rc}: {said.rstrip('.')}")
    return result


# --- looking ---------------------------------------------------------------------------------------------------


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def look_at_path(path: str, with_content: bool) -> PathState:
    """State of one path; links are not followed."""
    try:
        info = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return PathState()
    kind, target = "other", ""
    content: bytes | None = None
    if stat.S_ISREG(info.st_mode):
        kind = "file"
        if with_content:
            with open(path, "rb") as stream:
                content = stream.read()
    elif stat.S_ISDIR(info.st_mode):
        kind = "directory"
    elif stat.S_ISLNK(info.st_mode):
        kind, target = "link", os.readlink(path)
    return PathState(
        kind=kind,
        owner=_user_name(info.st_uid),
        uid=info.st_uid,
        group=_group_name(info.st_gid),
        gid=info.st_gid,
        mode=stat.S_IMODE(info.st_mode),
        target=target,
        content=content,
        changed_at=max(info.st_mtime, info.st_ctime),
    )


def _tree_complete(spec: TreeSpec) -> bool:
    directory = os.path.join(spec.root, spec.version)
    for relative, content in spec.files.items():
        found = look_at_path(os.path.join(directory, relative), True)
        if found.content != content:
            return False
    return True


def look_at_tree(spec: TreeSpec) -> TreeState:
    """Which versions of a tree are there, which one the link names, and whether the wanted one is whole."""
    link = look_at_path(spec.link_path, False)
    versions: list[tuple[float, str]] = []
    try:
        with os.scandir(spec.root) as entries:
            versions = [
                (entry.stat(follow_symlinks=False).st_mtime, entry.name)
                for entry in entries
                if VERSION_NAME.match(entry.name) and entry.is_dir(follow_symlinks=False)
            ]
    except (FileNotFoundError, NotADirectoryError):
        return TreeState()
    return TreeState(
        target=link.target,
        complete=_tree_complete(spec),
        versions=tuple(name for _mtime, name in sorted(versions, reverse=True)),
    )


def parse_units(names: t.Sequence[str], text: str, now_wall: float, now_monotonic: float) -> dict[str, UnitState]:
    """Parse "systemctl show" for several units, whose blocks come in the order of the question.

    Monotonic times become wall clock, to be compared with the times of files.
    """
    units: dict[str, UnitState] = {}
    for name, block in zip(names, text.strip("\n").split("\n\n")):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        started = int(values.get("ExecMainStartTimestampMonotonic") or 0) or int(
            values.get("ActiveEnterTimestampMonotonic") or 0
        )
        units[name] = UnitState(
            load=values.get("LoadState", ""),
            active=values.get("ActiveState", ""),
            sub=values.get("SubState", ""),
            file_state=values.get("UnitFileState", ""),
            invocation=values.get("InvocationID", ""),
            started_at=now_wall - (now_monotonic - started / 1e6) if started else 0.0,
            need_reload=values.get("NeedDaemonReload") == "yes",
            succeeded=values.get("Result", "success") == "success",
        )
    return units


def look_at_units(names: t.Sequence[str]) -> dict[str, UnitState]:
    """State of all units in one call."""
    argv = ["systemctl", "show", "--no-pager", "--property=" + ",".join(UNIT_PROPERTIES), "--", *names]
    return parse_units(names, must(argv, "Reading the state of units").stdout, time.time(), time.monotonic())


def stamp_path(unit: str) -> str:
    return os.path.join(STAMP_DIRECTORY, unit + ".json")


def read_stamp(unit: str) -> Stamp | None:
    """The stamp of a unit; None when there is none or it cannot be understood (then the times decide)."""
    try:
        with open(stamp_path(unit), encoding="utf-8") as stream:
            data = json.load(stream)
        return Stamp(sha256=str(data["sha256"]), invocation=str(data["invocation"]), pending=bool(data["pending"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_stamp(unit: str, stamp: Stamp) -> None:
    os.makedirs(STAMP_DIRECTORY, mode=0o755, exist_ok=True)
    write_atomically(stamp_path(unit), json.dumps(stamp._asdict(), sort_keys=True).encode(), 0o600)


def observe(desired: Desired) -> Observed:
    """Everything `make_plan` has to know about this host."""
    paths: dict[str, PathState] = {}
    for path in [*(d.path for d in desired.directories), *(x.path for x in desired.links), *desired.absent]:
        paths[path] = look_at_path(path, False)
    for tree in desired.trees:
        paths[tree.link_path] = look_at_path(tree.link_path, False)
    for path in [*(spec.path for spec in desired.files), *desired.reads]:
        paths[path] = look_at_path(path, True)

    users: dict[str, frozenset[str]] = {}
    wanted = (
        {user.name for user in desired.users}
        | {f.owner for f in desired.files}
        | {d.owner for d in desired.directories}
    )
    for name in wanted:
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        users[name] = frozenset()
    groups: set[str] = set()
    wanted = set(desired.groups) | {f.group for f in desired.files} | {d.group for d in desired.directories}
    wanted |= {group for user in desired.users for group in (user.group, *user.groups)}
    for name in wanted:
        try:
            members = grp.getgrnam(name).gr_mem
        except KeyError:
            continue
        groups.add(name)
        for member in members:
            if member in users:
                users[member] |= {name}
    return Observed(
        paths=paths,
        trees={tree.root: look_at_tree(tree) for tree in desired.trees},
        users=users,
        groups=frozenset(groups),
        units=look_at_units([desired.name, *desired.sockets]),
        stamp=read_stamp(desired.name),
    )


# --- one run at a time ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(unit: str) -> t.Iterator[None]:
    """Keep other runs away from this unit. Raises HostError when one does not end."""
    os.makedirs(STAMP_DIRECTORY, mode=0o755, exist_ok=True)
    path = os.path.join(STAMP_DIRECTORY, unit + ".lock")
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb") as held:
        if not _lock.take(held.fileno(), LOCK_TIMEOUT):
            raise HostError(
                f"Another run has been working on {unit} on this host for more than {LOCK_TIMEOUT} s; wait until it"
                f" ends, or find it with 'fuser {path}'"
            )
        yield


def clean_up(services: t.Sequence[Desired]) -> None:
    """Remove what a killed run left beside its targets. Call it within `locked`."""
    for desired in services:
        for spec in desired.files:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(_temporary_name(spec.path))
        for tree in desired.trees:
            shutil.rmtree(os.path.join(tree.root, TREE_TEMPORARY), ignore_errors=True)


# --- writing ---------------------------------------------------------------------------------------------------


def _sync_directory(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def owner_ids(owner: str, group: str) -> tuple[int, int]:
    """The numbers of an owner and a group given by name or number; KeyError when there are none of that name."""
    uid = int(owner) if owner.isdigit() else pwd.getpwnam(owner).pw_uid
    gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    return uid, gid


def _temporary_name(path: str) -> str:
    # The name keeps its ending (validators look at it) and starts with a dot (systemd and *.d directories skip it). It
    # is always the same, so that what a killed run left behind is found; `locked` keeps two runs from sharing it.
    return os.path.join(os.path.dirname(path), ".flotilla." + os.path.basename(path))


def stage(path: str, content: bytes, mode: int, ids: tuple[int, int] | None = None) -> str:
    """Write `content` beside `path`, on disk and with its final owner and mode; returns the temporary name."""
    temporary = _temporary_name(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
        if ids:
            os.fchown(handle, *ids)
        os.fchmod(handle, mode)
        stream.flush()
        os.fsync(handle)
    return temporary


def write_atomically(path: str, content: bytes, mode: int, ids: tuple[int, int] | None = None) -> None:
    """Replace `path` so that a reader, or a machine that loses power, sees the old or the new content."""
    os.rename(stage(path, content, mode, ids), path)
    _sync_directory(os.path.dirname(path))


def link_atomically(path: str, target: str) -> None:
    temporary = _temporary_name(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    os.symlink(target, temporary)
    os.rename(temporary, path)
    _sync_directory(os.path.dirname(path))


def check_content(spec: FileSpec, temporary: str, programs: t.Mapping[str, str] | None = None) -> None:
    """Run the validator of a file on its staged content. Raises HostError; says nothing of a sensitive content.

    `programs` gives the staged content of files by their paths: a validator that is itself about to be written.
    """
    if not spec.validate:
        return
    program, *words = shlex.split(spec.validate)
    argv = [(programs or {}).get(program, program), *(word.replace("%s", temporary) for word in words)]
    result = run(argv)
    if result.rc == 0:
        return
    said = (result.stderr.strip() or result.stdout.strip()).replace(temporary, spec.path)
    said = said.replace(os.path.basename(temporary), os.path.basename(spec.path))
    if spec.sensitive:
        said = "its output is not shown, because the file is sensitive"
    raise HostError(
        f"The new content of {spec.path} was refused by '{spec.validate}' (it ended with {result.rc}): {said}"
    )


def stage_files(specs: t.Sequence[FileSpec]) -> list[tuple[str, FileSpec]]:
    """Stage and validate all files before the first one is switched; nothing is left behind when one is refused."""
    staged: list[tuple[str, FileSpec]] = []
    try:
        for spec in specs:
            os.makedirs(os.path.dirname(spec.path), mode=0o755, exist_ok=True)
            staged.append((stage(spec.path, spec.content, spec.mode, owner_ids(spec.owner, spec.group)), spec))
        programs = {spec.path: temporary for temporary, spec in staged}
        for temporary, spec in staged:
            check_content(spec, temporary, programs)
    except (HostError, OSError):
        unstage(staged)
        raise
    return staged


def unstage(staged: t.Sequence[tuple[str, FileSpec]]) -> None:
    for temporary, _spec in staged:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def build_tree(spec: TreeSpec) -> None:
    """Make `<root>/<version>` complete with compiled bytecode, out of sight, then move it into place."""
    final = os.path.join(spec.root, spec.version)
    temporary = os.path.join(spec.root, TREE_TEMPORARY)
    shutil.rmtree(temporary, ignore_errors=True)
    os.makedirs(spec.root, mode=0o755, exist_ok=True)
    os.mkdir(temporary, 0o755)
    directories = {temporary}
    for relative, content in spec.files.items():
        path = os.path.join(temporary, relative)
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        directories.add(os.path.dirname(path))
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(handle, 0o644)
            stream.write(content)
            stream.flush()
            os.fsync(handle)
    if spec.compile:
        import compileall

        # stripdir/prependdir: tracebacks show the path the code runs from, not the temporary one.
        compileall.compile_dir(temporary, quiet=2, stripdir=temporary, prependdir=final)
    for directory in directories:
        _sync_directory(directory)
    if os.path.lexists(final):
        shutil.rmtree(final)
    os.rename(temporary, final)
    _sync_directory(spec.root)


def _make_accounts(plan: Plan) -> None:
    for group in plan.groups:
        must(["groupadd", "--system", group], f"Adding the group {group}")
    for user in plan.users:
        argv = [
            "useradd",
            "--system",
            "--gid",
            user.group,
            "--home-dir",
            user.home,
            "--no-create-home",
            "--shell",
            user.shell,
        ]
        if user.groups:
            argv += ["--groups", ",".join(user.groups)]
        must([*argv, user.name], f"Adding the user {user.name}")
    for name, groups in plan.memberships:
        must(
            ["usermod", "--append", "--groups", ",".join(groups), name],
            f"Adding the user {name} to {', '.join(groups)}",
        )


def _make_directories(plan: Plan) -> None:
    for spec in plan.directories:
        os.makedirs(os.path.dirname(spec.path), mode=0o755, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(spec.path, 0o700)
        os.chown(spec.path, *owner_ids(spec.owner, spec.group), follow_symlinks=False)
        os.chmod(spec.path, spec.mode)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def write_plan(plan: Plan, mark_pending: t.Callable[[], None]) -> None:
    """Carry out everything of a plan that is not about units.

    `mark_pending` is called when all files are staged and nothing that the running process was started with has
    changed yet.
    """
    _make_accounts(plan)
    _make_directories(plan)
    staged = stage_files(plan.files)
    try:
        if plan.touches_running:
            mark_pending()
        for tree in plan.trees:
            build_tree(tree)
    except BaseException:
        unstage(staged)
        raise
    for path in plan.remove:
        _remove(path)
    directories = set()
    for temporary, spec in staged:
        os.rename(temporary, spec.path)
        directories.add(os.path.dirname(spec.path))
    for directory in directories:
        _sync_directory(directory)
    for spec in plan.attributes:
        os.chown(spec.path, *owner_ids(spec.owner, spec.group), follow_symlinks=False)
        os.chmod(spec.path, spec.mode)
    links = [*plan.links, *(LinkSpec(tree.link_path, tree.version) for tree in plan.switches)]
    for link in links:
        os.makedirs(os.path.dirname(link.path), mode=0o755, exist_ok=True)
        link_atomically(link.path, link.target)
    for path in plan.prune:
        shutil.rmtree(path, ignore_errors=True)


# --- units -----------------------------------------------------------------------------------------------------


def _systemctl(
    verb: str,
    units: t.Sequence[str],
    doing: str,
    timeout: float = COMMAND_TIMEOUT,
    flags: t.Sequence[str] = (),
    environment: t.Mapping[str, str] | None = None,
) -> None:
    argv = ["systemctl", verb, *flags, "--", *units] if units else ["systemctl", verb, *flags]
    try:
        must(argv, doing, timeout, environment)
    except HostError as error:
        raise UnitError(*error.args) from None


def _is_native(unit: str) -> bool:
    """Whether systemd has a file of its own for a unit, an instance's template included."""
    name, _at, suffix = unit.partition("@")
    template = f"{name}@.{suffix.rpartition('.')[2]}" if suffix else unit
    return any(os.path.exists(os.path.join(folder, file)) for folder in UNIT_FOLDERS for file in (unit, template))


def _enable(verb: str, units: t.Sequence[str]) -> None:
    """Enable units in one go.

    For each unit that has a start script of old beside its unit file, systemctl would run a program of the
    distribution that changes nothing for systemd and has it reload twice.
    """
    environment = {"SYSTEMCTL_SKIP_SYSV": "1"} if all(map(_is_native, units)) else {}
    _systemctl(verb, units, "Enabling " + ", ".join(units), flags=["--quiet"], environment=environment)


def stop_units(name: str, plan: Plan, timeout: float) -> None:
    """Stop and disable; before any file goes, because systemd needs the unit file for both."""
    if plan.action == "stop" or plan.stop_sockets:
        _systemctl("stop", [*plan.stop_sockets, name], f"Stopping {name}", timeout)
    if plan.disable:
        _systemctl("disable", plan.disable, "Disabling " + ", ".join(plan.disable), flags=["--quiet"])


def change_unit_files(plans: t.Sequence[Plan]) -> None:
    """Enable and reload, for all plans at once. Each of the first ones reloads by itself, so one reload happens."""
    reenable = list(dict.fromkeys(name for plan in plans for name in plan.reenable))
    enable = list(dict.fromkeys(name for plan in plans for name in plan.enable))
    if reenable:
        _enable("reenable", reenable)
    if enable:
        _enable("enable", enable)
    if any(plan.reload for plan in plans) and not (reenable or enable):
        _systemctl("daemon-reload", [], "Reloading systemd")


def start_units(name: str, plan: Plan, before: UnitState, timeout: float, block: bool = True) -> None:
    """Start or restart the unit and its sockets, in an order systemd accepts.

    Without `block` it does not wait until the unit itself has started.
    """
    flags = [] if block else ["--no-block"]
    # systemd is about to try a unit again that failed. A start would join a try that has begun meanwhile, with the
    # files of before, and end as that does.
    retried = plan.action == "start" and before.active == "activating"
    anew = plan.action == "restart" or retried
    if before.active == "failed" or retried:
        # Otherwise a unit that used up its start limit would be refused.
        run(["systemctl", "reset-failed", "--", name])
    sockets = [*plan.start_sockets, *plan.restart_sockets]
    if anew and not sockets:
        _systemctl("restart", [name], f"{'Starting' if retried else 'Restarting'} {name}", timeout, flags)
        return
    stop = [*([name] if anew else []), *plan.restart_sockets]
    if stop:
        _systemctl("stop", stop, f"Stopping {', '.join(stop)}", timeout)
    if sockets:
        _systemctl("start", sockets, f"Starting {', '.join(sockets)}", timeout)
    if plan.action in ("start", "restart"):
        _systemctl("start", [name], f"Starting {name}", timeout, flags)


def journal_tail(name: str, since: float, lines: int = 15) -> list[str]:
    """The last lines of a unit's journal since a time (seconds since the epoch); if there are none, the last at all."""
    argv = ["journalctl", "--no-pager", "--quiet", "--output=short-iso", f"--lines={lines}", f"--unit={name}"]
    found = run([*argv, f"--since=@{since:.0f}"]).stdout.splitlines() or run(argv).stdout.splitlines()
    return found[-lines:]
