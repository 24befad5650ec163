# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.flotilla.cluster.plugins.filter.etcd_problems import etcd_problems

SETTINGS = {
    "group": "etcd",
    "allow_even": False,
    "client_port": 2379,
    "peer_port": 2380,
    "metrics_port": 2381,
    "source": "distribution",
    "release_version": "",
    "release_url": "",
    "release_sha256": "",
    "heartbeat_interval": 100,
    "election_timeout": 1000,
    "bcrypt_cost": 4,
    "forks": 5,
}
RELEASE = {
    "source": "release",
    "release_version": "3.6.14",
    "release_url": "https://mirror.example/etcd.tar.gz",
    "release_sha256": "0" * 64,
}


def member(number, **changes):
    return {"host": f"core-0{number}", "name": f"core-0{number}", "address": f"192.0.2.1{number}", **changes}


THREE = [member(1), member(2), member(3)]


def problems(members=None, addresses=("192.0.2.11",), **settings):
    return etcd_problems(THREE if members is None else members, "core-01", {**SETTINGS, **settings}, addresses)


def test_the_defaults_are_right():
    assert problems() == []
    assert problems(**RELEASE) == []
    assert problems(**{**RELEASE, "release_url": "/srv/etcd.tar.gz"}) == []


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([], "the group etcd has no host"),
        ([member(1), member(2)], "the group etcd has 2 members, which tolerates no failure like 1: use 1 or 3"),
        ([member(1), member(2), member(3), member(4)], "tolerates 1 failure like 3: use 3 or 5"),
        ([member(1), member(2, address=""), member(3)], "the address of core-02 is not known"),
        ([member(1), member(2, address="core-02.example"), member(3)], "etcd_address of core-02 is 'core-02.example'"),
        ([member(1), member(2, address="127.0.0.1"), member(3)], "etcd_address of core-02 is '127.0.0.1'"),
        ([member(1), member(2), member(3, address="192.0.2.12")], "core-02 and core-03 have the same etcd_address"),
        ([member(1), member(2), member(3, name="core-02")], "core-02 and core-03 have the same etcd_name"),
        ([member(1), member(2), member(3, name="core 3")], "etcd_name of core-03 is 'core 3'"),
        ([member(2), member(3), member(4)], "core-01 is not in the group etcd"),
    ],
)
def test_members(members, words):
    found = problems(members)
    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"client_port": 0}, "etcd_client_port is 0: give 1 to 65535"),
        ({"client_port": "70000"}, "etcd_client_port is 70000"),
        ({"peer_port": 2379}, "two of the ports are the same"),
        ({**RELEASE, "enable_v2": True}, "etcd has the v2 API, which upstream's fleet needs, up to 3.5 only"),
        ({**RELEASE, "release_version": "new"}, "etcd_release_version is 'new'"),
        ({**RELEASE, "release_url": "http://mirror.example/etcd.tar.gz"}, "etcd_release_url is 'http://"),
        ({**RELEASE, "release_sha256": "abc"}, "etcd_release_sha256 is 'abc'"),
        ({"forks": 1}, "forks is 1: 2 of 3 members must start at the same time"),
        ({"bcrypt_cost": 3}, "etcd_bcrypt_cost is 3: give 4 to 31"),
        ({"election_timeout": 400}, "etcd_election_timeout is 400: give at least five times"),
    ],
)
def test_settings(settings, words):
    found = problems(**settings)
    assert len(found) == 1
    assert words in found[0]


def test_an_even_number_can_be_allowed():
    assert problems([member(1), member(2)], allow_even=True) == []


def test_an_address_that_is_not_the_hosts():
    assert "etcd_address of core-01 is 192.0.2.11, which is none of the host's addresses (192.0.2.99)" in problems(
        addresses=["192.0.2.99"]
    )


def test_all_problems_come_at_once():
    assert len(problems([member(1), member(2, address="x")], forks=1, client_port=0)) == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bootstrap": "srv"}, "etcd_discovery_srv is '': etcd_bootstrap is 'srv', so give the domain"),
        ({}, "etcd_discovery_url is empty"),
        ({"discovery_protocol": "v3"}, "etcd_discovery_endpoints is empty"),
        (
            {"discovery_protocol": "v3", "discovery_endpoints": ["http://192.0.2.9:2379"]},
            "etcd_discovery_endpoints has 'http://192.0.2.9:2379': give https:// URLs",
        ),
        (
            {"discovery_url": "http://d.example", "version": "3.7.1"},
            "etcd_discovery_protocol is v2, which etcd knows up to 3.6, not 3.7.1: set it to v3",
        ),
        (
            {"discovery_protocol": "v3", "discovery_endpoints": ["https://192.0.2.9:2379"], "version": "3.4.23-4+b4"},
            "etcd_discovery_protocol is v3, which etcd knows from 3.6 on, not 3.4.23-4+b4: set it to v2",
        ),
    ],
)
def test_a_way_to_find_each_other_that_cannot_work(changes, words):
    settings = {
        "bootstrap": "discovery",
        "discovery_protocol": "v2",
        "discovery_url": "",
        "discovery_endpoints": [],
        "discovery_token": False,
        "discovery_srv": "",
        **changes,
    }
    (found,) = problems(**settings)
    assert words in found


def test_ways_to_find_each_other_that_work():
    more = {"discovery_url": "", "discovery_endpoints": [], "discovery_token": False, "discovery_srv": "example.org"}
    assert problems(bootstrap="srv", discovery_protocol="v2", **more) == []
    more["discovery_endpoints"] = ["https://192.0.2.9:2379", "https://[2001:db8::1]:2379"]
    assert problems(bootstrap="discovery", discovery_protocol="v3", version="3.7.1", **more) == []
    assert problems(bootstrap="discovery", discovery_protocol="v2", **{**more, "discovery_token": True}) == []
