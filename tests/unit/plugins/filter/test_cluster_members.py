# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.flotilla.cluster.plugins.filter.cluster_members import cluster_members
from ansible_collections.flotilla.cluster.plugins.filter.members_listening import members_listening


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


def test_members_listening():
    def seen(**changes):
        entry = {"unit": "etcd.service", "port": 2380, "proto": "tcp", "address": "192.0.2.1", "pid": 7}
        return {"__flotilla_host": {"listening": [{**entry, **changes}]}}

    hostvars = {
        "right": seen(),
        "port": seen(port=2379),
        "unit": seen(unit="other.service"),
        "protocol": seen(proto="udp"),
        "address": seen(address="127.0.0.1"),
        "unseen": {},
    }
    members = [{"host": host, "address": "192.0.2.1"} for host in hostvars]
    assert members_listening(members, hostvars, "etcd.service", "2380") == ["right"]
