# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The walkthrough: vagrant up, and three machines are one cluster.

With a box made here; LXC: make test-vagrant, libvirt with machines that are emulated in software: make
test-vagrant-libvirt. Installs Debian's packages that are missing, and takes machines and networks away at the end.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from localhosts import packages, system
from support.commands import ROOT, done

CACHE = Path("/var/cache/flotilla/vagrant")
NAMES = ("core-01", "core-02", "core-03")


def run(*argv: str, cwd: Path = ROOT, timeout: float = 600, check: bool = True, **environment: str) -> str:
    return done(*argv, cwd=cwd, timeout=timeout, check=check, **{"LANG": "C.UTF-8", **environment})[0]


class Lxc:
    """Containers on a bridge of their own."""

    name = "lxc"
    prefix = "10.78.9"
    packages = ("libarchive-tools", "lxc", "sudo", "vagrant-lxc")
    media = "directory"
    timeout = 400.0
    _bridge = "flo-vagrant"
    settings = f'$lxc_bridge = "{_bridge}"\n'

    def start(self) -> None:
        run("ip", "link", "add", self._bridge, "type", "bridge")
        run("ip", "address", "add", f"{self.prefix}.1/24", "dev", self._bridge)
        run("ip", "link", "set", self._bridge, "up")

    def stop(self) -> None:
        run("ip", "link", "delete", self._bridge, check=False)


class Libvirt:
    """Machines that QEMU emulates, under libvirt daemons that are started for them: nothing else here starts any."""

    name = "libvirt"
    prefix = "10.78.11"
    packages = (
        *("dnsmasq-base", "libvirt-clients", "libvirt-daemon-driver-qemu", "libvirt-daemon-system", "qemu-system-x86"),
        *("qemu-utils", "vagrant-libvirt", "xorriso"),
    )
    media = "iso"
    timeout = 1800.0
    # a kernel may have /dev/kvm and still run no guest to the end: QEMU emulates everywhere
    settings = '$libvirt_driver = "qemu"\n$vm_memory = 2048\n'
    # as root, who runs the test, and without what systemd would have to be there for
    _configuration = (
        'user = "root"\ngroup = "root"\nsecurity_driver = "none"\ncgroup_controllers = []\nnamespaces = []\n'
        "dynamic_ownership = 0\nremember_owner = 0\n"
    )
    _settings = Path("/etc/libvirt/qemu.conf")
    _daemons = ("virtlogd", "libvirtd")

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []
        self._before = b""
        self._networks: set[str] = set()

    def start(self) -> None:
        self._before = self._settings.read_bytes()
        self._settings.write_text(self._configuration)
        Path("/run/libvirt").mkdir(exist_ok=True)  # for the daemons' sockets and locks
        for daemon in self._daemons:
            self._running.append(subprocess.Popen([f"/usr/sbin/{daemon}"], stderr=subprocess.DEVNULL))
            time.sleep(1)
        deadline = time.monotonic() + 30
        while not self._virsh("uri").startswith("qemu:"):
            assert time.monotonic() < deadline, "libvirtd does not answer"
            time.sleep(0.2)
        self._networks = set(self._virsh("net-list", "--all", "--name").split())

    def _virsh(self, *arguments: str) -> str:
        return run("virsh", "--connect", "qemu:///system", *arguments, check=False)

    def stop(self) -> None:
        for network in set(self._virsh("net-list", "--all", "--name").split()) - self._networks:
            self._virsh("net-destroy", network)
            self._virsh("net-undefine", network)
        box = "flotilla-debian-libvirt_vagrant_box_image"
        for volume in self._virsh("vol-list", "default").split():
            if volume.startswith(box):
                self._virsh("vol-delete", volume, "default")
        for daemon in reversed(self._running):
            daemon.terminate()
            daemon.wait(30)
        if self._before:
            self._settings.write_bytes(self._before)


@pytest.fixture(scope="module", params=[Lxc, Libvirt], ids=["lxc", "libvirt"])
def provider(request: pytest.FixtureRequest) -> Lxc | Libvirt:
    if os.geteuid() != 0:
        pytest.skip("machines are made by root")
    made: Lxc | Libvirt = request.param()
    return made


@pytest.fixture(scope="module")
def folder(provider: Lxc | Libvirt, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of vagrant/ with settings, a box, and documents of three machines."""
    system.install(*provider.packages)
    box = CACHE / f"flotilla-debian-{provider.name}.box"
    run(sys.executable, "tools/vagrant_box.py", str(box), "--provider", provider.name, timeout=1800)
    made = tmp_path_factory.mktemp("walkthrough") / "vagrant"
    ignored = shutil.ignore_patterns("config.rb", "user-data", "seeds", "boxes", ".vagrant")
    shutil.copytree(ROOT / "vagrant", made, ignore=ignored)
    (made / "boxes").mkdir()
    (made / "boxes" / box.name).symlink_to(box)
    (made / "config.rb").write_text(f'$address_prefix = "{provider.prefix}"\n{provider.settings}')
    documents(made, provider)
    try:
        provider.start()
        yield made
    finally:
        vagrant(made, "destroy", "--force", check=False)
        provider.stop()


def documents(folder: Path, provider: Lxc | Libvirt) -> None:
    """What role cloud_config writes for the machines, from an inventory."""
    hosts = {name: {"ansible_host": f"{provider.prefix}.{100 + number}"} for number, name in enumerate(NAMES, 1)}
    variables = {
        "cloud_config_member": True,
        "cloud_config_allow_secrets": True,
        "cloud_config_packages": [],  # the box has them
        "cloud_config_directory": str(folder / "seeds"),
        "cloud_config_media": provider.media,
        "pki_directory": str(folder / "pki"),
    }
    groups = {"etcd": {"hosts": dict.fromkeys(NAMES)}, "machines": {"hosts": hosts}}
    inventory, play = folder / "hosts.json", folder / "play.json"
    inventory.write_text(json.dumps({"all": {"vars": variables, "children": groups}}))
    role = {"role": "flotilla.cluster.cloud_config"}
    play.write_text(json.dumps([{"hosts": "machines", "gather_facts": False, "roles": [role]}]))
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    run(program, "-i", str(inventory), str(play), ANSIBLE_CONFIG=str(ROOT / "ansible.cfg"))


def vagrant(folder: Path, *arguments: str, check: bool = True, timeout: float = 600) -> str:
    return run("vagrant", *arguments, cwd=folder, check=check, timeout=timeout, VAGRANT_HOME=str(folder / ".home"))


@dataclass(frozen=True)
class Up:
    """Machines that are one cluster: their folder, their addresses, and the seconds that it took."""

    folder: Path
    prefix: str
    seconds: float

    def ssh(self, name: str, script: str) -> str:
        return vagrant(self.folder, "ssh", name, "-c", script)


@pytest.fixture(scope="module")
def up(provider: Lxc | Libvirt, folder: Path) -> Up:
    """The machines, as soon as three of them are listed."""
    begun = time.monotonic()
    vagrant(folder, "up", "--provision", "--provider", provider.name, timeout=provider.timeout)
    # asked from inside: each start of Vagrant takes seconds from machines that are emulated on the same processors
    listed = (
        f"for try in $(seq {provider.timeout // 5:.0f}); do sudo fleetctl list-machines --no-legend > /tmp/listed;"
        f" test $(grep -c '{provider.prefix}' /tmp/listed) = {len(NAMES)} && break; sleep 1; done; cat /tmp/listed"
    )
    machines = vagrant(folder, "ssh", "core-01", "-c", listed, timeout=provider.timeout)
    assert machines.count(provider.prefix) == len(NAMES), machines
    return Up(folder, provider.prefix, time.monotonic() - begun)


def test_three_machines_are_one_cluster(up: Up, record_property: pytest.RecordProperty) -> None:
    record_property("seconds", up.seconds)
    print(f"\n{up.seconds:.1f} s from vagrant up to three machines listed")


def test_vagrants_own_key_is_gone(up: Up) -> None:
    keys = up.ssh("core-02", "cat ~/.ssh/authorized_keys")
    assert "ssh-rsa" in keys
    assert packages.VAGRANT_KEY.split()[1] not in keys


def test_the_inventory_has_them(up: Up) -> None:
    program = str(Path(sys.executable).with_name("ansible-inventory"))
    environment = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "VAGRANT_HOME": str(up.folder / ".home")}
    listed = json.loads(run(program, "-i", str(up.folder / "inventory.vagrant.yml"), "--list", **environment))
    assert set(listed["machines"]["hosts"]) == set(listed["etcd"]["hosts"]) == set(NAMES)
    first = listed["_meta"]["hostvars"]["core-01"]
    # where other machines reach it: with libvirt Vagrant has a network of its own
    address = first.get("etcd_address", first["ansible_host"])
    assert address["__ansible_unsafe"] == f"{up.prefix}.101"


def test_a_unit_runs(up: Up) -> None:
    script = (
        "printf '[Service]\\nExecStart=/bin/sleep infinity\\n[X-Fleet]\\nGlobal=true\\n' > /tmp/all.service;"
        " sudo fleetctl start --no-block /tmp/all.service;"
        " for try in $(seq 60); do sudo fleetctl list-units --no-legend > /tmp/seen;"
        " test $(grep -c running /tmp/seen) = 3 && break; sleep 0.5; done; cat /tmp/seen"
    )
    seen = up.ssh("core-03", script)
    assert seen.count("running") == len(NAMES), seen
