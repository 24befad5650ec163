# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A running host is brought to a description, to another one, and through a boot."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest

from .conftest import Lab

HOST = "live-01"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGuVkSl8 you@example.org"
SERVICE = "[Service]\nExecStart=/bin/sleep infinity\n"
CONFIG: dict[str, Any] = {
    "hostname": "renamed-01",
    "users": [{"name": "elroy", "gecos": "Elroy", "ssh_authorized_keys": [KEY], "passwd": "$6$x$y"}],
    "write_files": [
        {"path": "/etc/motd", "content": "on $private_ipv4\n", "permissions": "0640", "owner": "root:elroy"},
    ],
    "directories": [{"path": "/srv/data", "permissions": "0750", "owner": "elroy"}],
    "links": [{"path": "/srv/now", "target": "data"}],
    "coreos": {
        "etcd2": {"name": 'a "b" 50% \\', "discovery": "https://d.example.org/" + "0" * 32, "max_wals": 3},
        "fleet": {"public_ip": "$private_ipv4", "verify_units": False},
        "flannel": {"interface": "$private_ipv4", "etcd_prefix": "/x"},
        "locksmith": {"window_start": "Thu 04:00", "window_length": "1h"},
        "oem": {"id": "local", "name": "Local hosts"},
        "update": {"reboot_strategy": "off", "group": "stable"},
        "units": [
            {"name": "hello.service", "command": "start", "content": SERVICE},
            {"name": "etcd2.service", "command": "start", "content": SERVICE},
            {"name": "old.service", "mask": True},
            {
                "name": "other.service",
                "enable": True,
                "content": SERVICE + "[Install]\nWantedBy=multi-user.target\n",
                "drop_ins": [{"name": "10-a.conf", "content": "[Service]\nNice=5\n"}],
            },
        ],
    },
}


def play(config: dict[str, Any], **variables: Any) -> str:
    tasks = [{"hosts": "machines", "gather_facts": False, "roles": [{"role": "flotilla.cluster.cloud_config"}],
              "vars": {"cloud_config_media": "live", "cloud_config_description": config, **variables}}]  # fmt: skip
    return json.dumps(tasks)


def changed(output: str) -> int:
    found = re.search(r"changed=(\d+)", output)
    assert found, output
    return int(found.group(1))


@pytest.fixture(scope="module")
def address(lab: Lab) -> str:
    lab.up("--hosts", "1", "--prefix", "live-")
    found = re.search(r'ansible_host: "(.*)"', lab.inventory.read_text())
    assert found
    return found.group(1)


@pytest.fixture(scope="module")
def applied(lab: Lab, address: str) -> str:
    """The host after the first call; its address."""
    seen = lab.play(play(CONFIG), "--check", "--diff")
    assert changed(seen) == 1
    assert "+on " + address in seen
    assert lab.run(HOST, "test -e /etc/motd.d || ls /srv; id elroy 2>&1", check=False).count("no such user") == 1
    assert changed(lab.play(play(CONFIG))) == 1
    return address


def test_the_files_are_those_of_the_original(lab: Lab, applied: str) -> None:
    expected = {
        "/etc/systemd/system/etcd2.service.d/20-cloudinit.conf": "[Service]\n"
        f'Environment="ETCD_DISCOVERY=https://d.example.org/{"0" * 32}"\n'
        'Environment="ETCD_MAX_WALS=3"\nEnvironment="ETCD_NAME=a \\"b\\" 50%% \\\\"\n',
        "/etc/systemd/system/fleet.service.d/20-cloudinit.conf": "[Service]\n"
        f'Environment="FLEET_PUBLIC_IP={applied}"\n',
        "/etc/systemd/system/locksmithd.service.d/20-cloudinit.conf": "[Service]\n"
        'Environment="REBOOT_WINDOW_START=Thu 04:00"\nEnvironment="REBOOT_WINDOW_LENGTH=1h"\n',
        "/run/flannel/options.env": f"FLANNELD_ETCD_PREFIX=/x\nFLANNELD_IFACE={applied}",
        "/etc/coreos/update.conf": "GROUP=stable\nREBOOT_STRATEGY=off\n",
        "/etc/oem-release": 'ID=local\nVERSION_ID=\nNAME="Local hosts"\nHOME_URL=""\nBUG_REPORT_URL=""\n',
        "/etc/motd": f"on {applied}\n",
        "/etc/hostname": "renamed-01\n",
        "/etc/systemd/system/other.service.d/10-a.conf": "[Service]\nNice=5\n",
    }
    for path, text in expected.items():
        assert lab.run(HOST, f"cat {path}") == text, path
    assert f"COREOS_PRIVATE_IPV4={applied}" in lab.run(HOST, "cat /etc/environment")
    assert lab.run(HOST, "readlink /etc/systemd/system/old.service /srv/now").split() == ["/dev/null", "data"]
    assert lab.run(HOST, "stat -c '%a %U:%G' /etc/motd /srv/data").split("\n")[:2] == [
        "640 root:elroy",
        "750 elroy:elroy",
    ]


def test_systemd_reads_settings_as_they_were_meant(lab: Lab, applied: str) -> None:
    shown = lab.run(HOST, "xargs -0n1 < /proc/$(systemctl show -P MainPID etcd2.service)/environ | grep ETCD_NAME")
    # xargs -n1 prints each variable with echo, which keeps quotes and backslashes
    assert shown.strip() == 'ETCD_NAME=a "b" 50% \\'


def test_units_and_users_are_there(lab: Lab, applied: str) -> None:
    assert lab.run(HOST, "systemctl is-active hello etcd2").split() == ["active", "active"]
    assert lab.run(HOST, "systemctl is-enabled other").strip() == "enabled"
    assert lab.run(HOST, "cat ~elroy/.ssh/authorized_keys").strip() == KEY
    assert "elroy:$6$x$y:" in lab.run(HOST, "cat /etc/shadow")
    assert lab.run(HOST, "hostname").strip() == "renamed-01"


def test_a_second_call_changes_nothing(lab: Lab, applied: str) -> None:
    before = lab.run(HOST, "systemctl show -P InvocationID hello etcd2")
    assert changed(lab.play(play(CONFIG))) == 0
    assert lab.run(HOST, "systemctl show -P InvocationID hello etcd2") == before


def test_it_outlives_a_boot(lab: Lab, applied: str) -> None:
    lab.reboot(HOST)
    assert lab.run(HOST, "systemctl is-active hello etcd2 other").split() == ["active"] * 3
    # flannel's file lies below /run, where the original writes it at each boot
    output = lab.play(play(CONFIG), "--check", "--diff")
    assert output.count("before: /") <= 1
    lab.play(play(CONFIG))


def test_only_the_unit_whose_settings_change_is_restarted(lab: Lab, applied: str) -> None:
    before = lab.run(HOST, "systemctl show -P InvocationID hello etcd2").split()
    config = copy.deepcopy(CONFIG)
    config["coreos"]["etcd2"]["name"] = "renamed"
    assert changed(lab.play(play(config))) == 1
    after = lab.run(HOST, "systemctl show -P InvocationID hello etcd2").split()
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_a_call_that_was_killed_is_made_up_for(lab: Lab, applied: str) -> None:
    manifest = "/var/lib/flotilla/cloud-config.json"
    lab.play(play(CONFIG))
    before = lab.run(HOST, "systemctl show -P InvocationID hello")
    # what is left of a call that had written hello.service and died before it told systemd
    lab.run(
        HOST, f'sed -i \'s/"pending": \\[\\]/"pending": ["hello.service"]/\' {manifest}; grep -c pending {manifest}'
    )
    assert changed(lab.play(play(CONFIG))) == 1
    assert lab.run(HOST, "systemctl show -P InvocationID hello") != before
    assert changed(lab.play(play(CONFIG))) == 0


def test_what_is_dropped_is_removed(lab: Lab, applied: str) -> None:
    config = {"users": [{"name": "elroy"}], "write_files": [{"path": "/etc/other", "content": "x"}]}
    assert changed(lab.play(play(config))) == 1
    units = "/etc/systemd/system"
    gone = ["/etc/motd", "/srv/now", f"{units}/hello.service", f"{units}/old.service", f"{units}/etcd2.service.d"]
    gone.append(f"{units}/multi-user.target.wants/hello.service")
    for path in gone:
        assert lab.run(HOST, f"test -e {path} -o -L {path} || echo gone").strip() == "gone", path
    assert lab.run(HOST, "systemctl is-active hello etcd2", check=False).split() == ["inactive", "inactive"]
    assert lab.run(HOST, "cat ~elroy/.ssh/authorized_keys").strip() == ""
    # what the user's own data is stays
    assert lab.run(HOST, "stat -c %a /srv/data").strip() == "750"
    assert changed(lab.play(play(config))) == 0


def test_what_cannot_be_is_told_before_anything_is_changed(lab: Lab, applied: str) -> None:
    config = {"packages": ["jq"], "write_files": [{"path": "/etc/motd2", "content": "$public_ipv6"}]}
    output = lab.play(play(config), check=False)
    assert "packages: is for a first boot" in output
    assert "holds $public_ipv6, and that address is not known" in output
    assert lab.run(HOST, "ls /etc/motd2 2>&1 || true").count("No such file") == 1
