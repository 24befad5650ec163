# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts, commands on them, and what commands cost: the part of the benchmarks that touches the machine."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

import figures

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from localhosts import cluster as clusters  # noqa: E402
from localhosts import guest  # noqa: E402
from localhosts.plan import Cluster, HostsError  # noqa: E402
from localhosts.system import Progress, locked, remove_tree  # noqa: E402

__all__ = ["OUTPUT", "ROOT", "BenchError", "Done", "Lab", "Order", "Progress", "main", "write_results"]

Order = clusters.Order
OUTPUT = ROOT / "tests/output/bench"
_TICKS = os.sysconf("SC_CLK_TCK")
_SSH_TIMEOUT = 60.0
_LOCK_TIMEOUT = 60.0


class BenchError(Exception):
    """What was to be measured did not work; the text is printed without a traceback."""


@dataclass(frozen=True)
class Done:
    """A command that ended well: its output and what it cost."""

    output: str
    spent: figures.Spent


class Lab:
    """One cluster of local hosts, made by ``with`` and gone after it, and the commands that are measured on it."""

    def __init__(self, order: Order, folder: Path, progress: Progress) -> None:
        self.order = order
        self.folder = folder
        self.progress = progress
        self.inventory = folder / "hosts.yml"
        self._meter = guest.hierarchies()[0] / f"flotilla-{order.cluster}-meter"

    def __enter__(self) -> Lab:
        lock = locked(
            guest.RUNTIME / ".locks" / f"{self.order.cluster}.bench",
            self.progress,
            f"the benchmarks' cluster {self.order.cluster}",
            _LOCK_TIMEOUT,
        )
        with contextlib.ExitStack() as stack:
            stack.enter_context(lock)
            self._make()
            self._held = stack.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        with self._held:
            self._remove()

    def _make(self) -> None:
        self._remove()  # what a run that was killed has left
        self.folder.mkdir(mode=0o700, parents=True)
        try:
            order = replace(self.order, inventory=self.inventory)
            self.cluster: Cluster = clusters.up(order, self.progress).cluster
            self._meter.mkdir()
            # What a host does to boot is not part of what is measured on it.
            self.on_all("systemctl is-system-running --wait || systemctl --failed --no-legend >&2")
        except BaseException:
            self._remove()
            raise

    def _remove(self) -> None:
        clusters.down(self.order.cluster, True, self.progress)
        remove_tree(self.folder)
        if self._meter.exists():
            for line in (self._meter / "cgroup.procs").read_text().split():
                guest.send_signal(guest.inspect(int(line)), signal.SIGKILL)
            guest.remove_cgroup(self._meter)

    @property
    def names(self) -> list[str]:
        return [host.name for host in self.cluster.hosts]

    def address(self, name: str) -> str:
        return str(self.cluster.address(self.cluster.host(name)))

    @property
    def ssh_config(self) -> Path:
        return clusters.directory(self.cluster.name) / "ssh_config"

    def ssh(self, host: str, *options: str) -> list[str]:
        """The beginning of an ssh command to a host."""
        return ["ssh", "-F", str(self.ssh_config), *options, host]

    def on(self, host: str, command: str, text: str = "", timeout: float = _SSH_TIMEOUT) -> str:
        """Run a command on a host and return its output.

        Raises BenchError when it fails or takes longer than ``timeout`` seconds.
        """
        try:
            done = subprocess.run(
                [*self.ssh(host), command], input=text, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            raise BenchError(f"on {host}, {command!r} did not end within {timeout:.0f} s") from None
        if done.returncode:
            raise BenchError(f"on {host}, {command!r} failed with exit code {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def on_all(self, command: str, text: str = "") -> dict[str, str]:
        """Run a command on all hosts at once; host name to output."""
        with ThreadPoolExecutor(max_workers=16) as pool:
            return dict(zip(self.names, pool.map(lambda host: self.on(host, command, text), self.names), strict=True))

    def etcd_password(self) -> str:
        """The password of etcd's user root, which the play has kept; "" where it made no users."""
        path = self.folder / ".pki/flotilla/etcd-users/root"
        return path.read_text().strip() if path.exists() else ""

    def etcdctl(self, endpoint: str = "") -> str:
        """The beginning of a command on a host that is one of etcdctl, as root of the play's cluster.

        It asks all members, or the one at ``endpoint``.
        """
        password = self.etcd_password()
        user = f" ETCDCTL_USER=root:{password}" if password else ""
        # its variable and its flag exclude each other
        member = f" ETCDCTL_ENDPOINTS={endpoint}" if endpoint else ""
        return f". /etc/profile.d/flotilla-etcdctl.sh; export ETCDCTL_API=3{user}{member}; etcdctl "

    def kill(self, host: str) -> None:
        """End a host as a power failure does."""
        clusters.kill_host(self.cluster.name, host, self.progress)

    def start(self, host: str) -> None:
        clusters.start_host(self.cluster.name, host, self.order.timeout, self.progress)

    def play(
        self,
        log: Path,
        timeout: float,
        variables: Mapping[str, str] | None = None,
        playbook: str = "playbooks/site.yml",
        **environment: str,
    ) -> Done:
        """Run a playbook on the hosts, with ``variables`` over the inventory's; its output goes to ``log``."""
        program = Path(sys.executable).parent / "ansible-playbook"
        if not program.exists():
            raise BenchError(f"{program} is missing: run this with the Python of .venv, as make does")
        settings = {
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "PATH": f"{program.parent}:{os.environ.get('PATH', os.defpath)}",
            **environment,
        }
        given = [item for key, value in (variables or {}).items() for item in ("-e", f"{key}={value}")]
        command = [str(program), "-i", str(self.inventory), playbook, *given]
        return self.measured(command, log, timeout, settings)

    def measured(
        self, argv: Sequence[str], log: Path, timeout: float, environment: Mapping[str, str] | None = None
    ) -> Done:
        """Run a command here, with everything it starts in a cgroup of its own, and tell what it cost.

        Raises BenchError when it fails or takes longer than ``timeout`` seconds.
        """
        enter = 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"'
        load = os.getloadavg()[0]
        settings = {**os.environ, **(environment or {})}
        # Where this is set, every Python of the play would compile everything again, which no user's machine does.
        settings.pop("PYTHONDONTWRITEBYTECODE", None)
        before = self._times()
        begun = time.monotonic()
        with log.open("wb") as stream:
            process = subprocess.Popen(
                ["/bin/sh", "-c", enter, "sh", str(self._meter), *argv],
                cwd=ROOT,
                env=settings,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            ended = os.pidfd_open(process.pid)
            try:
                # wait() with a time limit looks every 50 ms only, which is much of a short play
                select.select([ended], [], [], timeout)
                code = process.poll()
                if code is None:
                    raise BenchError(f"{argv[0]} did not end within {timeout:.0f} s; its output is in {log}")
            finally:
                os.close(ended)
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        wall = time.monotonic() - begun
        after = self._times()
        output = log.read_text(errors="replace")
        if code:
            last = "\n".join(f"    {line}" for line in output.splitlines()[-25:])
            raise BenchError(f"{argv[0]} failed with exit code {code}; the end of {log}:\n{last}")
        controller, hosts, busy, stolen = (b - a for a, b in zip(before, after, strict=True))
        return Done(output, figures.Spent(wall, controller, hosts, busy - controller - hosts, stolen, load))

    def _times(self) -> tuple[float, float, float, float]:
        """Processor seconds so far: of measured commands, of the hosts, of the machine, and stolen from it."""
        machine = figures.machine_time(Path("/proc/stat").read_text(), _TICKS)
        folders = [guest.Place(self.cluster.name, name).cgroups[0] for name in self.names]
        controller, *hosts = (
            figures.cgroup_time((folder / "cpu.stat").read_text()) for folder in [self._meter, *folders]
        )
        return controller, sum(hosts), machine.busy, machine.stolen


def write_results(name: str, results: Mapping[str, Any]) -> Path:
    """Keep results as JSON and return the file: one a run, named by the time."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    path = OUTPUT / f"{name}-{datetime.now():%Y%m%d-%H%M%S}.json"
    revision = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    facts = {"revision": revision.stdout.strip(), "processors": os.cpu_count(), **results}
    path.write_text(json.dumps(facts, indent=1) + "\n")
    return path


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the program as Ctrl-C does, so that no hosts stay."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    old = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def main(name: str, measure: Callable[[], None], *errors: type[Exception]) -> int:
    """Call ``measure`` with what every benchmark must take care of; the exit code.

    ``errors`` are further exceptions whose text says all that the user needs.
    """
    known: tuple[type[Exception], ...] = (BenchError, HostsError, *errors)
    try:
        if os.geteuid() != 0:
            raise BenchError("local hosts are made by root: run this as root")
        with _terminable():
            measure()
    except known as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the hosts are gone", file=sys.stderr)
        return 130
    return 0
