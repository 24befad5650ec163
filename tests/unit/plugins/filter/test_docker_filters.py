# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What role docker refuses, which keys it trusts, which packages it wants, and where it writes credentials."""

from __future__ import annotations

import base64
import json
import sys
import typing as t

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.flotilla.cluster.plugins.filter import docker_problems as problems
from ansible_collections.flotilla.cluster.plugins.filter.docker_registry_files import docker_registry_files
from ansible_collections.flotilla.cluster.plugins.filter.openpgp_fingerprints import openpgp_fingerprints
from ansible_collections.flotilla.cluster.plugins.filter.packages_due import packages_due

NETWORKS = {
    "core-01": [
        {"interface": "eth0", "network": "192.0.2.0/24"},
        {"interface": "docker0", "network": "10.200.0.0/24"},
        {"interface": "br-0123456789ab", "network": "10.201.0.0/24"},
    ],
    "core-02": [{"interface": "eth0", "network": "192.0.2.0/24"}, {"interface": "tun0", "network": "2001:db8::/32"}],
}


def said(*, pools: t.Sequence[t.Mapping[str, t.Any]] = (), **more: t.Any) -> list[str]:
    """Sentences about pools and other keys of daemon.json, with hosts of two networks."""
    daemon = {**({"default-address-pools": list(pools)} if pools else {}), **more}
    return problems.docker_problems(daemon, NETWORKS)


def test_defaults_have_no_problem():
    assert problems.docker_problems({"live-restore": True}, NETWORKS) == []


def test_networks_that_no_host_uses_are_fine():
    pools = [{"base": "10.200.0.0/16", "size": 24}, {"base": "2001:db9::/32", "size": "64"}]
    assert said(pools=pools, bip="10.202.0.1/24") == []


@pytest.mark.parametrize(
    ("base", "hosts"),
    [
        ("192.0.0.0/16", "192.0.2.0/24 (eth0 of core-01, eth0 of core-02)"),
        ("192.0.2.128/25", "192.0.2.0/24 (eth0 of core-01, eth0 of core-02)"),
        ("2001:db8:7::/48", "2001:db8::/32 (tun0 of core-02)"),
    ],
)
def test_a_pool_that_overlaps_a_network_of_a_host(base, hosts):
    (sentence,) = said(pools=[{"base": base, "size": 28 if "." in base else 64}])
    assert sentence.startswith(f"docker_address_pools has {base}, which overlaps {hosts}: ")


def test_the_bridge_is_no_network_of_a_host_and_of_no_pool():
    (sentence,) = said(bip="192.0.2.1/24")
    assert "docker_bridge_address is 192.0.2.1/24, which overlaps 192.0.2.0/24" in sentence
    (sentence,) = said(pools=[{"base": "10.9.0.0/16", "size": 24}], bip="10.9.3.1/24")
    assert "overlaps 10.9.0.0/16, of which containers get addresses as well" in sentence


@pytest.mark.parametrize(
    ("pool", "wrong"),
    [
        ({"base": "10.1.0.1/16", "size": 24}, "has the base '10.1.0.1/16', which is no network"),
        ({"base": "10.1.0.0", "size": 24}, "has the base '10.1.0.0', which is no network"),
        ({"base": "nonsense/8", "size": 24}, "has the base 'nonsense/8', which is no network"),
        ({"size": 24}, "has the base None, which is no network"),
        ("10.1.0.0/16", "has the base None, which is no network"),
        ({"base": "10.1.0.0/16", "size": 8}, "into networks of /8: give a size from 16 to 31"),
        ({"base": "10.1.0.0/16", "size": 32}, "into networks of /32: give a size from 16 to 31"),
        ({"base": "10.1.0.0/16"}, "into networks of /None: give a size from 16 to 31"),
    ],
)
def test_pools_of_a_wrong_form(pool, wrong):
    (sentence,) = said(pools=[pool])
    assert wrong in sentence


@pytest.mark.parametrize("bip", ["10.1.0.0/24", "10.1.0.1", "x", "10.1.0.1/31"])
def test_a_bridge_address_of_a_wrong_form(bip):
    assert said(bip=bip) == [
        f"docker_bridge_address is {bip!r}: give the bridge's own address and its network, such as 10.201.0.1/24"
    ]


def test_netaddr_is_asked_for_where_it_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "netaddr", None)
    assert problems.docker_problems({"live-restore": True}, NETWORKS) == []
    (sentence,) = problems.docker_problems({"bip": "10.1.0.1/24"}, NETWORKS)
    assert "netaddr is not on the controller: install it" in sentence


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "which is not there or is empty"),
        ("{", "which holds no JSON"),
        ("[1]", "which holds a list and no object"),
        ("{}", ""),
    ],
)
def test_the_users_own_file(text, wrong):
    found = problems.docker_problems({}, path="daemon.json", text=text)
    assert len(found) == (1 if wrong else 0)
    assert all(wrong in sentence and "'daemon.json'" in sentence for sentence in found)


SECRET = "hunter2hunter2"
CA = "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----"


@pytest.mark.parametrize(
    ("registry", "wrong"),
    [
        ({"name": "https://registry.example"}, "give it as images begin with it"),
        ({"name": "registry.example/path"}, "give it as images begin with it"),
        ({"name": ""}, "give it as images begin with it"),
        ({"name": "registry.example", "username": "me"}, "registry.example has no password"),
        ({"name": "registry.example", "password": SECRET}, "registry.example has no username"),
        ({"name": "registry.example", "username": "m:e", "password": SECRET}, "holds a colon"),
        ({"name": "registry.example", "ca": "/etc/ssl/ca.crt"}, "is no certificate in PEM form"),
    ],
)
def test_registries_of_a_wrong_form(registry, wrong):
    (sentence,) = problems.docker_problems({}, registries=[registry])
    assert wrong in sentence
    assert SECRET not in sentence


def test_registries_as_they_should_be():
    names = ("registry.example", "registry.example:5000", "192.0.2.1:5000", "[2001:db8::1]:5000", "docker.io")
    assert problems.docker_problems({}, registries=[{"name": name, "ca": CA} for name in names]) == []
    (sentence,) = problems.docker_problems({}, registries=[{"name": "a.example"}] * 2)
    assert "'a.example' more than once" in sentence


@pytest.mark.parametrize(
    ("mirror", "wrong"),
    [
        ("http://mirror.example", "anybody on the way could replace"),
        ("mirror.example", "give a URL such as"),
        ("ftp://mirror.example", "give a URL such as"),
        ("https://mirror.example", ""),
        ("http://inside.example:5000/", ""),
    ],
)
def test_mirrors(mirror, wrong):
    daemon = {"registry-mirrors": [mirror], "insecure-registries": ["inside.example:5000"]}
    found = problems.docker_problems(daemon)
    assert len(found) == (1 if wrong else 0)
    assert all(wrong in sentence for sentence in found)


@pytest.mark.parametrize(
    ("listen", "wrong"),
    [
        ("0.0.0.0:2376", "whose address is none of the host's"),
        ("[::]:2376", "whose address is none of the host's"),
        (":2376", "give an address and a port"),
        ("2376", "give an address and a port"),
        ("192.0.2.11:0", "give an address and a port"),
        ("192.0.2.11:70000", "give an address and a port"),
        ("192.0.2.11:2376", ""),
        ("[2001:db8::11]:2376", ""),
        ("", ""),
    ],
)
def test_where_docker_may_listen(listen, wrong):
    found = problems.docker_problems({}, listen=listen, addresses=["192.0.2.11", "2001:db8::11"])
    assert len(found) == (1 if wrong else 0)
    assert all(wrong in sentence for sentence in found)


def test_tcp_without_certificates_is_refused():
    (sentence,) = problems.docker_problems({"hosts": ["tcp://0.0.0.0:2375"]})
    assert 'has the key "hosts"' in sentence
    (sentence,) = problems.docker_problems({"tlsverify": False}, listen="192.0.2.11:2376")
    assert "has tlsverify, which docker_listen sets by itself" in sentence


def test_what_is_no_configuration():
    with pytest.raises(AnsibleFilterError, match="as a dictionary"):
        problems.docker_problems(["live-restore"])


# --- registries -----------------------------------------------------------------------------------------------


def test_credentials_are_for_root_alone():
    registries = [
        {"name": "registry.example:5000", "username": "me", "password": SECRET, "ca": CA},
        {"name": "docker.io", "username": "me", "password": "x:y"},
        {"name": "open.example"},
    ]
    config, authority = docker_registry_files(registries, {"auths": {"other": {"auth": "YQ=="}}, "detachKeys": "x"})
    assert (config["path"], config["mode"], config["sensitive"], config["restart"]) == (
        "/root/.docker/config.json",
        "0600",
        True,
        False,
    )
    content = json.loads(config["content"])
    assert {name: base64.b64decode(entry["auth"]).decode() for name, entry in content.pop("auths").items()} == {
        "registry.example:5000": f"me:{SECRET}",
        "https://index.docker.io/v1/": "me:x:y",
        "other": "a",
    }
    assert content == {"detachKeys": "x"}
    assert authority == {
        "path": "/etc/docker/certs.d/registry.example:5000/ca.crt",
        "content": CA + "\n",
        "restart": False,
    }


def test_a_registry_without_credentials_needs_no_file_for_them():
    assert docker_registry_files([{"name": "open.example"}]) == []
    (file,) = docker_registry_files([], {"detachKeys": "x"}, home="/home/me")
    assert file["path"] == "/home/me/.docker/config.json"


# --- packages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "installed", "due"),
    [
        ("", None, True),
        ("", "5:28.5.1-1~debian.12~bookworm", False),
        ("28.5.1", "5:28.5.1-1~debian.12~bookworm", False),
        ("28.5.1", "28.5.1", False),
        ("28.5.1", "28.5.1+dfsg1-1", False),
        ("28.5.1", "5:28.5.10-1", True),
        ("28.5", "5:28.5.1-1", True),
        ("28.5.1", "5:128.5.1-1", True),
        ("5:28.5.1-1~debian.12~bookworm", "5:28.5.1-1~debian.12~bookworm", False),
        ("5:28.5.1-1~debian.12~bookworm", "5:28.5.1-2~debian.12~bookworm", True),
        ("2815.1", "5:28.5.1-1", True),
    ],
)
def test_packages_with_another_version(wanted, installed, due):
    found = packages_due(
        {"docker-ce": wanted, "bash": ""}, {"bash": "5", **({"docker-ce": installed} if installed else {})}
    )
    assert found == (["docker-ce"] if due else [])


# --- keys -----------------------------------------------------------------------------------------------------

# made with gpg for this test: an ed25519 key that signs, with a subkey
FINGERPRINT = "F9B8CA4F2AB7E25E7985E0CCE76C4C2177FBE39D"
KEY = """-----BEGIN PGP PUBLIC KEY BLOCK-----

mDMEawPboRYJKwYBBAHaRw8BAQdAU+OnGCfhCDjL5TaEJEmNO6fKd+cGsmeRjNzC
kYt7LR60G1Rlc3QgS2V5IDx0ZXN0QGV4YW1wbGUuY29tPoiQBBMWCAA4FiEE+bjK
Tyq34l55heDM52xMIXf7450FAmsD26ECGwMFCwkIBwIGFQoJCAsCBBYCAwECHgEC
F4AACgkQ52xMIXf7453w4wD/RqAEvAmhB4u2LJzCqvnxbAa7x0ZTqQky2EVcx3/S
zEcA/A7ZiSPo6aecVxNus6ostREoslOFaNOvSmunbAjLCasHuDgEawPboRIKKwYB
BAGXVQEFAQEHQM9ux0Dh/DkKJmTiBWHVJJjyUVFx6nbEltaLcRrsZpQaAwEIB4h4
BBgWCAAgFiEE+bjKTyq34l55heDM52xMIXf7450FAmsD26ECGwwACgkQ52xMIXf7
451fmAEAw307ENxSCGqZSr3mRB+j/48EFEAN198wzqHFBE8A1oEBAMhMtaq3DZFO
XW5rFczAYvxmBFsgLOfO/TviTR80wjUB
=aXDx
-----END PGP PUBLIC KEY BLOCK-----
"""


def armored(*packets: bytes) -> str:
    """A block that holds these packets."""
    body = base64.b64encode(b"".join(packets)).decode()
    return f"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n{body}\n-----END PGP PUBLIC KEY BLOCK-----\n"


def test_the_fingerprint_is_that_of_gpg():
    assert openpgp_fingerprints(KEY) == [FINGERPRINT]
    assert openpgp_fingerprints("a comment\n" + KEY.replace("\n", "\r\n")) == [FINGERPRINT]
    with_header = KEY.replace("BLOCK-----\n\n", "BLOCK-----\nVersion: 1\n\n", 1)
    assert openpgp_fingerprints(with_header) == [FINGERPRINT]


def test_a_second_key_is_seen_wherever_it_is():
    body = bytes([4]) + b"\0" * 10
    old, new = b"\x98" + bytes([len(body)]) + body, b"\xc6" + bytes([len(body)]) + body
    assert len(openpgp_fingerprints(KEY + KEY)) == 2
    assert len(openpgp_fingerprints(armored(old, new))) == 2
    long = bytes([4]) + b"\0" * 300
    two = b"\xc6" + bytes([192 + ((len(long) - 192) >> 8), (len(long) - 192) & 255]) + long
    five = b"\xc6\xff" + len(long).to_bytes(4, "big") + long
    assert len(set(openpgp_fingerprints(armored(two, five, b"\x99" + len(long).to_bytes(2, "big") + long)))) == 1
    assert len(openpgp_fingerprints(armored(two, five))) == 2
    assert len(openpgp_fingerprints(armored(b"\xc6" + bytes([len(body)]) + b"\x06" + body[1:]))[0]) == 64


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no key",
        KEY[:200],
        KEY.replace("mDME", "!!!!"),
        armored(b"\x98"),
        armored(b"\x98\xff\4"),
        armored(b"\x9b\4"),
        armored(b"\1\4"),
        armored(b"\xc6\xe1\4"),
        armored(b"\x98\1\3"),
        armored(b"\x98\0"),
    ],
)
def test_what_cannot_be_read_is_no_key(text):
    assert openpgp_fingerprints(text) == []
