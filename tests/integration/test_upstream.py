# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Role fleet with upstream's fleet 1.0.0, and the modules of fleet against it; then back to the collection's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.flotilla.cluster.tests.unit.plugins.conftest import run_module as run_module
from support.fleet_modules import Run, life_of_a_unit, template_and_global
from support.upstream import Archive, archive

pytestmark = [
    pytest.mark.hosts,
    pytest.mark.skipif(os.geteuid() != 0, reason="local hosts are made by root"),
]

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "tools" / "hosts.py"
PATIENCE = 600


class Hosts:
    """Two machines, one of which keeps etcd."""

    def __init__(self, folder: Path, upstream: Archive) -> None:
        self.name = f"up-{os.getpid()}"
        self.folder = folder
        self.upstream = upstream
        self.inventory = folder / "hosts.yml"
        self.socket = folder / "fleet.sock"
        self._forward: subprocess.Popen[bytes] | None = None

    def hosts(self, *arguments: str) -> str:
        command = [sys.executable, str(PROGRAM), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout

    def up(self) -> None:
        self.hosts("base")
        self.hosts(
            *("up", "--cluster", self.name, "--hosts", "2", "--packages=cached", f"--inventory={self.inventory}"),
        )
        (self.folder / "one.yml").write_text("keepers: {hosts: {core-01: }}\n", encoding="utf-8")
        self.ids = {self.on(host, "cat /etc/machine-id").strip(): host for host in ("core-01", "core-02")}

    def down(self) -> None:
        if self._forward is not None:
            self._forward.terminate()
            self._forward.wait(10)
        self.hosts("down", "--cluster", self.name, "--all")

    def on(self, host: str, command: str, check: bool = True) -> str:
        program = [sys.executable, str(PROGRAM), "ssh", "--cluster", self.name, host, command]
        done = subprocess.run(
            program, check=check, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL
        )
        return done.stdout

    def play(self, **variables: str) -> tuple[int, str]:
        """Exit code and output of the play."""
        given = {"etcd_group": "keepers", **variables}
        command = [
            *(str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(self.inventory)),
            *("-i", str(self.folder / "one.yml"), str(Path(__file__).with_name("upstream.yml"))),
            *(item for key, value in given.items() for item in ("-e", f"{key}={value}")),
        ]
        settings = {
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_FORCE_COLOR": "0",
        }
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=ROOT, env=settings
        )
        return done.returncode, done.stdout + done.stderr

    def converge(self, **variables: str) -> None:
        """Run the play, and once more, which must change nothing."""
        code, output = self.play(**variables)
        assert code == 0, output[-4000:]
        code, output = self.play(**variables)
        assert code == 0, output[-4000:]
        assert set(re.findall(r"changed=(\d+)", output)) == {"0"}, output[-4000:]

    def endpoint(self) -> str:
        """The API of the first machine, brought here by ssh."""
        if self._forward is None:
            config = f"/var/lib/flotilla/hosts/{self.name}/ssh_config"
            link = ["ssh", "-F", config, "-N", "-L", f"{self.socket}:/run/fleet.sock", "core-01"]
            self._forward = subprocess.Popen(link, stdin=subprocess.DEVNULL)
            end = time.monotonic() + 20
            while not self.socket.exists() and time.monotonic() < end:
                time.sleep(0.05)
        return f"unix://{self.socket}"

    def running(self, unit: str) -> list[str]:
        script = f"systemctl is-active {unit}"
        return [host for host in self.ids.values() if self.on(host, script, check=False).strip() == "active"]


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    found = archive()
    if found is None:
        pytest.skip("there is no Go here to build upstream's fleet with, or it cannot get the sources")
    made = Hosts(tmp_path_factory.mktemp("up"), found)
    try:
        made.up()
        yield made
    finally:
        made.down()


def test_what_cannot_work_is_refused_before_anything_is_changed(machines: Hosts) -> None:
    release = {"etcd_source": "release", "etcd_release_version": "3.6.14", "etcd_release_url": "/etcd.tar.gz"}
    wrong = {**machines.upstream.variables, "fleet_release_sha256": "abc", "fleet_listen": "192.0.2.1:49153"}
    code, output = machines.play(**wrong, **release, etcd_release_sha256="0" * 64)
    assert code != 0
    words = " ".join(output.split())
    assert "Nothing was changed. This has to be put right first:" in words, words
    assert "etcd is 3.6.14, but upstream's fleet needs the v2 API, which etcd has up to 3.5" in words, words
    assert "etcd_enable_v2 is set and etcd_release_version is 3.6.14" in words
    assert 'fleet_release_sha256 is "abc": give the 64 hexadecimal digits' in words
    assert "upstream's fleet has no TLS" in words


def test_another_archive_than_the_one_asked_for_is_not_installed(machines: Hosts) -> None:
    code, output = machines.play(**{**machines.upstream.variables, "fleet_release_sha256": "0" * 64})
    assert code != 0
    assert f"has another SHA-256 ({machines.upstream.sha256}) than fleet_release_sha256" in output
    assert machines.on("core-01", "ls /opt/flotilla/fleet", check=False) == ""


def test_upstream_runs_and_the_modules_work_with_it(machines: Hosts, run_module: Run) -> None:
    machines.converge(**machines.upstream.variables)
    assert machines.on("core-01", "fleetctl version").strip() == "fleetctl version 1.0.0"
    shown = machines.on("core-02", "fleetctl list-machines --full --no-legend")
    assert {line.split()[0] for line in shown.splitlines()} == set(machines.ids)
    found = run_module("fleet_machine_info", endpoint=machines.endpoint())["machines"]
    assert {machine["id"] for machine in found} == set(machines.ids)
    life_of_a_unit(run_module, machines.endpoint(), machines.running, machines.ids.__getitem__)
    template_and_global(run_module, machines.endpoint(), machines.running, list(machines.ids.values()))


def test_renewed_certificates_stop_no_unit_of_upstream(machines: Hosts, run_module: Run) -> None:
    unit = {"name": "stays", "content": "[Service]\nExecStart=/bin/sleep infinity\n[X-Fleet]\nGlobal=true\n"}
    result = run_module("fleet_unit", endpoint=machines.endpoint(), **unit)
    assert "msg" not in result, result["msg"]
    before = machines.on("core-01", "systemctl show -p InvocationID stays")
    machines.on(
        "core-01", "cp -p /etc/flotilla/pki/etcd-client.crt /tmp/c && cp -p /tmp/c /etc/flotilla/pki/etcd-client.crt"
    )
    end = time.monotonic() + 20
    while "Restarting server" not in machines.on("core-01", "journalctl -u fleet -o cat") and time.monotonic() < end:
        time.sleep(0.2)
    time.sleep(6)  # upstream looks at its units every five seconds
    assert machines.on("core-01", "systemctl show -p InvocationID stays") == before
    assert run_module("fleet_unit", endpoint=machines.endpoint(), **unit)["changed"] is False


def test_the_collections_own_fleet_takes_its_place_again(machines: Hosts, run_module: Run) -> None:
    code, output = machines.play()
    assert code == 0, output[-4000:]
    assert "--enable-v2" not in machines.on("core-01", "systemctl cat etcd")
    assert "/opt/flotilla/fleet" not in machines.on(
        "core-01", "readlink /proc/$(systemctl show -p MainPID --value fleet)/exe"
    )
    end = time.monotonic() + 20
    while machines.running("stays.service") and time.monotonic() < end:
        time.sleep(0.2)
    assert machines.running("stays.service") == []
    assert run_module("fleet_unit_info", endpoint=machines.endpoint())["units"] == []
    life_of_a_unit(run_module, machines.endpoint(), machines.running, machines.ids.__getitem__)
