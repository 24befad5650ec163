# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One host: its disk, its cgroup, its start and its ends.

A host's processes are those in its cgroup. The cgroup is made before the first of them and left by none, so it also
tells what a run that died half-way has started, and no remembered process id can come to mean another process.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from . import image, render
from .plan import Cluster, Host, HostsError, bridge_name, machine_name
from .system import Progress, mounts_below, run, tail, write_file

DISKS = Path("/var/lib/flotilla/hosts")
RUNTIME = Path("/run/flotilla-hosts")

_CGROUPS = Path("/sys/fs/cgroup")
_POWEROFF = signal.SIGRTMIN + 4

# Runs "$3..." in the cgroups "$1" and "$2" (which may be empty), and again when the host reboots: systemd-nspawn
# that is told to keep its unit ends with 133 then. The keeper itself has cgroups of its own below them, because the
# controllers that systemd-nspawn hands on need a cgroup without processes, and are taken back before it enters again.
_KEEPER = r"""
for group in "$1" ${2:+"$2"}; do
    mkdir -p "$group/keeper"
    echo $$ > "$group/keeper/cgroup.procs"
done
enter='
for group in "$1" ${2:+"$2"}; do
    for name in $(cat "$group/cgroup.subtree_control" 2>/dev/null); do
        echo "-$name" > "$group/cgroup.subtree_control"
    done
    echo $$ > "$group/cgroup.procs"
done
shift 2
exec "$@"'
code=133
while [ "$code" = 133 ]; do
    code=0
    sh -euc "$enter" enter "$@" || code=$?
done
exit "$code"
"""
_CONSOLE_LINES = 20


@dataclass(frozen=True)
class Place:
    """Where one host of one cluster keeps what: the disk survives a stop, the rest does not."""

    cluster: str
    host: str

    @property
    def disk(self) -> Path:
        """The overlay's upper layer, docker's directory, the console log."""
        return DISKS / self.cluster / self.host

    @property
    def console(self) -> Path:
        """What the host last wrote to its console."""
        return self.disk / "console.log"

    @property
    def root(self) -> Path:
        """Where its file system is mounted."""
        return RUNTIME / self.cluster / self.host / "root"

    @property
    def cgroups(self) -> list[Path]:
        """Its cgroup in each hierarchy that systemd in the host will look at, the one with all processes first."""
        return [path / self.host for path in cgroups_of(self.cluster)]


def hierarchies() -> list[Path]:
    """Roots of the cgroup hierarchies to enter: cgroup2 alone, or beside it systemd's own of version 1.

    Raises HostsError when the machine has no cgroup2.
    """
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    unified = _CGROUPS / "unified"
    if not (unified / "cgroup.controllers").exists():
        raise HostsError(
            f"no cgroup2 is mounted on {_CGROUPS} or {unified}: local hosts need a kernel with cgroup2 mounted there"
        )
    named = _CGROUPS / "systemd"
    return [unified, named] if (named / "cgroup.procs").exists() else [unified]


def cgroups_of(cluster: str) -> list[Path]:
    """The cgroup of a cluster in each hierarchy."""
    return [path / "flotilla" / cluster for path in hierarchies()]


def processes(place: Place) -> list[int]:
    """Every process of a host, those of its containers included."""
    return _processes_below(place.cgroups[0])


def _processes_below(cgroup: Path) -> list[int]:
    found: list[int] = []
    for directory, _subdirectories, _files in os.walk(cgroup):
        with contextlib.suppress(OSError):
            found += [int(line) for line in Path(directory, "cgroup.procs").read_text().split() if line != "0"]
    return found


@dataclass(frozen=True)
class Process:
    """What /proc tells of a process: parent, id in its innermost pid namespace, start in seconds since boot."""

    pid: int
    name: str
    parent: int
    inner_pid: int
    started: float


def inspect(pid: int) -> Process | None:
    """Look at a process; None when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return Process(
        pid=pid,
        name=fields["Name"].strip(),
        parent=int(fields["PPid"]),
        inner_pid=int(fields["NSpid"].split()[-1]),
        started=int(after_name[19]) / os.sysconf("SC_CLK_TCK"),
    )


@dataclass(frozen=True)
class Life:
    """A host's two processes of note: systemd-nspawn, and below it the host's own process 1 once it is there."""

    supervisor: Process | None
    init: Process | None


def life(place: Place) -> Life:
    """Find what runs of a host."""
    seen = [process for pid in processes(place) if (process := inspect(pid))]
    supervisors = {process.pid: process for process in seen if process.name == "systemd-nspawn"}
    # While it starts, systemd-nspawn is several processes of one name: the outermost is the one that supervises.
    outer = [process for process in supervisors.values() if process.parent not in supervisors]
    supervisor = outer[0] if outer else None
    for process in seen:
        if supervisor and process.parent == supervisor.pid and process.inner_pid == 1:
            return Life(supervisor, process)
    return Life(supervisor, None)


def is_running(place: Place) -> bool:
    """Whether a host's machine is on."""
    return life(place).supervisor is not None


def uptime(place: Place) -> float | None:
    """Seconds since a host was switched on; None when it is off."""
    supervisor = life(place).supervisor
    if supervisor is None:
        return None
    return float(Path("/proc/uptime").read_text().split()[0]) - supervisor.started


def _mount(place: Place, host: Host) -> None:
    remove_mounts(place)
    missing = [key for key in host.layers if not image.root_of(key).exists()]
    if missing:
        raise HostsError(
            f"the base layer {missing[0]} below the disk of {host.name} is gone from {image.BASE}:"
            f" remove the cluster with 'down --cluster {place.cluster}' and make it again"
        )
    for directory in (place.disk / "upper", place.disk / "work", place.disk / "docker", place.root):
        directory.mkdir(parents=True, exist_ok=True)
    # The upper directory becomes the host's /, which others than root must be able to enter.
    (place.disk / "upper").chmod(0o755)
    options = f"lowerdir={image.lower_of(host.layers)},upperdir={place.disk / 'upper'},workdir={place.disk / 'work'}"
    run("mount", "-t", "overlay", "overlay", "-o", options, str(place.root))


def remove_mounts(place: Place) -> None:
    """Unmount a host's file system, however often a dead run has mounted it."""
    for point in mounts_below(RUNTIME / place.cluster / place.host):
        run("umount", "--lazy", point)


def _prepare(place: Place, cluster: Cluster, host: Host, mtu: int, files: Path | None) -> None:
    """Make a fresh disk this host's own. Written once, so that what roles change later stays changed.

    ``files``: a folder with a folder for each host, whose contents are laid over the disk before its first boot.
    """
    done = place.disk / "prepared"
    if done.exists():
        return
    root, keys = place.root, DISKS / cluster.name
    write_file(root / "etc/hostname", f"{host.name}\n")
    write_file(root / "etc/hosts", render.hosts_file(host))
    write_file(root / "etc/machine-id", f"{host.machine_id}\n", 0o444)
    write_file(root / "etc/resolv.conf", image.machine_resolver())
    write_file(root / "etc/systemd/network/10-host0.network", render.network_file(cluster, host, mtu))
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    write_file(root / "root/.ssh/authorized_keys", (keys / "id_ed25519.pub").read_text(), 0o600)
    for end, mode in (("", 0o600), (".pub", 0o644)):
        key = place.disk / f"ssh_host_ed25519_key{end}"
        write_file(root / f"etc/ssh/{key.name}", key.read_text(), mode)
    if files is not None and (files / host.name).is_dir():
        run("cp", "--archive", f"{files / host.name}/.", f"{root}/")
    done.touch()


def start(cluster: Cluster, host: Host, mtu: int, files: Path | None = None) -> subprocess.Popen[bytes]:
    """Switch a host on, with its disk as it was, and return at once the process that keeps it on, across reboots."""
    place = Place(cluster.name, host.name)
    _mount(place, host)
    _prepare(place, cluster, host, mtu, files)
    for cgroup in place.cgroups:
        cgroup.mkdir(parents=True, exist_ok=True)
        _delegate(cgroup)
    argv = [
        "systemd-nspawn",
        "--quiet",
        "--register=no",
        "--keep-unit",
        "--settings=no",
        f"--directory={place.root}",
        f"--machine={machine_name(cluster.name, host.number)}",
        f"--hostname={host.name}",
        f"--network-bridge={bridge_name(cluster.name)}",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        "--console=read-only",
        # Docker needs its own key rings, and bpf to hand devices to containers.
        "--system-call-filter=add_key keyctl bpf",
        # Docker's overlay file system cannot lie on another overlay.
        f"--bind={place.disk / 'docker'}:/var/lib/docker",
        "--boot",
    ]
    groups = [str(path) for path in place.cgroups]
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LC_ALL")} | {
        "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"
    }
    with place.console.open("wb") as console:
        # A session of its own and none of the caller's streams: the host outlives this program and holds no pipe open.
        return subprocess.Popen(
            ["sh", "-euc", _KEEPER, "keeper", groups[0], groups[1] if len(groups) > 1 else "", *argv],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
            env=environment,
        )


def _delegate(cgroup: Path) -> None:
    """Hand the machine's controllers down to a host; there are none to hand where they are kept in version 1."""
    for above in (cgroup.parent.parent.parent, cgroup.parent.parent, cgroup.parent):
        with contextlib.suppress(OSError):
            names = (above / "cgroup.controllers").read_text().split()
            if names:
                (above / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in names))


def wait_for_banners(
    cluster: Cluster,
    hosts: Sequence[Host],
    children: dict[str, subprocess.Popen[bytes]],
    timeout: float,
    progress: Progress,
) -> None:
    """Wait until sshd greets on every host.

    Raises HostsError, with the end of the host's console, when a host ends or ``timeout`` seconds pass.
    """
    deadline = time.monotonic() + timeout
    waiting = {host.name for host in hosts}

    def wait(host: Host) -> None:
        place = Place(cluster.name, host.name)
        while not _greets(str(cluster.address(host))):
            child = children.get(host.name)
            ended = child.poll() is not None if child else not is_running(place)
            if ended:
                raise HostsError(_failed(place, "ended while it started"))
            if time.monotonic() > deadline:
                raise HostsError(_failed(place, f"did not answer on port 22 within {timeout:.0f} s"))
            time.sleep(0.02)
        waiting.discard(host.name)

    with ThreadPoolExecutor(max_workers=max(1, len(hosts))) as pool:
        results = [pool.submit(wait, host) for host in hosts]
        told = time.monotonic()
        while not all(result.done() for result in results):
            time.sleep(0.01)
            if time.monotonic() - told > 2:
                told = time.monotonic()
                progress.say(f"waiting for ssh on {', '.join(sorted(waiting))}")
        for result in results:
            result.result()


def _failed(place: Place, what: str) -> str:
    lines = "\n".join(f"    {line}" for line in tail(place.console, _CONSOLE_LINES)) or "    (nothing)"
    return f"host {place.host} {what}; the end of its console ({place.console}):\n{lines}"


def _greets(address: str) -> bool:
    try:
        with socket.create_connection((address, 22), timeout=0.3) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def send_signal(process: Process | None, number: int) -> None:
    """Send a signal to exactly the process that was looked at."""
    if process is None:
        return
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        now = inspect(process.pid)
        if now and now.started == process.started:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)


def _wait_until_off(places: Iterable[Place], timeout: float) -> list[Place]:
    """Wait for every process of the hosts to end; the places of those that did not."""
    deadline = time.monotonic() + timeout
    left = []
    for place in places:
        while (pids := processes(place)) and (rest := deadline - time.monotonic()) > 0:
            with contextlib.suppress(ProcessLookupError):
                descriptor = os.pidfd_open(pids[0])
                try:
                    select.select([descriptor], [], [], min(rest, 0.25))
                finally:
                    os.close(descriptor)
                # A zombie that its parent has not fetched yet is still listed.
                time.sleep(0.005)
        if pids:
            left.append(place)
    return left


def stop(places: Sequence[Place], progress: Progress, timeout: float, patient: bool = True) -> None:
    """Switch hosts off: as with the power button for ``timeout`` seconds, then harder; not patient: then at once.

    systemd-nspawn itself is never killed while its host lives: the host would go on without it.
    """

    def press(place: Place) -> None:
        found = life(place)
        send_signal(found.init, _POWEROFF) if found.init else send_signal(found.supervisor, signal.SIGTERM)

    ways: list[tuple[str, Callable[[Place], None], float]] = [
        ("", press, timeout),
        (
            "asking systemd-nspawn to end",
            lambda place: send_signal(life(place).supervisor, signal.SIGTERM),
            5,
        ),
        ("killing its process 1", lambda place: send_signal(life(place).init, signal.SIGKILL), 5),
        ("killing what is left", _kill_rest, 5),
    ]
    if not patient:
        del ways[1]
    left = [place for place in places if processes(place)]
    for title, act, patience in ways:
        for place in left:
            if title:
                progress.say(f"{place.host} is still on: {title}")
            act(place)
        left = _wait_until_off(left, patience)
    if left:
        raise HostsError(
            f"processes of {', '.join(p.host for p in left)} do not end, even when killed: {processes(left[0])}"
        )


def kill(places: Sequence[Place], timeout: float = 10) -> None:
    """End hosts as a power failure does: no process of theirs gets to do anything more."""
    for place in places:
        send_signal(life(place).init, signal.SIGKILL)
    for place in _wait_until_off(places, timeout / 2):
        _kill_rest(place)
    left = _wait_until_off(places, timeout / 2)
    if left:
        raise HostsError(
            f"processes of {', '.join(p.host for p in left)} do not end, even when killed: {processes(left[0])}"
        )


def _kill_rest(place: Place) -> None:
    try:
        (place.cgroups[0] / "cgroup.kill").write_text("1")  # all at once, so that none can start another meanwhile
    except FileNotFoundError:  # Linux before 5.14
        for pid in processes(place):
            send_signal(inspect(pid), signal.SIGKILL)


def clear(place: Place) -> None:
    """Remove what a host that is off leaves on the machine: mounts and cgroups; the disk stays."""
    remove_mounts(place)
    # systemd-nspawn removes its lock beside the root itself, unless it was killed
    with contextlib.suppress(FileNotFoundError):
        (place.root.parent / f".#{place.root.name}.lck").unlink()
    for folder in (place.root, place.root.parent):
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()
    for cgroup in place.cgroups:
        remove_cgroup(cgroup)


def remove_cgroup(cgroup: Path) -> None:
    """Remove a cgroup and those below it, none of which holds a process any more."""
    deadline = time.monotonic() + 5
    while cgroup.exists():
        for directory, _subdirectories, _files in os.walk(cgroup, topdown=False):
            with contextlib.suppress(OSError):
                Path(directory).rmdir()
        if cgroup.exists() and time.monotonic() > deadline:
            raise HostsError(f"the cgroup {cgroup} cannot be removed; processes in it: {_processes_below(cgroup)}")
