# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Local hosts, plays on them, and a client that writes all the while."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.etcd_builds import build
from support.etcd_writer import Writer

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "tests/output"
PLAY_SECONDS = 900
PAUSE = 1.0
"""Longest time in seconds that no write may be taken, on a quiet machine (ETCD_PAUSE for one that is not)."""


class Lab:
    """Hosts, the plays on them, and a client from outside."""

    def __init__(self, folder: Path, cluster: str, prefix: str, count: int = 3) -> None:
        self.folder = folder
        self.cluster = cluster
        self.prefix = prefix
        self.hosts = [f"{prefix}{number:02}" for number in range(1, count + 1)]
        self.inventory = folder / "hosts.yml"
        self.release: dict[str, str] = {}
        self.measured: dict[str, Any] = {}
        self.addresses: list[str] = []

    def tool(self, *arguments: str) -> str:
        command = [sys.executable, str(ROOT / "tools/hosts.py"), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, input="", timeout=600).stdout

    def on(self, host: str, script: str) -> str:
        return self.tool("ssh", "--cluster", self.cluster, host, script)

    def up(self) -> None:
        # the roles are asked for etcd alone: no docker, no fleet
        self.tool(
            *("up", "--cluster", self.cluster, "--prefix", self.prefix, "--hosts", str(len(self.hosts))),
            *("--packages", "cached"),
            *("--inventory", str(self.inventory), "--var", f"pki_directory={self.folder}/pki"),
        )
        lines = self.inventory.read_text().splitlines()
        self.addresses = [line.split('"')[1] for line in lines if "ansible_host:" in line]

    def of_one_member(self) -> Path:
        """An inventory in which the first host alone is a member."""
        one = self.folder / "one.yml"
        group = f"    etcd:\n      hosts:\n        {self.hosts[0]}: {{}}\n    others:\n"
        one.write_text(self.inventory.read_text().replace("    etcd:\n", group, 1))
        return one

    def use(self, minor: str) -> None:
        """From here on the inventory asks for this version."""
        made = build(minor)
        if isinstance(made, str):
            pytest.skip(made)
        self.release = {
            "etcd_source": "release",
            "etcd_release_version": made.version,
            "etcd_release_url": str(made.archive),
            "etcd_release_sha256": made.sha256,
        }

    def down(self) -> None:
        self.tool("down", "--cluster", self.cluster, "--all")

    def run(
        self, name: str, *, inventory: Path | None = None, more: Sequence[str] = (), **variables: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a playbook of the collection, or one of the tests, to whatever end."""
        path = ROOT / "playbooks" / name if (ROOT / "playbooks" / name).exists() else Path(__file__).with_name(name)
        command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(inventory or self.inventory)]
        return subprocess.run(
            [*command, *more, str(path), "-e", json.dumps({**self.release, **variables})],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PLAY_SECONDS,
            check=False,
        )

    def play(self, name: str, *, fails: bool = False, **options: Any) -> str:
        """The same, to the end that is expected; returns what it said."""
        done = self.run(name, **options)
        said = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, said[-6000:]
        return said

    def files(self) -> tuple[str, str, str]:
        """The first host's client certificate, here."""
        paths = []
        for name in ("etcd-client-ca.crt", "etcd-client.crt", "etcd-client.key"):
            path = self.folder / name
            path.write_text(self.on(self.hosts[0], f"cat /etc/flotilla/pki/{name}"))
            paths.append(str(path))
        return paths[0], paths[1], paths[2]

    @contextlib.contextmanager
    def written(self, what: str) -> Iterator[None]:
        """Somebody writes all the while; nothing that was taken may be lost, and no pause be long."""
        ca, cert, key = self.files()
        urls = [f"https://{address}:2379" for address in self.addresses]
        writer = Writer(urls, (cert, key), ca, password=self.root_password())
        writer.start()
        begun = time.monotonic()
        try:
            yield
        finally:
            writer.stop()
        lost = writer.lost()
        self.measured[what] = {
            "seconds": round(time.monotonic() - begun, 1),
            "acknowledged": len(writer.acknowledged),
            "lost": len(lost),
            "pause": round(writer.pause, 3),
        }
        assert writer.acknowledged
        assert lost == []
        assert writer.pause < float(os.environ.get("ETCD_PAUSE", PAUSE))

    def root_password(self) -> str:
        """The password of etcd's user root, "" where no play has made users."""
        path = self.folder / "pki/etcd-users/root"
        return path.read_text().strip() if path.exists() else ""

    def etcdctl(self, command: str) -> str:
        password = self.root_password()
        user = f"--user root:{password} " if password else ""
        return self.on(self.hosts[0], f". /etc/profile.d/flotilla-etcdctl.sh; etcdctl {user}{command}")

    def versions(self) -> list[str]:
        status = json.loads(self.etcdctl("endpoint status --cluster -w json"))
        return sorted(item["Status"]["version"] for item in status)


def unchanged(said: str) -> bool:
    """Whether a play has changed none of its hosts."""
    hosts = [line for line in said.rpartition("PLAY RECAP")[2].splitlines() if "changed=" in line]
    return bool(hosts) and all("changed=0" in line for line in hosts)


def words(said: str) -> str:
    """What a play said, without its line breaks."""
    return " ".join(said.split())
