# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""New certificates and new authorities under 50 writes a second, and everything removed again.

Part of make test-etcd, as root: three hosts with etcd, docker and fleet, as site.yml makes them.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from daytwo.lab import OUTPUT, Lab, unchanged, words

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="local hosts are made by root")

HOSTS = ["dc-01", "dc-02", "dc-03"]
UNIT = """[Unit]
Description=Waits

[Service]
ExecStart=/bin/sleep infinity

[X-Fleet]
Global=true
"""
INVOCATIONS = "systemctl show --property InvocationID --value etcd.service docker.service wait.service"
CHANGED = "find /etc/flotilla/pki -name '*.crt' -printf '%f %T@\\n'"


class Certificates(Lab):
    """A whole cluster, and what its members show to a client."""

    def serials(self, port: int) -> list[int]:
        found = []
        for address in self.addresses:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with socket.create_connection((address, port), 10) as plain, context.wrap_socket(plain) as secure:
                shown = secure.getpeercert(binary_form=True)
            found.append(x509.load_der_x509_certificate(shown or b"").serial_number)
        return found

    def answer(self, files: tuple[str, str, str]) -> str:
        """What the first member says about its health to the holder of a certificate, "" when it is refused."""
        context = ssl.create_default_context(cafile=files[0])
        context.load_cert_chain(files[1], files[2])
        client = http.client.HTTPSConnection(self.addresses[0], 2379, timeout=10, context=context)
        try:
            client.request("GET", "/health")
            with client.getresponse() as answer:
                return answer.read().decode()[:16]
        except OSError:
            return ""
        finally:
            client.close()

    def invocations(self) -> list[str]:
        return [self.on(host, INVOCATIONS) for host in HOSTS]

    def trusted(self, name: str) -> list[int]:
        return [int(self.on(host, f"grep -c BEGIN /etc/flotilla/pki/{name}.crt")) for host in HOSTS]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Certificates]:
    made = Certificates(tmp_path_factory.mktemp("lab"), os.environ.get("ETCD_CLUSTER", "etcdcert"), "dc-")
    try:
        made.up()
        made.play("site.yml")
        made.on(
            HOSTS[0],
            f"cat >/root/wait.service <<'END'\n{UNIT}END\nfleetctl start --block-attempts 60 /root/wait.service",
        )
        yield made
    finally:
        made.down()
        OUTPUT.mkdir(exist_ok=True)
        (OUTPUT / "certificates.json").write_text(json.dumps(made.measured, indent=1) + "\n")
        print(json.dumps(made.measured, indent=1))


def test_new_certificates_restart_nothing(lab: Certificates) -> None:
    units, clients, peers = lab.invocations(), lab.serials(2379), lab.serials(2380)
    with lab.written("new certificates"):
        lab.play("rotate_certs.yml")
    assert not set(lab.serials(2379)) & set(clients)
    assert not set(lab.serials(2380)) & set(peers)
    assert lab.invocations() == units
    assert not (lab.folder / "pki/.rotation").exists()
    assert unchanged(lab.play("site.yml"))


def test_a_rotation_up_to_a_time_is_done_once(lab: Certificates) -> None:
    files = lab.on(HOSTS[0], CHANGED)
    before = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    lab.play("rotate_certs.yml", rotate_certs_before=before)
    assert lab.on(HOSTS[0], CHANGED) != files
    assert unchanged(lab.play("rotate_certs.yml", rotate_certs_before=before))


def test_certificates_that_end_soon_are_told(lab: Certificates) -> None:
    lab.play("rotate_certs.yml", pki_days=10, pki_renew_days=1)
    said = words(lab.play("etcd_check.yml", fails=True))
    for host in HOSTS:
        for name in ("etcd-peer", "etcd-server", "etcd-client"):
            assert f"{host}: the certificate /etc/flotilla/pki/{name}.crt ends on" in said
    assert "the limit is 21: renew it" in said
    # role pki renews what has fewer than 30 days left
    assert not unchanged(lab.play("site.yml"))
    lab.play("etcd_check.yml")


def test_a_rotation_needs_all_hosts_and_a_healthy_cluster(lab: Certificates) -> None:
    serials = lab.serials(2379)
    said = lab.play("rotate_certs.yml", fails=True, more=("--limit", HOSTS[0]))
    assert "dc-02, dc-03 of the groups etcd and machines take no part in this play" in words(said)
    lab.on(HOSTS[2], "systemctl stop etcd")
    try:
        said = lab.play("rotate_certs.yml", fails=True, etcd_ready_timeout=5)
        assert "the etcd cluster is not healthy" in words(said)
    finally:
        lab.on(HOSTS[2], "systemctl start etcd")
    assert lab.serials(2379) == serials


def test_new_authorities_come_in_three_passes(lab: Certificates) -> None:
    old = [str(Path(path).rename(f"{path}.old")) for path in lab.files()]
    units = lab.invocations()
    with lab.written("new authorities, up to the last pass"):
        lab.play("rotate_certs.yml", rotate_certs_authorities=True, rotate_certs_keep_old=True)
    assert lab.trusted("etcd-peer-ca") == lab.trusted("etcd-client-ca") == [2, 2, 2]
    with lab.written("the old authorities dropped"):
        lab.play("rotate_certs.yml", rotate_certs_authorities=True)
    assert lab.trusted("etcd-peer-ca") == lab.trusted("etcd-client-ca") == [1, 1, 1]
    # fleet's units went on running while members restarted
    assert [shown.split()[1:] for shown in lab.invocations()] == [shown.split()[1:] for shown in units]
    assert unchanged(lab.play("site.yml"))
    # a certificate of the old authority opens no door any more
    answers = {name: lab.answer(files) for name, files in (("old", (lab.files()[0], *old[1:])), ("new", lab.files()))}
    assert answers == {"old": "", "new": '{"health":"true"'}


def test_an_authority_that_changed_restarts_members_one_at_a_time(lab: Certificates) -> None:
    """Whoever changed it: what a member was started with decides."""
    peers, clients = (lab.folder / f"pki/etcd-{name}-ca.crt" for name in ("peer", "client"))
    peers.write_text(peers.read_text() + clients.read_text())
    with lab.written("a changed authority"):
        said = lab.play("site.yml")
    assert said.count("roll_member | Restart]") == len(HOSTS)
    assert unchanged(lab.play("site.yml"))


LEFT = """
ls -d /etc/flotilla /opt/flotilla /usr/lib/flotilla /etc/fleet /run/fleet 2>/dev/null
ls -d /var/lib/etcd /etc/docker/daemon.json 2>/dev/null
ls /usr/local/bin /etc/profile.d | grep -E 'etcd|fleet'
ls /etc/systemd/system /run/systemd/system | grep -E 'etcd|fleet|wait'
systemctl list-units --plain --no-legend --state=active 'etcd*' 'fleet*' 'docker*' wait.service
systemctl is-enabled etcd docker docker.socket fleet.socket 2>/dev/null | grep -x enabled
ss -Hltn | grep -E ':(2379|2380|2381) '
getent group fleet
true
"""


def test_a_reset_has_to_be_meant(lab: Certificates) -> None:
    for wrong in ({}, {"reset_confirm": "another"}):
        said = lab.play("reset.yml", fails=True, **wrong)
        assert "set reset_confirm to flotilla if that is what you want" in words(said)
    assert lab.etcdctl("member list").count("started") == 3


def test_a_reset_leaves_nothing_and_can_be_undone(lab: Certificates) -> None:
    lab.play("reset.yml", reset_confirm="flotilla")
    for host in HOSTS:
        assert lab.on(host, LEFT) == ""
    assert unchanged(lab.play("reset.yml", reset_confirm="flotilla"))
    lab.play("site.yml")
    assert lab.etcdctl("member list").count("started") == 3
    assert lab.on(HOSTS[0], "fleetctl list-machines --no-legend").count("\n") == 3
    assert unchanged(lab.play("site.yml"))
