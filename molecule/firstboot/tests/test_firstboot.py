# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What three hosts are that nobody but cloud-init has ever touched."""

from __future__ import annotations

import json
import re
import time

import pytest
from testinfra.host import Host

UNIT = "[Service]\nExecStart=/bin/sleep infinity\n[X-Fleet]\nGlobal=true\n"
SECONDS = 60.0


def poll(host: Host, command: str, wanted: str) -> str:
    """What a command says once it says what is wanted; the last that it said when it never does."""
    deadline = time.monotonic() + SECONDS
    while True:
        done = host.run(command)
        if re.search(wanted, done.stdout) or time.monotonic() > deadline:
            return done.stdout
        time.sleep(0.3)


@pytest.fixture
def joined(host: Host) -> Host:
    """A host once its first boot is over and it sees the others."""
    seen = poll(host, "fleetctl list-machines --no-legend | grep -c .", "^3$")
    assert seen.strip() == "3", host.run("journalctl -b -u etcd -u fleet -n 30 --no-pager").stdout
    return host


def test_fleet_lists_three_machines(joined: Host) -> None:
    addresses = set(re.findall(r"\d+\.\d+\.\d+\.\d+", joined.check_output("fleetctl list-machines")))
    assert len(addresses) == 3


def test_etcd_has_three_healthy_members_that_found_each_other(joined: Host) -> None:
    etcdctl = "set -a; . /etc/flotilla/etcdctl.env; ETCDCTL_API=3; set +a; etcdctl"
    listed = json.loads(joined.check_output(f"{etcdctl} member list --write-out=json"))
    assert sorted(member["name"] for member in listed["members"]) == ["fb-01", "fb-02", "fb-03"]
    assert joined.check_output(f"{etcdctl} endpoint health --cluster 2>&1").count("is healthy") == 3


def test_members_were_told_a_token_and_no_addresses(joined: Host) -> None:
    told = joined.check_output("cat /var/lib/cloud/seed/nocloud/user-data")
    assert "ETCD_DISCOVERY=http://" in told
    assert "--initial-cluster=" not in told
    # it is of use once, and no secret of the process list
    for name in ("bootstrap", "discovery"):
        assert not joined.file(f"/etc/flotilla/etcd-{name}.env").exists
    assert "--discovery=" not in joined.check_output("cat /proc/$(pidof etcd)/cmdline | tr '\\0' ' '")


def test_a_unit_runs_on_all_of_them(joined: Host) -> None:
    joined.check_output(
        f"printf '{UNIT}' > /run/everywhere.service && fleetctl start --no-block /run/everywhere.service"
    )
    assert poll(joined, "systemctl is-active everywhere.service", "^active").strip() == "active"


def test_docker_runs(joined: Host) -> None:
    assert poll(joined, "docker info --format '{{.ServerVersion}}'", r"^\d").strip()
    assert json.loads(joined.file("/etc/docker/daemon.json").content_string)["live-restore"] is True


def test_keys_belong_to_those_who_use_them(joined: Host) -> None:
    for name, owner in (("etcd-peer.key", "etcd"), ("etcd-server.key", "etcd"), ("etcd-client.key", "root")):
        key = joined.file(f"/etc/flotilla/pki/{name}")
        assert (key.user, oct(key.mode)) == (owner, "0o400"), name


def test_keys_in_documents_are_for_root_alone(joined: Host) -> None:
    """cloud-init keeps copies; whoever finds one through a folder that is open must not be able to read it."""
    files = joined.check_output("grep -rl etcd-peer.key /var/lib/cloud").split()
    assert files
    for path in files:
        assert joined.run("setpriv --reuid=nobody --regid=nogroup --clear-groups cat %s", path).rc != 0, path


def test_cloud_init_finds_nothing_wrong(joined: Host) -> None:
    assert "status: done" in poll(joined, "cloud-init status", "status: (done|error)")
    assert "Valid cloud-config" in joined.run("cloud-init schema --system 2>&1").stdout
    assert joined.check_output("systemctl is-system-running") == "running"


def test_no_play_was_here(joined: Host) -> None:
    assert not joined.file("/root/.ansible").exists
    assert joined.run("journalctl -b --no-pager -q -t ansible").stdout == ""
