# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a server has for machines that boot from the network, and what it refuses."""

from __future__ import annotations

import base64
import hashlib
import io
import random
import time

import pytest

pytest.importorskip("yaml")

from ansible_collections.flotilla.cluster.plugins.filter.netboot_plan import netboot_plan
from ansible_collections.flotilla.cluster.plugins.module_utils import _netboot as netboot
from hypothesis import given
from hypothesis import strategies as st

SHA = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("kernel", "initrd", "image")}
SERVER = {
    "url": "http://192.0.2.2:8090",
    "directory": "/srv/netboot",
    "secret": "s3cret",
    "subnet": "192.0.2.0/24",
    "address": "192.0.2.2",
    "range": [],
    "proxy": False,
    "kernel": "/images/vmlinuz",
    "kernel_sha256": SHA["kernel"],
    "initrd": "/images/initrd.img",
    "initrd_sha256": SHA["initrd"],
    "image": "https://images.example.org/disk.img.xz?v=1",
    "image_sha256": SHA["image"].upper(),
    "arguments": ["console=ttyS0"],
    "label": "root",
    "seed": "/var/lib/cloud/seed/nocloud",
    "present": [],
}
MAC = "52:54:00:00:00:01"
STATIC = [{"name": "lan0", "mac": MAC, "addresses": ["$private_ipv4/24"], "gateway": "192.0.2.1"}]
LAYERS = [
    {"name": "eth0", "mac": MAC, "bond": "bond0"},
    {"mac": "52:54:00:00:00:02", "bond": "bond0"},
    {"name": "bond0", "bond_mode": "802.3ad", "addresses": ["192.0.2.11/24"], "gateway": "192.0.2.1", "mtu": 9000},
    {"name": "storage", "vlan_id": 20, "vlan_link": "bond0", "addresses": ["10.0.0.11/24"],
     "routes": [{"to": "10.1.0.0/16", "via": "10.0.0.1"}]},
]  # fmt: skip


def machine(**more):
    return {"ansible_host": "192.0.2.11", "netboot_mac": MAC, "netboot_disk": "/dev/sda", **more}


def described(networks, **more):
    return machine(cloud_config_description={"networks": networks}, **more)


def planned(machines, documents=None, installer="#!/bin/sh\n", **server):
    if documents is None:
        documents = {f"{name}/user-data": "#cloud-config\n" for name in machines}
    return netboot_plan(machines, list(machines), documents, {**SERVER, **server}, installer)


def contents(found):
    """Files below http/ by their paths."""
    return {one["path"].replace("/srv/netboot/http/", ""): one.get("content") for one in found["files"]}


def key_of(found):
    return next(path.split("/")[1] for path in contents(found) if path.startswith("keys/"))


def test_a_machine_has_a_script_by_its_mac_that_leads_to_a_folder_nobody_can_guess():
    found = planned({"core-01": machine(netboot_mac="52-54-00-00-00-0A")})
    assert not found["problems"]
    files, key = contents(found), key_of(found)
    assert (
        f"/keys/{key}/boot.ipxe || chain --replace http://192.0.2.2:8090/local.ipxe\n"
        in files["machines/52-54-00-00-00-0a.ipxe"]
    )
    assert len(key) == 32
    assert key_of(planned({"core-01": machine(netboot_mac="52:54:00:00:00:0a")})) == key
    assert key_of(planned({"core-01": machine(netboot_mac="52:54:00:00:00:0a")}, secret="other")) != key
    assert key_of(planned({"core-01": machine(netboot_mac="52:54:00:00:00:0a", netboot_generation=2)})) != key


def test_documents_are_for_the_server_alone_and_never_shown():
    found = planned({"core-01": machine()})
    for one in found["files"]:
        assert (one["group"], one["mode"], one["restart"]) == ("flotilla-netboot", "0640", False)
        assert one.get("sensitive", False) == ("/keys/" in one["path"])
    assert {one["mode"] for one in found["directories"]} == {"0750"}
    paths = {one["path"] for one in found["directories"]}
    assert {one["path"].rpartition("/")[0] for one in found["files"]} <= paths


def test_orders_name_all_that_the_installer_needs():
    documents = {"core-01/user-data": "#cloud-config\n", "core-01/meta-data": "a: b\n", "core-01/network-config": ""}
    found = planned({"core-01": machine()}, documents)
    orders = contents(found)[f"keys/{key_of(found)}/orders"].splitlines()
    digest = hashlib.sha256(b"#cloud-config\n").hexdigest()
    assert orders[:7] == [
        "disk /dev/sda",
        "wipe no",
        f"image http://192.0.2.2:8090/assets/{SHA['image']}/disk.img.xz",
        f"sha256 {SHA['image']}",
        "unpack xz",
        "label root",
        "seed /var/lib/cloud/seed/nocloud",
    ]
    assert f"document user-data {digest}" in orders
    assert [line.split()[1] for line in orders[7:]] == ["user-data", "meta-data"]


def test_a_disk_is_wiped_for_its_own_host_alone():
    wiped = planned({"core-01": machine(netboot_wipe="core-01")})
    assert "wipe yes" in contents(wiped)[f"keys/{key_of(wiped)}/orders"]
    found = planned({"core-01": machine(netboot_wipe=True)})["problems"]
    assert found == [
        "netboot_wipe of core-01 is 'True': to have all data on /dev/sda destroyed give the host's own name, core-01,"
        " else leave it out"
    ]


def test_the_network_is_the_same_while_installing_and_comes_from_one_place():
    found = planned({"core-01": described(STATIC)})
    script = contents(found)[f"keys/{key_of(found)}/boot.ipxe"]
    steps = [word[13:] for word in script.split() if word.startswith("flotilla.net=")]
    assert steps == [f"name,{MAC},lan0", "up,lan0", "address,lan0,192.0.2.11/24", "route,default,192.0.2.1"]
    assert found["leases"] == [{"mac": MAC, "address": "192.0.2.11", "name": "core-01"}]


def test_bonds_and_vlans():
    found = planned({"core-01": described(LAYERS)})
    script = contents(found)[f"keys/{key_of(found)}/boot.ipxe"]
    assert [word[13:] for word in script.split() if word.startswith("flotilla.net=")] == [
        f"name,{MAC},eth0",
        "bond,bond0,802.3ad,eth0+52:54:00:00:00:02",
        "vlan,storage,bond0,20",
        "mtu,bond0,9000",
        "up,bond0",
        "address,bond0,192.0.2.11/24",
        "up,storage",
        "address,storage,10.0.0.11/24",
        "route,default,192.0.2.1",
        "route,10.1.0.0/16,10.0.0.1",
    ]
    assert found["leases"][0]["address"] == "192.0.2.11"


def test_without_a_description_the_machine_uses_dhcp_and_keeps_its_address():
    found = planned({"core-01": machine()})
    assert f"flotilla.net=dhcp,{MAC} " in contents(found)[f"keys/{key_of(found)}/boot.ipxe"]
    assert found["leases"][0]["address"] == "192.0.2.11"
    by_range = planned({"core-01": machine(ansible_host="core-01.example.org")}, range=["192.0.2.100", "192.0.2.200"])
    assert by_range["problems"] == []
    assert by_range["leases"][0]["address"] == ""


def test_the_mac_may_come_from_the_description():
    found = planned({"core-01": {**described(STATIC), "netboot_mac": None}})
    assert found["leases"][0]["mac"] == MAC


def test_an_installed_machine_has_its_script_and_no_documents():
    machines = {"core-01": machine()}
    first = planned(machines)
    key = key_of(first)
    present = [one["path"] for one in first["files"]] + [one["path"] for one in first["directories"]]
    present += [f"/srv/netboot/state/{what}/{key}" for what in ("installed", "failed")]
    present += [f"/srv/netboot/http/assets/{SHA[name]}/{file}" for name, file in
                (("kernel", "vmlinuz"), ("initrd", "initrd.img"), ("image", "disk.img.xz"))]  # fmt: skip
    found = planned(machines, present=present)
    assert found["state"] == {"waiting": [], "failed": [], "installed": ["core-01"]}
    assert [path for path in contents(found) if path.startswith(("keys/", "machines/"))] == [
        "machines/52-54-00-00-00-01.ipxe"
    ]
    assert found["absent"] == [f"/srv/netboot/http/keys/{key}", f"/srv/netboot/state/failed/{key}"]
    assert found["assets"] == []
    # raised, the number makes it install itself again: nothing of the old one is left
    again = planned({"core-01": machine(netboot_generation="2")}, present=present)
    assert again["state"]["waiting"] == ["core-01"]
    assert f"/srv/netboot/state/installed/{key}" in again["absent"]


def test_what_nobody_needs_any_more_goes():
    present = [
        "/srv/netboot/http/keys/0123",
        "/srv/netboot/http/keys/0123/user-data",
        "/srv/netboot/http/machines/52-54-00-00-00-99.ipxe",
        "/srv/netboot/http/assets/abcd",
        "/srv/netboot/http/assets/abcd/vmlinuz",
        "/srv/netboot/state/installed",
        "/srv/netboot/state/installed/0123",
    ]
    found = planned({"core-01": machine()}, present=present)
    assert found["absent"] == [
        "/srv/netboot/http/assets/abcd",
        "/srv/netboot/http/keys/0123",
        "/srv/netboot/http/machines/52-54-00-00-00-99.ipxe",
        "/srv/netboot/state/installed/0123",
    ]


def test_a_document_that_is_dropped_goes():
    machines = {"core-01": machine()}
    key = key_of(planned(machines))
    found = planned(machines, present=[f"/srv/netboot/http/keys/{key}/{name}" for name in ("user-data", "meta-data")])
    assert found["absent"] == [f"/srv/netboot/http/keys/{key}/meta-data"]


def test_large_files_are_brought_when_they_are_not_there():
    found = planned({"core-01": machine()}, present=[f"/srv/netboot/http/assets/{SHA['kernel']}/vmlinuz"])
    assert [(one["url"], one["sha256"]) for one in found["assets"]] == [
        ("/images/initrd.img", SHA["initrd"]),
        ("https://images.example.org/disk.img.xz?v=1", SHA["image"]),
    ]
    assert found["assets"][1]["path"] == f"/srv/netboot/http/assets/{SHA['image']}/disk.img.xz"


BAD = [
    ({"netboot_mac": "52:54:00:00:00"}, {}, "netboot_mac of core-01 is '52:54:00:00:00': give six pairs"),
    ({"netboot_mac": None}, {}, "netboot_mac of core-01 is ''"),
    ({"netboot_disk": "sda"}, {}, "netboot_disk of core-01 is 'sda': give the whole disk"),
    ({"netboot_disk": "/dev/sda; reboot"}, {}, "netboot_disk of core-01"),
    ({"netboot_generation": "new"}, {}, "netboot_generation of core-01 is 'new': give a number"),
    ({"ansible_host": "198.51.100.7"}, {}, "198.51.100.7, which is not in netboot_subnet, 192.0.2.0/24"),
    ({"ansible_host": "192.0.2.2"}, {}, "which is the server's"),
    ({"ansible_host": "core-01.example.org"}, {}, "while it boots from the network is not known"),
    ({}, {"subnet": "192.0.2.1/24"}, "netboot_subnet is '192.0.2.1/24'"),
    ({}, {"subnet": ""}, "netboot_subnet is ''"),
    ({}, {"address": "198.51.100.2"}, "netboot_address is '198.51.100.2': give the server's own address"),
    ({}, {"range": ["192.0.2.9"]}, "netboot_range has 1 entries"),
    ({}, {"range": ["192.0.2.9", "192.0.3.9"]}, "netboot_range holds '192.0.3.9'"),
    ({}, {"range": ["192.0.2.9", "192.0.2.19"], "proxy": True}, "netboot_dhcp is proxy"),
    ({}, {"image_sha256": ""}, "netboot_image_sha256 is '': give the SHA-256 of https://images"),
    ({}, {"kernel": "vmlinuz"}, "netboot_kernel_url is 'vmlinuz': give an absolute path"),
    ({}, {"initrd": "https://images.example.org/"}, "netboot_initrd_url is"),
    ({}, {"arguments": ["a b"]}, "'a b' in netboot_kernel_arguments"),
    ({}, {"arguments": ["x" * 2000]}, "and the kernel takes 2047"),
    ({}, {"seed": "seed"}, "netboot_seed_directory is 'seed': give an absolute path"),
]  # fmt: skip


@pytest.mark.parametrize(("variables", "server", "said"), BAD, ids=[said[:30] for _one, _two, said in BAD])
def test_what_cannot_work_is_refused(variables, server, said):
    found = planned({"core-01": machine(**variables)}, **server)
    assert [problem for problem in found["problems"] if said in problem], found["problems"]
    assert [found[key] for key in ("files", "directories", "assets", "leases", "absent")] == [[]] * 5


def test_a_bad_description_is_refused_with_its_host():
    found = planned({"core-01": described([{"name": "lan0", "mac": MAC, "addresses": ["192.0.2.11"]}])})
    assert "cloud_config_description of core-01: networks[0].addresses" in found["problems"][0]
    long_name = planned({"core-01": described([{"name": "a-name-that-is-too-long", "mac": MAC, "dhcp": True}])})
    assert "at most 15" in long_name["problems"][0]


def test_two_machines_that_share_what_they_must_not():
    found = planned({"core-01": machine(), "core-02": machine()})["problems"]
    assert found == [
        f"core-01, core-02 have the same MAC address, {MAC}: give each its own",
        "core-01, core-02 have the same address, 192.0.2.11: give each its own",
    ]


def test_a_machine_without_documents_and_an_empty_group():
    assert (
        "run role cloud_config for it first"
        in planned({"core-01": machine()}, {"core-01/user-data": ""})["problems"][0]
    )
    assert planned({})["problems"] == [
        "the group that netboot_group names has no hosts: put the machines that are to boot into it"
    ]


def read_archive(data):
    """Entries of a cpio archive: path to mode and content."""
    stream, found = io.BytesIO(data), {}
    while True:
        head = stream.read(110)
        assert head[:6] == b"070701"
        fields = [int(head[6 + 8 * at : 14 + 8 * at], 16) for at in range(13)]
        name = stream.read(fields[11])[:-1].decode()
        stream.seek(-stream.tell() % 4, io.SEEK_CUR)
        content = stream.read(fields[6])
        stream.seek(-stream.tell() % 4, io.SEEK_CUR)
        if name == "TRAILER!!!":
            assert not stream.read().strip(b"\0")
            return found
        found[name] = (fields[1], content)


def test_the_installer_is_an_archive_that_an_initramfs_takes():
    packed = planned({"core-01": machine()}, installer="#!/bin/sh\necho hello\n")["files"][0]
    data = base64.b64decode(packed["content_b64"])
    assert packed["path"] == f"/srv/netboot/http/assets/{hashlib.sha256(data).hexdigest()}/installer.cpio"
    assert len(data) % 512 == 0
    assert read_archive(data) == {
        "scripts": (0o040755, b""),
        "scripts/flotilla": (0o100755, b"#!/bin/sh\necho hello\n"),
    }


@given(st.dictionaries(st.from_regex(r"[a-z]{1,9}(/[a-z]{1,9})?", fullmatch=True), st.binary(max_size=99), max_size=4))
def test_archives_hold_what_was_put_in(files):
    found = read_archive(netboot.archive(files))
    assert {name: found[name][1] for name in files if found[name][0] != 0o040755} == {
        name: content for name, content in files.items() if found[name][0] != 0o040755
    }


VARIABLES = ["netboot_mac", "netboot_disk", "netboot_wipe", "netboot_generation", "ansible_host"]
VARIABLES += ["cloud_config_description", "cloud_config_addresses"]
SIMPLE = st.none() | st.booleans() | st.integers() | st.text(max_size=12)
KEYS = st.sampled_from(["networks", "name", "mac", "addresses", "private_ipv4"])
VALUES = st.recursive(SIMPLE, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner))


@given(st.dictionaries(st.sampled_from(VARIABLES), VALUES))
def test_any_value_gives_an_answer(variables):
    found = planned({"core-01": machine(**variables)})
    assert found["problems"] or found["files"]


def test_a_thousand_machines_take_seconds():
    dice = random.Random(7)
    machines = {
        f"core-{number:04}": machine(
            ansible_host=f"10.0.{number // 250}.{number % 250 + 1}",
            netboot_mac=f"52:54:{number >> 8:02x}:{number & 255:02x}:{dice.randrange(256):02x}:00",
        )
        for number in range(1000)
    }
    begun = time.process_time()
    found = planned(machines, subnet="10.0.0.0/16", address="10.0.255.1")
    assert not found["problems"]
    assert len(found["leases"]) == 1000
    assert time.process_time() - begun < 10
