# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running commands, telling what goes on, and locks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .plan import HostsError

_HEARTBEAT = 3.0  # seconds of silence after which a step says that it still runs


class Progress:
    """Lines on standard error, each with the seconds since the program began."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def say(self, text: str) -> None:
        """Print one line."""
        print(f"[{time.monotonic() - self._begun:6.1f}s] {text}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def step(self, title: str, log: Path | None = None) -> Iterator[None]:
        """Say what begins, every few seconds that it goes on (with the last line of ``log``), and that it is done."""
        begun = time.monotonic()
        done = threading.Event()
        self.say(title)

        def beat() -> None:
            while not done.wait(_HEARTBEAT):
                self.say(f"{title}: {time.monotonic() - begun:.0f} s so far{_last_words(log)}")

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
        self.say(f"{title}: done in {time.monotonic() - begun:.1f} s")


def status_of(program: str, work: Callable[[], object], *, by_root: bool = False) -> int:
    """Do the work of a program that makes files; its exit status, after a sentence about what went wrong."""
    if by_root and os.geteuid() != 0:
        print(f"{program}: images are made by root: run this as root", file=sys.stderr)
        return 1
    try:
        work()
    except (HostsError, subprocess.SubprocessError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    return 0


def _last_words(log: Path | None) -> str:
    lines = tail(log, 1) if log else []
    return f" ({lines[0].strip()[:80]})" if lines else ""


def tail(path: Path, count: int) -> list[str]:
    """The last lines of a text file that have text; none when it cannot be read."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 16384))
            text = stream.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-count:]


def run(*argv: str, text: str | None = None, timeout: float = 60) -> str:
    """Run a command (``text`` on its standard input) and return its standard output.

    Raises HostsError with what the command said when it fails or takes longer than ``timeout`` seconds.
    """
    try:
        done = subprocess.run(
            argv,
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise HostsError(
            f"the program {argv[0]} is missing: run 'tools/hosts.py base', which installs what is needed"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise HostsError(f"'{' '.join(argv)}' did not end within {timeout:.0f} s") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-400:]
        raise HostsError(f"'{' '.join(argv)}' failed with exit code {done.returncode}: {said}")
    return done.stdout


def install(*names: str) -> None:
    """Install Debian packages on this machine, those that are there already for nothing. Raises HostsError."""
    run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-y", "--no-install-recommends", "-o",
        "DPkg::Lock::Timeout=300", "install", *names, timeout=600)  # fmt: skip


def run_logged(argv: Sequence[str], log: Path, what: str) -> None:
    """Run a long command with its output appended to ``log``; the command dies with this process.

    Raises HostsError with the last lines of the log when it fails.
    """
    with log.open("ab") as stream:
        done = subprocess.run(
            ["setpriv", "--pdeathsig", "KILL", *argv],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        last = "\n".join(f"    {line}" for line in tail(log, 12))
        raise HostsError(f"{what} failed with exit code {done.returncode}; the end of {log}:\n{last}")


@contextlib.contextmanager
def locked(path: Path, progress: Progress, what: str, timeout: float) -> Iterator[None]:
    """Hold a lock that the kernel drops with its owner, so that a dead process never blocks.

    The file is removed with the lock; who waited for a removed file tries again. Raises HostsError after ``timeout``
    seconds.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout
    told = 0.0
    while True:
        with path.open("a+") as stream:
            if _try_lock(stream.fileno()) and _is_same_file(stream.fileno(), path):
                stream.truncate(0)
                stream.write(str(os.getpid()))
                stream.flush()
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return
            stream.seek(0)
            owner = stream.read().strip() or "unknown"
        now = time.monotonic()
        if now > deadline:
            raise HostsError(
                f"{what} has been in use by process {owner} for {timeout:.0f} s: try again when it has ended"
            )
        if now - told > _HEARTBEAT:
            told = now
            progress.say(f"waiting for process {owner}, which uses {what}")
        time.sleep(0.05)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(descriptor)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def write_file(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file whole or not at all, with the mode from its first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w") as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(text)
    draft.replace(path)


def mounts_below(path: Path) -> list[str]:
    """Mount points at or below a path, deepest first."""
    prefix = f"{path}/"
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4].encode().decode("unicode_escape")
        if f"{point}/".startswith(prefix):
            found.append(point)
    return found[::-1]


def remove_tree(path: Path) -> None:
    """Unmount what is mounted below a directory, then remove it; never reaches into another file system."""
    for point in mounts_below(path):
        run("umount", "--lazy", point)
    if path.exists():
        run("rm", "-rf", "--one-file-system", "--", str(path), timeout=300)
