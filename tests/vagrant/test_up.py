# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The walkthrough: vagrant up, and three machines are one cluster. With LXC and a box made here: make test-vagrant.

Installs Debian's vagrant-lxc when it is missing, makes a bridge of its own, and takes everything away at the end.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from localhosts import packages
from support.commands import ROOT, done

BOX = Path("/var/cache/flotilla/vagrant/flotilla-debian-lxc.box")
BRIDGE, PREFIX = "flo-vagrant", "10.78.9"
NAMES = ("core-01", "core-02", "core-03")
PACKAGES = ("libarchive-tools", "lxc", "sudo", "vagrant-lxc")


def run(*argv: str, cwd: Path = ROOT, timeout: float = 600, check: bool = True, **environment: str) -> str:
    return done(*argv, cwd=cwd, timeout=timeout, check=check, **{"LANG": "C.UTF-8", **environment})[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of vagrant/ with settings, a box, and documents of three machines."""
    if os.geteuid() != 0:
        pytest.skip("containers are made by root")
    apt = ["apt-get", "-qq", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", "install"]
    run(*apt, *PACKAGES, DEBIAN_FRONTEND="noninteractive")
    run(sys.executable, "tools/vagrant_box.py", str(BOX))
    made = tmp_path_factory.mktemp("walkthrough") / "vagrant"
    ignored = shutil.ignore_patterns("config.rb", "user-data", "seeds", "boxes", ".vagrant")
    shutil.copytree(ROOT / "vagrant", made, ignore=ignored)
    (made / "boxes").mkdir()
    (made / "boxes" / BOX.name).symlink_to(BOX)
    (made / "config.rb").write_text(f'$address_prefix = "{PREFIX}"\n$lxc_bridge = "{BRIDGE}"\n')
    documents(made)
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    try:
        run("ip", "address", "add", f"{PREFIX}.1/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        yield made
    finally:
        vagrant(made, "destroy", "--force", check=False)
        run("ip", "link", "delete", BRIDGE, check=False)


def documents(folder: Path) -> None:
    """What role cloud_config writes for the machines, from an inventory."""
    hosts = {name: {"ansible_host": f"{PREFIX}.{100 + number}"} for number, name in enumerate(NAMES, 1)}
    variables = {
        "cloud_config_member": True,
        "cloud_config_allow_secrets": True,
        "cloud_config_packages": [],  # the box has them
        "cloud_config_directory": str(folder / "seeds"),
        "pki_directory": str(folder / "pki"),
    }
    groups = {"etcd": {"hosts": dict.fromkeys(NAMES)}, "machines": {"hosts": hosts}}
    inventory, play = folder / "hosts.json", folder / "play.json"
    inventory.write_text(json.dumps({"all": {"vars": variables, "children": groups}}))
    role = {"role": "flotilla.cluster.cloud_config"}
    play.write_text(json.dumps([{"hosts": "machines", "gather_facts": False, "roles": [role]}]))
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    run(program, "-i", str(inventory), str(play), ANSIBLE_CONFIG=str(ROOT / "ansible.cfg"))


def vagrant(folder: Path, *arguments: str, check: bool = True) -> str:
    return run("vagrant", *arguments, cwd=folder, check=check, VAGRANT_HOME=str(folder / ".home"))


@pytest.fixture(scope="module")
def up(folder: Path) -> tuple[Path, float]:
    """The machines, and the seconds from vagrant up to three of them listed."""
    begun = time.monotonic()
    vagrant(folder, "up", "--provision", "--provider", "lxc")
    machines = ""
    while time.monotonic() - begun < 400:
        machines = vagrant(folder, "ssh", "core-01", "-c", "sudo fleetctl list-machines --no-legend", check=False)
        if machines.count(PREFIX) == len(NAMES):
            break
    assert machines.count(PREFIX) == len(NAMES), machines
    return folder, time.monotonic() - begun


def test_three_machines_are_one_cluster(up: tuple[Path, float], record_property: pytest.RecordProperty) -> None:
    _folder, seconds = up
    record_property("seconds", seconds)
    print(f"\n{seconds:.1f} s from vagrant up to three machines listed")


def test_vagrants_own_key_is_gone(up: tuple[Path, float]) -> None:
    keys = vagrant(up[0], "ssh", "core-02", "-c", "cat ~/.ssh/authorized_keys")
    assert "ssh-rsa" in keys
    assert packages.VAGRANT_KEY.split()[1] not in keys


def test_the_inventory_has_them(up: tuple[Path, float]) -> None:
    program = str(Path(sys.executable).with_name("ansible-inventory"))
    environment = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "VAGRANT_HOME": str(up[0] / ".home")}
    listed = json.loads(run(program, "-i", str(up[0] / "inventory.vagrant.yml"), "--list", **environment))
    assert set(listed["machines"]["hosts"]) == set(listed["etcd"]["hosts"]) == set(NAMES)
    first = listed["_meta"]["hostvars"]["core-01"]["ansible_host"]
    assert first["__ansible_unsafe"] == f"{PREFIX}.101"


def test_a_unit_runs(up: tuple[Path, float]) -> None:
    script = (
        "printf '[Service]\\nExecStart=/bin/sleep infinity\\n[X-Fleet]\\nGlobal=true\\n' > /tmp/all.service;"
        " sudo fleetctl start --no-block /tmp/all.service;"
        " for try in $(seq 60); do sudo fleetctl list-units --no-legend > /tmp/seen;"
        " test $(grep -c running /tmp/seen) = 3 && break; sleep 0.5; done; cat /tmp/seen"
    )
    seen = vagrant(up[0], "ssh", "core-03", "-c", script)
    assert seen.count("running") == len(NAMES), seen
