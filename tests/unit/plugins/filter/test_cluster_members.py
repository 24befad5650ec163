# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.flotilla.cluster.plugins.filter.cluster_members import cluster_members
from ansible_collections.flotilla.cluster.plugins.filter.hosts_listening import hosts_listening


@pytest.mark.parametrize(
    ("host", "variables", "address"),
    [
        ("a", {"etcd_address": "192.0.2.1", "ansible_host": "192.0.2.2"}, "192.0.2.1"),
        ("a", {"ansible_host": "192.0.2.2", "__flotilla_host": {"default_address": "192.0.2.3"}}, "192.0.2.2"),
        ("a", {"ansible_host": "a.example", "__flotilla_host": {"default_address": "192.0.2.3"}}, "192.0.2.3"),
        ("192.0.2.4", {}, "192.0.2.4"),
        ("a", {"ansible_host": "a.example", "__flotilla_host": {"default_address": ""}}, ""),
        ("a", {"etcd_address": "", "ansible_host": "2001:db8::1"}, "2001:db8::1"),
        ("a", {}, ""),
    ],
)
def test_address(host, variables, address):
    assert cluster_members({host: variables}, [host], "etcd_address")[0]["address"] == address


def test_name_and_url():
    hostvars = {"a": {"ansible_host": "2001:db8::1", "etcd_name": "m1"}, "b": {"ansible_host": "192.0.2.1"}}
    assert cluster_members(hostvars, ["a", "b"], "etcd_address", "etcd_name") == [
        {"host": "a", "name": "m1", "address": "2001:db8::1", "url_host": "[2001:db8::1]"},
        {"host": "b", "name": "b", "address": "192.0.2.1", "url_host": "192.0.2.1"},
    ]


def test_hosts_listening():
    def seen(unit, port, proto="tcp"):
        return {"__flotilla_host": {"listening": [{"unit": unit, "port": port, "proto": proto}]}}

    hostvars = {
        "right": seen("etcd.service", 2380),
        "port": seen("etcd.service", 2379),
        "unit": seen("other.service", 2380),
        "protocol": seen("etcd.service", 2380, "udp"),
        "unseen": {},
    }
    assert hosts_listening(hostvars, list(hostvars), "etcd.service", "2380") == ["right"]
