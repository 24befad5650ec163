# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Values that roles pki and fleet refuse."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.flotilla.cluster.plugins.filter.fleet_problems import fleet_problems
from ansible_collections.flotilla.cluster.plugins.filter.pki_problems import pki_problems

CERTIFICATES = [
    {"name": "etcd-peer", "authority": "etcd-peer-ca"},
    {"name": "etcd-client", "authority": "etcd-client-ca"},
]
OPEN_KEY = "-----BEGIN PRIVATE KEY-----"
LOCKED_KEY = "-----BEGIN ENCRYPTED PRIVATE KEY-----"
PKI: dict[str, t.Any] = {
    "days": 365,
    "renew_days": 30,
    "ca_days": 3650,
    "host": "core-01",
    "address": "192.0.2.11",
    "keys": [],
    "encrypted": False,
    "directory": "/srv/.pki/flotilla",
}
FLEET: dict[str, t.Any] = {
    "metadata": {"zone": "b", "disk": "ssd"},
    "agent_ttl": "30s",
    "listen": "",
    "host": "core-01",
    "public_ip": "192.0.2.11",
    "addresses": ["192.0.2.11", "2001:db8::11"],
}
SERVERS = ("https://192.0.2.11:2379", "https://[2001:db8::12]:2379/")


def of_pki(**changed: t.Any) -> list[str]:
    return pki_problems(CERTIFICATES, ["etcd-peer-ca", "etcd-client-ca"], **{**PKI, **changed})


def of_fleet(servers: t.Sequence[str] = SERVERS, **changed: t.Any) -> list[str]:
    return fleet_problems(servers, **{**FLEET, **changed})


def test_defaults_have_no_problem():
    assert of_pki() == []
    assert of_fleet() == []


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"days": 0, "renew_days": 0}, "pki_days is 0: give 1 to 365"),
        ({"days": 366}, "pki_days is 366: give 1 to 365"),
        ({"renew_days": 365}, "pki_renew_days is 365: give 0 to 364, less than pki_days"),
        ({"renew_days": -1}, "pki_renew_days is -1: give 0 to 364"),
        ({"ca_days": 729}, "pki_ca_days is 729: give at least twice pki_days (730)"),
        ({"address": ""}, "the address of core-01 is not known: set pki_address"),
        ({"keys": [LOCKED_KEY]}, "keys in /srv/.pki/flotilla are encrypted: give their passphrase"),
        ({"keys": [OPEN_KEY], "encrypted": True}, "pki_ca_passphrase is set, but keys in /srv/.pki/flotilla are not"),
    ],
)
def test_a_value_that_role_pki_refuses(changed, sentence):
    problems = of_pki(**changed)
    assert [problem for problem in problems if problem.startswith(sentence)], problems
    assert len(problems) == 1 or changed.get("days") == 0


@pytest.mark.parametrize(
    "changed", [{"keys": [LOCKED_KEY], "encrypted": True}, {"keys": [OPEN_KEY]}, {"renew_days": 0}]
)
def test_a_value_at_the_edge_is_fine(changed):
    assert of_pki(**changed) == []


def test_numbers_may_come_as_text():
    assert of_pki(days="365", renew_days="30", ca_days="3650") == []


def test_some_keys_are_encrypted_and_some_are_not():
    assert [problem[:17] for problem in of_pki(keys=[OPEN_KEY, LOCKED_KEY])] == ["keys in /srv/.pki"]


def test_an_authority_that_nobody_has_is_named_once():
    certificates = [*CERTIFICATES, {"authority": "mine"}, {"authority": "mine"}]
    assert pki_problems(certificates, ["etcd-peer-ca", "etcd-client-ca"], **PKI) == [
        "a certificate names the authority mine, which is none of pki_authorities (etcd-peer-ca, etcd-client-ca)"
    ]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"servers": []}, "fleet_etcd_servers is empty: "),
        ({"servers": ["https://:2379"]}, "the address of an etcd member is not known: "),
        ({"servers": ["192.0.2.11:2379"]}, 'fleet_etcd_servers holds "192.0.2.11:2379": '),
        ({"servers": ["https://192.0.2.11:2379/v2"]}, 'fleet_etcd_servers holds "https://192.0.2.11:2379/v2": '),
        ({"metadata": {"a b": "c"}}, 'fleet_metadata holds "a b": '),
        ({"metadata": {"a": "b,c"}}, 'fleet_metadata holds "b,c": '),
        ({"metadata": {"a": ""}}, 'fleet_metadata holds "": '),
        ({"agent_ttl": "soon"}, 'fleet_agent_ttl is "soon": '),
        ({"agent_ttl": "30"}, 'fleet_agent_ttl is "30": '),
        ({"listen": "49153"}, 'fleet_listen is "49153": '),
        (
            {"public_ip": "192.0.2.99"},
            "fleet_public_ip of core-01 is 192.0.2.99, which is none of the host's addresses (192.0.2.11, ",
        ),
    ],
)
def test_a_value_that_role_fleet_refuses(changed, sentence):
    (problem,) = of_fleet(**changed)
    assert problem.startswith(sentence)


@pytest.mark.parametrize(
    "changed",
    [
        {"agent_ttl": "1m30.5s"},
        {"listen": "[2001:db8::11]:49153"},
        {"public_ip": ""},
        {"public_ip": "192.0.2.99", "addresses": []},
        {"metadata": {}},
        {"metadata": {"cores": 4}},
    ],
)
def test_what_role_fleet_takes(changed):
    assert of_fleet(**changed) == []
