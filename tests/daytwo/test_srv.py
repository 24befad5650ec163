# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Members that find each other by the SRV records of a domain.

Part of make test-etcd, as root: three members of Debian's etcd, one of which also answers for the domain.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from daytwo.lab import Lab, unchanged, words

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="local hosts are made by root")

DOMAIN = "cluster.test"


class Named(Lab):
    """Three hosts that look names up at the first of them."""

    def form(self, *, fails: bool = False, domain: str = DOMAIN) -> str:
        return self.play(
            "cluster.yml",
            fails=fails,
            etcd_bootstrap="srv",
            etcd_discovery_srv=domain,
            etcd_ready_timeout=20 if fails else 60,
            pki_names=["{{ inventory_hostname }}", "{{ inventory_hostname }}." + DOMAIN],
        )

    def serve(self, *, services: bool) -> None:
        """Answer for the names of the hosts, and for the services of the domain."""
        records = [f"--host-record={host}.{DOMAIN},{address}" for host, address in self.named]
        if services:
            records += [f"--srv-host=_etcd-server-ssl._tcp.{DOMAIN},{host}.{DOMAIN},2380" for host in self.hosts]
        self.on(
            self.hosts[0],
            "systemctl stop names 2>/dev/null;"
            " systemd-run --quiet --unit=names dnsmasq --keep-in-foreground --no-resolv"
            f" --no-hosts --bind-interfaces --listen-address={self.addresses[0]} --local=/test/ {' '.join(records)}",
        )

    @property
    def named(self) -> list[tuple[str, str]]:
        return list(zip(self.hosts, self.addresses, strict=True))

    def up(self) -> None:
        super().up()
        self.on(self.hosts[0], "apt-get -qq install -y --no-install-recommends dnsmasq-base >/dev/null")
        for host in self.hosts:
            self.on(host, f"rm -f /etc/resolv.conf; echo nameserver {self.addresses[0]} >/etc/resolv.conf")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Named]:
    made = Named(tmp_path_factory.mktemp("lab"), os.environ.get("ETCD_CLUSTER", "etcdsrv"), "ds-")
    try:
        made.up()
        made.serve(services=True)
        yield made
    finally:
        made.down()


def test_a_domain_without_records_forms_no_cluster(lab: Named) -> None:
    said = words(lab.form(fails=True, domain="nothing." + DOMAIN))
    assert "etcd.service" in said
    assert "nothing." + DOMAIN in said


def test_the_records_name_the_members(lab: Named) -> None:
    lab.form()
    listed = lab.etcdctl("member list")
    assert listed.count("started") == 3
    assert all(f"https://{host}.{DOMAIN}:2380" in listed for host in lab.hosts)
    assert unchanged(lab.form())


def test_a_cluster_that_is_formed_needs_no_service_records(lab: Named) -> None:
    lab.serve(services=False)
    for host in lab.hosts[1:]:
        lab.on(host, "systemctl restart etcd")
    assert unchanged(lab.form())
