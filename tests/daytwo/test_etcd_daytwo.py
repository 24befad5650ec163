# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks of etcd's day two on three local hosts, one after the other, most of them under 50 writes a second.

make test-etcd, as root: about ten minutes. Releases are built from etcd's Go modules; where that cannot be done, all is
skipped. What is measured is printed at the end (tests/output/etcd-daytwo.json).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator

import pytest
from daytwo.lab import OUTPUT, Lab, unchanged, words

HOSTS = ["ed-01", "ed-02", "ed-03"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="local hosts are made by root")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab"), "etcdday", "ed-")
    made.use("3.5")
    try:
        made.up()
        made.play("cluster.yml")
        yield made
    finally:
        made.down()
        OUTPUT.mkdir(exist_ok=True)
        (OUTPUT / "etcd-daytwo.json").write_text(json.dumps(made.measured, indent=1) + "\n")
        print(json.dumps(made.measured, indent=1))


def test_two_minor_versions_at_once_are_refused(lab: Lab) -> None:
    lab.use("3.7")
    for name in ("cluster.yml", "etcd_upgrade.yml"):
        assert "one minor version at a time" in words(lab.play(name, fails=True))
    lab.use("3.6")
    # the ordinary play would not have members write what the next version needs
    assert "use the playbook etcd_upgrade.yml" in words(lab.play("cluster.yml", fails=True))
    assert lab.versions() == ["3.5.35"] * 3


@pytest.mark.parametrize("minor", ["3.6", "3.7"])
def test_an_upgrade_under_load(lab: Lab, minor: str) -> None:
    lab.use(minor)
    with lab.written(f"upgrade to {minor}"):
        lab.play("etcd_upgrade.yml")
    assert lab.versions() == [lab.release["etcd_release_version"]] * 3
    assert unchanged(lab.play("cluster.yml"))


def test_no_way_back(lab: Lab) -> None:
    lab.use("3.6")
    assert "its data are not readable" in words(lab.play("etcd_upgrade.yml", fails=True))
    lab.use("3.7")


def test_the_check_tells_what_runs_out_and_who_is_down(lab: Lab) -> None:
    assert "nothing runs out" in lab.play("etcd_check.yml")
    said = " ".join(
        lab.play("etcd_check.yml", fails=True, etcd_check_certificate_days=400, etcd_check_disk=0.0001).split()
    )
    for host in HOSTS:
        assert f"{host}: the certificate of https://" in said
        assert f"{host}: the certificate /etc/flotilla/pki/etcd-peer.crt ends on " in said
        assert f"{host}: the disk of /var/lib/etcd is " in said
    lab.on(HOSTS[2], "systemctl stop etcd")
    said = " ".join(lab.play("etcd_check.yml", fails=True).split())
    assert f"{HOSTS[2]} does not answer" in said
    assert "findings: 1," in said
    lab.on(HOSTS[2], "systemctl start etcd")


def test_a_member_that_lost_its_disk_is_replaced_under_load(lab: Lab) -> None:
    lab.on(HOSTS[1], "systemctl kill --signal KILL etcd; systemctl stop etcd; rm -rf /var/lib/etcd/member")
    with lab.written("replace"):
        lab.play("etcd_replace.yml", etcd_replace_host=HOSTS[1])
    assert "is a healthy member" in words(lab.play("etcd_replace.yml", fails=True, etcd_replace_host=HOSTS[1]))
    assert unchanged(lab.play("cluster.yml"))


def test_a_cluster_is_restored(lab: Lab) -> None:
    copies = lab.folder / "copies"
    copies.mkdir()
    lab.etcdctl("put /marker before")
    lab.play("etcd_backup.yml", etcd_backup_fetch_to=str(copies))
    (snapshot,) = copies.glob("*.snapshot")
    assert snapshot.stat().st_mode & 0o777 == 0o600
    lab.etcdctl("put /marker after")
    restore = {"etcd_restore_snapshot": str(snapshot)}
    assert "set etcd_confirm to flotilla" in words(lab.play("etcd_restore.yml", fails=True, **restore))
    begun = time.monotonic()
    lab.play("etcd_restore.yml", etcd_confirm="flotilla", **restore)
    lab.measured["restore"] = {"seconds": round(time.monotonic() - begun, 1)}
    assert lab.etcdctl("get --print-value-only /marker").strip() == "before"
    assert unchanged(lab.play("cluster.yml"))


def test_one_survivor_is_made_a_cluster_again(lab: Lab) -> None:
    recover = {"etcd_recover_survivor": HOSTS[0], "etcd_confirm": "flotilla"}
    assert "nothing to recover" in words(lab.play("etcd_recover.yml", fails=True, **recover))
    for host in HOSTS[1:]:
        lab.on(host, "systemctl kill --signal KILL etcd; systemctl stop etcd; rm -rf /var/lib/etcd/member*")
    lab.play("etcd_recover.yml", **recover)
    assert lab.etcdctl("get --print-value-only /marker").strip() == "before"
    assert lab.etcdctl("member list").count("started") == 3
    assert unchanged(lab.play("cluster.yml"))


def test_three_to_one_to_three_members(lab: Lab) -> None:
    one = lab.of_one_member()
    said = words(lab.play("etcd_scale.yml", fails=True, inventory=one))
    assert f"{HOSTS[1]} is a member and no host of the group etcd" in said
    lab.play("etcd_scale.yml", inventory=one, etcd_scale_remove=HOSTS[1:])
    assert lab.etcdctl("member list").count("started") == 1
    lab.play("etcd_scale.yml")
    assert lab.etcdctl("member list").count("started") == 3
    assert lab.etcdctl("get --print-value-only /marker").strip() == "before"
    assert unchanged(lab.play("etcd_scale.yml"))
