# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""etcd servers on loopback for tests: the distribution's own binary, unpacked into a cache outside the checkout."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "flotilla" / "debs"


def unpack_package(name: str) -> Path | None:
    """The root of a Debian package unpacked into the cache, or None where apt cannot give it."""
    root = CACHE / name
    if not (root / ".done").exists():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        try:
            subprocess.run(["apt-get", "download", "-q", name], cwd=root, check=True, capture_output=True, timeout=120)
            archive = next(root.glob("*.deb"))
            subprocess.run(["dpkg", "-x", archive, root], check=True, capture_output=True, timeout=120)
        except (OSError, subprocess.SubprocessError, StopIteration):
            return None
        (root / ".done").touch()
    return root


def binary(program: str, package: str) -> Path | None:
    """A program from PATH, else out of its Debian package, else None."""
    found = shutil.which(program)
    if found:
        return Path(found)
    root = unpack_package(package)
    path = root / "usr/bin" / program if root else None
    return path if path and path.exists() else None


# Held until this process ends, so that no other test process is given the same port.
_claims: list[socket.socket] = []


def free_port() -> int:
    """A TCP port of loopback that stays free until its server binds it.

    The kernel's own choice for port 0 does not: it comes out of the range from which it also serves outgoing
    connections, and one of these may have taken it by the time that the server starts.
    """
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.sample(range(10_000, max(first_outgoing, 20_000)), 100):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0flotilla-test-port-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return port
    raise RuntimeError("none of 100 ports above 10000 is free on 127.0.0.1")


class EtcdProcess:
    """One etcd on loopback. ``flags`` are added to the command line."""

    def __init__(self, program: Path, directory: Path, *flags: str) -> None:
        self.program = program
        self.directory = directory
        self.client, self.peer = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.client}"
        self.flags = flags
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        peer = f"http://127.0.0.1:{self.peer}"
        command = [
            str(self.program),
            *("--name", "m", "--data-dir", str(self.directory / "data"), "--logger", "zap", "--log-level", "warn"),
            *("--bcrypt-cost", "4"),
            *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"m={peer}"),
            *self.flags,
        ]
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.wait()

    def wait(self, seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process is None or self.process.poll() is not None:
                break
            with contextlib.suppress(OSError), urllib.request.urlopen(self.url + "/health", timeout=1) as answer:
                if b'"true"' in answer.read():
                    return
            time.sleep(0.05)
        raise RuntimeError(f"etcd did not become healthy: {(self.directory / 'log').read_text()[-2000:]}")

    def kill(self) -> None:
        """As power loss; the data directory stays."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


def etcd_or_skip(directory: Path, *flags: str) -> Iterator[EtcdProcess]:
    """A running etcd for a fixture; skips where there is no etcd to be had."""
    program = binary("etcd", "etcd-server")
    if program is None:
        pytest.skip("no etcd in PATH and none from the distribution's packages")
    server = EtcdProcess(program, directory, *flags)
    server.start()
    try:
        yield server
    finally:
        server.stop()
