# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Texts written for local hosts and for those who reach them."""

from __future__ import annotations

import configparser
import ipaddress
from pathlib import Path
from typing import Any

import pytest
import yaml
from localhosts import plan, render
from localhosts.plan import Cluster

HERE = Path("/var/lib/flotilla/hosts/local")
CONTROL = Path("/run/flotilla-hosts/local/cp")


@pytest.fixture
def cluster() -> Cluster:
    empty = Cluster("local", "core-", ipaddress.IPv4Network("10.79.7.0/24"))
    return plan.grow(empty, 4, ("base",), [f"{number:032x}" for number in range(9)])


def read(cluster: Cluster) -> dict[str, Any]:
    loaded = yaml.safe_load(render.inventory(cluster, HERE, CONTROL))
    assert list(loaded) == ["all"]
    return dict(loaded["all"])


def test_inventory_groups_and_addresses(cluster: Cluster) -> None:
    everything = read(cluster)
    assert everything["hosts"]["core-04"] == {"ansible_host": "10.79.7.14"}
    groups = {name: list(group["hosts"]) for name, group in everything["children"].items()}
    assert groups == {
        "etcd": ["core-01", "core-02", "core-03"],
        "machines": ["core-01", "core-02", "core-03", "core-04"],
    }


def test_inventory_checks_host_keys_and_has_no_template(cluster: Cluster) -> None:
    variables = read(cluster)["vars"]
    arguments = variables["ansible_ssh_common_args"]
    assert f"-o UserKnownHostsFile={HERE}/known_hosts" in arguments
    assert "-o StrictHostKeyChecking=yes" in arguments
    assert variables["ansible_ssh_private_key_file"] == f"{HERE}/id_ed25519"
    assert "{{" not in render.inventory(cluster, HERE, CONTROL)


def test_inventory_variables_keep_their_types(cluster: Cluster) -> None:
    wanted = {"fleet_agent_ttl": "5s", "version": "1.10", "on": True, "many": [1, "a: b"], "yes_text": "yes"}
    variables = read(plan.grow(Cluster("local", "c", cluster.subnet, variables=wanted), 1, (), ["1"]))["vars"]
    assert {name: variables[name] for name in wanted} == wanted


def test_kept_connections_fit_a_socket_path(cluster: Cluster) -> None:
    longest = Path("/run/flotilla-hosts") / ("a" * 40) / "cp"
    # Ansible adds 10 characters, ssh 17 more while it makes the socket; the kernel takes 107.
    assert len(f"{longest}/0123456789.0123456789abcdef") <= 107


def test_known_hosts_names_each_host_twice_and_drops_comments(cluster: Cluster) -> None:
    keys = {host.name: f"ssh-ed25519 KEY{host.number} root@builder\n" for host in cluster.hosts}
    lines = render.known_hosts(cluster, keys).splitlines()
    assert lines[1] == "core-02,10.79.7.12 ssh-ed25519 KEY2"
    assert len(lines) == 4


def test_ssh_config_checks_host_keys_of_every_host(cluster: Cluster) -> None:
    text = render.ssh_config(cluster, HERE)
    assert text.count("Host core-") == 4
    assert text.count("StrictHostKeyChecking yes") == 4
    assert "HostName 10.79.7.13" in text


def test_network_file(cluster: Cluster) -> None:
    parser = configparser.ConfigParser()
    parser.read_string(render.network_file(cluster, cluster.hosts[2], 1400))
    assert parser["Network"]["address"] == "10.79.7.13/24"
    assert parser["Network"]["gateway"] == "10.79.7.1"
    assert parser["Link"]["mtubytes"] == "1400"


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["nameserver 192.0.2.53\nsearch x\n"], "nameserver 192.0.2.53\n"),
        (["nameserver 127.0.0.53\n", "nameserver 192.0.2.1\nnameserver 2001:db8::1\n"], None),
        (["nameserver 127.0.0.53\nnameserver 192.0.2.9\n"], "nameserver 192.0.2.9\n"),
        (["nameserver fe80::1%eth0\n"], ""),
        (["# nameserver 192.0.2.1\nnameserver\nnameserver what\n"], ""),
        ([], ""),
    ],
)
def test_name_servers_that_hosts_can_reach(texts: list[str], wanted: str | None) -> None:
    assert render.resolv_conf(texts) == (texts[1] if wanted is None else wanted)
