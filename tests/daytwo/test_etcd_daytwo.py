# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks of etcd's day two on three local hosts, one after the other, most of them under 50 writes a second.

make test-etcd, as root: about ten minutes. Releases are built from etcd's Go modules; where that cannot be done, all is
skipped. What is measured is printed at the end (tests/output/etcd-daytwo.json).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.etcd_builds import build
from support.etcd_writer import Writer

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "tests/output"
CLUSTER = "etcdday"
HOSTS = ["ed-01", "ed-02", "ed-03"]
PLAY_SECONDS = 900
PAUSE = 1.0
"""Longest time in seconds that no write may be taken, on a quiet machine (ETCD_PAUSE for one that is not)."""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="local hosts are made by root")


class Lab:
    """Three hosts, the plays on them, and a client from outside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inventory = folder / "hosts.yml"
        self.release: dict[str, str] = {}
        self.measured: dict[str, Any] = {}
        self.addresses: list[str] = []

    def tool(self, *arguments: str) -> str:
        command = [sys.executable, str(ROOT / "tools/hosts.py"), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, input="", timeout=600).stdout

    def on(self, host: str, script: str) -> str:
        return self.tool("ssh", "--cluster", CLUSTER, host, script)

    def up(self) -> None:
        # the roles are asked for etcd alone: no docker, no fleet
        self.tool(
            *("up", "--cluster", CLUSTER, "--prefix", "ed-", "--hosts", "3", "--packages", "cached"),
            *("--inventory", str(self.inventory), "--var", f"pki_directory={self.folder}/pki"),
        )
        lines = self.inventory.read_text().splitlines()
        self.addresses = [line.split('"')[1] for line in lines if "ansible_host:" in line]

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

    def play(self, name: str, *, fails: bool = False, inventory: Path | None = None, **variables: Any) -> str:
        path = ROOT / "playbooks" / name if (ROOT / "playbooks" / name).exists() else Path(__file__).with_name(name)
        command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(inventory or self.inventory)]
        done = subprocess.run(
            [*command, str(path), "-e", json.dumps({**self.release, **variables})],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PLAY_SECONDS,
            check=False,
        )
        said = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, said[-6000:]
        return said

    def files(self) -> tuple[str, str, str]:
        """The first host's client certificate, here."""
        paths = []
        for name in ("etcd-client-ca.crt", "etcd-client.crt", "etcd-client.key"):
            path = self.folder / name
            path.write_text(self.on(HOSTS[0], f"cat /etc/flotilla/pki/{name}"))
            paths.append(str(path))
        return paths[0], paths[1], paths[2]

    @contextlib.contextmanager
    def written(self, what: str) -> Iterator[None]:
        """Somebody writes all the while; nothing that was taken may be lost, and no pause be long."""
        ca, cert, key = self.files()
        writer = Writer([f"https://{address}:2379" for address in self.addresses], (cert, key), ca)
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

    def etcdctl(self, command: str) -> str:
        return self.on(HOSTS[0], f". /etc/profile.d/flotilla-etcdctl.sh; etcdctl {command}")

    def versions(self) -> list[str]:
        status = json.loads(self.etcdctl("endpoint status --cluster -w json"))
        return sorted(item["Status"]["version"] for item in status)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab"))
    made.use("3.5")
    try:
        made.up()
        made.play("cluster.yml")
        yield made
    finally:
        made.tool("down", "--cluster", CLUSTER, "--all")
        OUTPUT.mkdir(exist_ok=True)
        (OUTPUT / "etcd-daytwo.json").write_text(json.dumps(made.measured, indent=1) + "\n")
        print(json.dumps(made.measured, indent=1))


def unchanged(said: str) -> bool:
    recap = said.rpartition("PLAY RECAP")[2]
    return "changed=0" in recap and recap.count("changed=0") == len(HOSTS)


def test_two_minor_versions_at_once_are_refused(lab: Lab) -> None:
    lab.use("3.7")
    for name in ("cluster.yml", "etcd_upgrade.yml"):
        assert "one minor version at a time" in " ".join(lab.play(name, fails=True).split())
    lab.use("3.6")
    # the ordinary play would not have members write what the next version needs
    assert "use the playbook etcd_upgrade.yml" in " ".join(lab.play("cluster.yml", fails=True).split())
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
    assert "its data are not readable" in " ".join(lab.play("etcd_upgrade.yml", fails=True).split())
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
    assert "is a healthy member" in " ".join(
        lab.play("etcd_replace.yml", fails=True, etcd_replace_host=HOSTS[1]).split()
    )
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
    assert "set etcd_confirm to flotilla" in " ".join(lab.play("etcd_restore.yml", fails=True, **restore).split())
    begun = time.monotonic()
    lab.play("etcd_restore.yml", etcd_confirm="flotilla", **restore)
    lab.measured["restore"] = {"seconds": round(time.monotonic() - begun, 1)}
    assert lab.etcdctl("get --print-value-only /marker").strip() == "before"
    assert unchanged(lab.play("cluster.yml"))


def test_one_survivor_is_made_a_cluster_again(lab: Lab) -> None:
    recover = {"etcd_recover_survivor": HOSTS[0], "etcd_confirm": "flotilla"}
    assert "nothing to recover" in " ".join(lab.play("etcd_recover.yml", fails=True, **recover).split())
    for host in HOSTS[1:]:
        lab.on(host, "systemctl kill --signal KILL etcd; systemctl stop etcd; rm -rf /var/lib/etcd/member*")
    lab.play("etcd_recover.yml", **recover)
    assert lab.etcdctl("get --print-value-only /marker").strip() == "before"
    assert lab.etcdctl("member list").count("started") == 3
    assert unchanged(lab.play("cluster.yml"))


def test_three_to_one_to_three_members(lab: Lab) -> None:
    one = lab.folder / "one.yml"
    group = f"    etcd:\n      hosts:\n        {HOSTS[0]}: {{}}\n    others:\n"
    one.write_text(lab.inventory.read_text().replace("    etcd:\n", group, 1))
    said = " ".join(lab.play("etcd_scale.yml", fails=True, inventory=one).split())
    assert f"{HOSTS[1]} is a member and no host of the group etcd" in said
    lab.play("etcd_scale.yml", inventory=one, etcd_scale_remove=HOSTS[1:])
    assert lab.etcdctl("member list").count("started") == 1
    lab.play("etcd_scale.yml")
    assert lab.etcdctl("member list").count("started") == 3
    assert lab.etcdctl("get --print-value-only /marker").strip() == "before"
    assert unchanged(lab.play("etcd_scale.yml"))
