# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""etcd's day two with its authentication on: a user for each part of fleet, and root for the plays.

Part of make test-etcd, as root: three hosts with etcd, docker and fleet, as site.yml makes them with no variable set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from daytwo.lab import Lab, unchanged, words
from support import etcd_permissions
from support.cluster_access import Files, log_in, try_to_ask

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="local hosts are made by root")

HOSTS = ["da-01", "da-02", "da-03"]


class Access(Lab):
    """A whole cluster whose etcd asks who is there."""

    def anonymous(self) -> str:
        """What a client with the hosts' certificate and no name gets."""
        said = self.on(
            HOSTS[0], ". /etc/profile.d/flotilla-etcdctl.sh; etcdctl get --print-value-only /marker 2>&1 || true"
        )
        return said.replace("user name is empty", "permission denied")

    def whole(self) -> None:
        """All members and machines are there, nobody gets in without a name, and a second run changes nothing."""
        assert self.etcdctl("member list").count("started") == 3
        assert self.etcdctl("put /marker there").strip() == "OK"
        assert "permission denied" in self.anonymous()
        three = "fleetctl list-machines --no-legend | grep -c . | grep -qx 3"
        self.on(HOSTS[0], f"for _ in $(seq 60); do {three} && exit; sleep 1; done; exit 1")
        assert unchanged(self.play("site.yml"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Access]:
    made = Access(tmp_path_factory.mktemp("lab"), os.environ.get("ETCD_CLUSTER", "etcdauth"), "da-")
    made.use("3.5")
    try:
        made.up()
        made.play("site.yml")
        yield made
    finally:
        made.down()


def test_the_cluster_comes_up_with_users(lab: Access) -> None:
    lab.whole()


@pytest.mark.parametrize("part", ["machine", "engine", "api"])
def test_each_part_of_a_machine_writes_its_own_keys_only(lab: Access, part: str) -> None:
    """In transactions within transactions, too, which this version judges."""
    own, other = (lab.on(host, "cat /etc/machine-id").strip() for host in (HOSTS[2], HOSTS[1]))
    credentials = lab.on(HOSTS[2], "cat /etc/fleet/etcd-credentials").split()
    name, _, password = dict(line.split("=", 1) for line in credentials)[part].partition(":")
    files = Files(*(Path(path) for path in lab.files()))
    token = log_in(lab.addresses[2], 2379, files, name, password)

    def as_user(path: str, body: object) -> tuple[int, str]:
        return try_to_ask(lab.addresses[2], 2379, path, files, body, token)

    assert etcd_permissions.differences(as_user, part, own, other, nested=True) == []
    assert etcd_permissions.reads_of_all(as_user) == etcd_permissions.DENIED


def test_every_play_of_a_day_works(lab: Access) -> None:
    lab.play("etcd_check.yml")
    lab.play("status.yml")
    lab.play("drain.yml", drain_hosts=HOSTS[2])
    lab.play("undrain.yml", drain_hosts=HOSTS[2])
    # no machine asks for one, which the play finds out in etcd, too
    assert unchanged(lab.play("reboot.yml"))
    lab.whole()


def test_users_come_and_go_without_a_restart_of_a_unit(lab: Access) -> None:
    """An older cluster that has none gets them, one that is to have none loses them, and neither needs any care."""
    text = "[Service]\\nExecStart=/bin/sleep infinity\\n"
    lab.on(HOSTS[0], f"printf '{text}' > /root/stays.service; fleetctl start /root/stays.service")
    show = "systemctl show --property InvocationID stays.service etcd.service"
    before = {host: lab.on(host, show) for host in HOSTS}
    assert not unchanged(lab.play("site.yml", fleet_etcd_auth=False))
    assert lab.anonymous().strip() == "there"
    assert unchanged(lab.play("site.yml", fleet_etcd_auth=False))
    lab.on(HOSTS[0], "! test -e /etc/fleet/etcd-credentials")
    assert not unchanged(lab.play("site.yml"))
    lab.whole()
    assert {host: lab.on(host, show) for host in HOSTS} == before


def test_what_was_changed_by_hand_is_mended(lab: Access) -> None:
    (machine,) = [
        line
        for line in lab.etcdctl("user list").split()
        if line.endswith(lab.on(HOSTS[1], "cat /etc/machine-id").strip())
    ]
    lab.etcdctl(f"user delete {machine}")
    lab.etcdctl("role grant-permission fleet-api readwrite --prefix /other")
    said = lab.play("site.yml", more=("--diff",))
    assert machine in lab.etcdctl("user list").split()
    assert "/other" not in lab.etcdctl("role get fleet-api")
    for path in lab.folder.glob("pki/etcd-users/*"):
        assert path.read_text().strip() not in said, path.name
    lab.whole()


def test_who_does_not_know_the_password_is_told_so(lab: Access) -> None:
    said = words(lab.play("site.yml", fails=True, fleet_etcd_auth_directory=f"{lab.folder}/elsewhere"))
    assert "etcd.service: its users cannot be made" in said
    assert "authentication failed" in said
    lab.play("site.yml")
    lab.whole()


def test_an_upgrade(lab: Access) -> None:
    lab.use("3.6")
    lab.play("etcd_upgrade.yml")
    assert lab.versions() == [lab.release["etcd_release_version"]] * 3
    lab.whole()


def test_a_member_is_replaced(lab: Access) -> None:
    lab.on(HOSTS[1], "systemctl kill --signal KILL etcd; systemctl stop etcd; rm -rf /var/lib/etcd/member")
    lab.play("etcd_replace.yml", etcd_replace_host=HOSTS[1])
    lab.whole()


def test_three_to_one_to_three_members(lab: Access) -> None:
    one = lab.of_one_member()
    lab.play("etcd_scale.yml", inventory=one, etcd_scale_remove=HOSTS[1:])
    lab.play("etcd_scale.yml")
    lab.whole()


def test_new_certificates_and_authorities(lab: Access) -> None:
    lab.play("rotate_certs.yml", rotate_certs_authorities=True)
    lab.whole()


def test_one_survivor_is_made_a_cluster_again(lab: Access) -> None:
    for host in HOSTS[1:]:
        lab.on(host, "systemctl kill --signal KILL etcd; systemctl stop etcd; rm -rf /var/lib/etcd/member*")
    lab.play("etcd_recover.yml", etcd_recover_survivor=HOSTS[0], etcd_confirm="flotilla")
    assert lab.etcdctl("member list").count("started") == 3


def test_a_cluster_is_restored(lab: Access) -> None:
    copies = Path(lab.folder / "copies")
    copies.mkdir()
    lab.etcdctl("put /marker before")
    lab.play("etcd_backup.yml", etcd_backup_fetch_to=str(copies))
    (snapshot,) = copies.glob("*.snapshot")
    lab.etcdctl("put /marker after")
    told = lab.play("etcd_restore.yml", etcd_restore_snapshot=str(snapshot), etcd_confirm="flotilla")
    assert "run fleetd --accept-registry" in told
    lab.on(
        HOSTS[0], "for _ in $(seq 30); do fleetctl list-machines 2>&1 | grep 'this machine to' && exit; done; exit 1"
    )
    lab.play(
        "etcd_restore.yml",
        etcd_restore_snapshot=str(snapshot),
        etcd_confirm="flotilla",
        fleet_accept_registry=True,
    )
    assert lab.etcdctl("get --print-value-only /marker").strip() == "before"
    lab.whole()


def test_a_cluster_that_was_removed_comes_up_with_the_same_passwords(lab: Access) -> None:
    lab.whole()
    lab.play("reset.yml", reset_confirm="flotilla")
    lab.play("site.yml")
    lab.whole()
