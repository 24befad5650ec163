# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rendered documents, judged and applied by the programs that read them on real machines.

Debian's package ignition is CoreOS's own program: its engine fills a root file system here as it does in an initramfs,
and that system is booted.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud as cloud
from ansible_collections.flotilla.cluster.tests.unit.plugins.module_utils.test__cloud import (
    ADDRESSES,
    CONFIG,
    EVERYTHING,
    KEY,
)
from localhosts import image
from localhosts.system import Progress, mounts_below
from support.etcd import unpack_package

from .conftest import ROOT, Lab

IGNITABLE = {key: value for key, value in EVERYTHING.items() if key != "packages"}
HOST = "live-02"


def render(config: dict[str, Any], format_: str) -> dict[str, str]:
    return cloud.render(config, cloud.Request(format_, ADDRESSES, allow_secrets=True)).documents


def unpacked(package: str) -> Path:
    root = unpack_package(package)
    if root is None:
        pytest.skip(f"apt does not give the package {package}")
    return root


@pytest.mark.parametrize("config", [{}, CONFIG, IGNITABLE], ids=["empty", "usual", "everything"])
def test_ignition_is_valid(config: dict[str, Any], tmp_path: Path) -> None:
    program = unpacked("ignition") / "usr/bin/ignition-validate"
    document = tmp_path / "config.ign"
    document.write_text(render(config, "ignition")["config.ign"])
    done = subprocess.run([program, document], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_stub_is_valid_and_the_validator_finds_faults(tmp_path: Path) -> None:
    program = unpacked("ignition") / "usr/bin/ignition-validate"
    document = tmp_path / "config.ign"
    request = cloud.Request("ignition", ADDRESSES, "virtualbox", stub_url="https://config.example.org/a.ign")
    stub = cloud.render(CONFIG, request).payload.text
    for text, code in ((stub, 0), (stub.replace("sha512-", "sha513-"), 1)):
        document.write_text(text)
        assert subprocess.run([program, document], capture_output=True, timeout=30, check=False).returncode == code


@pytest.mark.parametrize("config", [{}, CONFIG, EVERYTHING], ids=["empty", "usual", "everything"])
def test_cloud_config_matches_cloud_inits_schema(config: dict[str, Any]) -> None:
    folder = unpacked("cloud-init") / "usr/lib/python3/dist-packages/cloudinit/config/schemas"
    schema = json.loads((folder / "schema-cloud-config-v1.json").read_text())
    validator = jsonschema.Draft4Validator(schema)
    found = yaml.safe_load(render(config, "cloud-init")["user-data"])
    assert [error.message for error in validator.iter_errors(found)] == []
    assert [error.message for error in validator.iter_errors({"runcmd": 3, "write_files": [{"path": 1}]})] != []


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A fresh system to fill: the image of local hosts, with a layer for what is written."""
    if os.geteuid() != 0:
        pytest.skip("file systems are mounted by root")
    layers = [str(image.root_of(key)) for key in image.ensure(Progress(), "cached")]
    for name in ("upper", "work"):
        (tmp_path / name).mkdir(mode=0o755)
    options = f"lowerdir={':'.join(reversed(layers))},upperdir={tmp_path / 'upper'},workdir={tmp_path / 'work'}"
    # Ignition writes keys as their owner, who must be able to get there
    mounted = Path(tempfile.mkdtemp(prefix="flotilla-", dir="/run"))
    mounted.chmod(0o755)
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, mounted], check=True, timeout=30)
    try:
        yield mounted
    finally:
        for point in mounts_below(mounted):
            subprocess.run(["umount", point], check=True, timeout=30)
        mounted.rmdir()


def ignite(root: Path, config: Path, scratch: Path) -> None:
    """Run the stages of Ignition that fill a root file system."""
    engine = unpacked("ignition") / "usr/lib/dracut/modules.d/30ignition/ignition"
    # it labels files for SELinux, of which this system has none
    (root / "etc/selinux").mkdir(exist_ok=True)
    (root / "etc/selinux/config").write_text("SELINUX=disabled\nSELINUXTYPE=targeted\n")
    tools = scratch / "tools"
    tools.mkdir()
    (tools / "setfiles").symlink_to("/bin/true")
    cache = f"-config-cache={scratch / 'cache.json'}"
    for stage in ("fetch-offline", "fetch", "files"):
        done = subprocess.run(
            [engine, "-log-to-stdout", "-platform=file", f"-root={root}", f"-stage={stage}", cache],
            env={"IGNITION_CONFIG_FILE": str(config), "PATH": f"{tools}:/usr/sbin:/usr/bin:/sbin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        said = [line for line in done.stdout.splitlines() if "CRITICAL" in line or "failed" in line]
        assert done.returncode == 0, f"{stage}: {said}"


BOOTED: dict[str, Any] = {
    "hostname": "ignited-01",
    "ssh_authorized_keys": [KEY],
    "users": [{"name": "elroy", "groups": ["staff"]}],
    "write_files": [{"path": "/etc/issue.d/x", "content": "on $private_ipv4\n" * 100, "permissions": "0640"}],
    "links": [{"path": "/etc/issue.d/y", "target": "x"}],
    "directories": [{"path": "/srv/data", "permissions": "0750", "owner": "elroy"}],
    "coreos": {
        "etcd2": {"name": 'a "b" 50%'},
        "units": [
            {"name": "plain.service", "command": "start", "content": "[Service]\nExecStart=/bin/sleep infinity\n"},
            {
                "name": "etcd2.service",
                "enable": True,
                "content": "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n",
            },
            {"name": "fstrim.timer", "mask": True},
        ],
    },
}


def test_a_system_filled_by_ignition_boots_as_described(lab: Lab, root: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.ign"
    config.write_text(render(BOOTED, "ignition")["config.ign"])
    ignite(root, config, tmp_path)
    subprocess.run(["umount", root], check=True, timeout=30)
    files = tmp_path / "files" / HOST
    files.parent.mkdir()
    subprocess.run(["cp", "--archive", tmp_path / "upper", files], check=True, timeout=60)
    # only at a first boot are units enabled by presets, and that is one without a machine-id
    (files / "etc/machine-id").unlink(missing_ok=True)
    (files / "etc/machine-id").write_text("uninitialized\n")
    lab.up("--hosts", "2", "--prefix", "live-", "--files", str(tmp_path / "files"))
    assert lab.run(HOST, "systemctl is-active plain etcd2").split() == ["active", "active"]
    assert lab.run(HOST, "systemctl is-enabled fstrim.timer", check=False).strip() == "masked"
    environment = lab.run(HOST, "tr '\\0' '\\n' < /proc/$(systemctl show -P MainPID etcd2)/environ")
    assert 'ETCD_NAME=a "b" 50%' in environment.splitlines()
    assert lab.run(HOST, "cat /etc/issue.d/y").splitlines()[0] == f"on {ADDRESSES['private_ipv4']}"
    assert lab.run(HOST, "stat -c '%a %U' /etc/issue.d/x /srv/data").split() == ["640", "root", "750", "elroy"]
    assert "staff" in lab.run(HOST, "id -nG elroy")
    assert KEY in lab.run(HOST, "cat ~core/.ssh/authorized_keys.d/ignition")
    assert lab.run(HOST, "cat /etc/hostname").strip() == "ignited-01"


@pytest.mark.parametrize(("target", "label"), [("iso", "cidata"), ("config-drive", "config-2")])
def test_an_iso_has_the_label_and_the_files_that_machines_look_for(tmp_path: Path, target: str, label: str) -> None:
    if not (shutil.which("xorriso") or os.geteuid() == 0):
        pytest.skip("xorriso is not installed")
    if not shutil.which("xorriso"):
        install = ["apt-get", "-qq", "-y", "--no-install-recommends", "install", "xorriso"]
        if subprocess.run(install, capture_output=True, timeout=300, check=False).returncode:
            pytest.skip("apt does not give xorriso")
    play = tmp_path / "play.yml"
    variables = {"cloud_config_media": "iso", "cloud_config_target": target, "cloud_config_directory": str(tmp_path)}
    tasks = [{"hosts": "all", "gather_facts": False, "roles": [{"role": "flotilla.cluster.cloud_config"}]}]
    play.write_text(json.dumps([{**tasks[0], "vars": {**variables, "cloud_config_description": {"hostname": "a"}}}]))
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "core-01,", str(play)]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    changed = []
    for _again in range(2):
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout
        changed.append("changed=0 " in done.stdout)
    assert changed == [False, True]
    listed = subprocess.run(
        ["xorriso", "-indev", tmp_path / "core-01.iso", "-find", "/", "-type", "f"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert f"Volume id    : '{label}'" in listed.stderr
    names = {"'/user-data'", "'/meta-data'", "'/network-config'"}
    if target == "config-drive":
        names = {"'/openstack/latest/user_data'", "'/openstack/latest/meta_data.json'"}
    assert set(listed.stdout.split()) == names
    assert oct((tmp_path / "core-01.iso").stat().st_mode)[-3:] == "600"
