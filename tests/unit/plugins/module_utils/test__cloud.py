# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Descriptions to documents in three dialects, their limits, and old documents to new ones."""

from __future__ import annotations

import base64
import gzip
import json
import random
import string
import time

import pytest

pytest.importorskip("yaml")

import yaml
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud as cloud
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_model as models
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_render as renderers
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_schema as schema
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_targets as targets
from hypothesis import given
from hypothesis import strategies as st

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGuVkSl8 you@example.org"
ADDRESSES = {"public_ipv4": "192.0.2.11", "private_ipv4": "10.0.0.11"}
UNIT = "[Service]\nExecStart=/bin/echo $private_ipv4\n"
CONFIG = {
    "hostname": "core-01",
    "ssh_authorized_keys": [KEY],
    "users": [{"name": "elroy", "groups": ["docker"], "passwd": "$6$x$y"}],
    "write_files": [{"path": "/etc/motd", "content": "on $public_ipv4, not \\$public_ipv4\n", "permissions": "0600"}],
    "coreos": {
        "fleet": {"public_ip": "$public_ipv4", "metadata": 'role=a "b" 50% \\', "verify_units": False},
        "flannel": {"interface": "$private_ipv4"},
        "update": {"reboot_strategy": "off"},
        "units": [
            {"name": "hello.service", "command": "start", "content": UNIT},
            {"name": "docker.service", "enable": True},
            {"name": "old.service", "mask": True},
        ],
    },
}


PLAIN = object()  # ADDRESSES, which pylint wants not to be a default


def render(config, format_, addresses=PLAIN, **options):
    addresses = ADDRESSES if addresses is PLAIN else addresses
    return cloud.render(config, cloud.Request(format_, addresses, **options))


def user_data(config, format_="cloud-init", addresses=PLAIN, **options):
    return yaml.safe_load(render(config, format_, addresses, **options).documents["user-data"])


def problems(config, format_="cloud-init", **options):
    with pytest.raises(cloud.CloudConfigError) as caught:
        render(config, format_, **options)
    return str(caught.value)


def test_coreos_document():
    text = render(CONFIG, "coreos").documents["user-data"]
    assert text.splitlines()[0] == "#cloud-config"
    found = yaml.safe_load(text)
    assert found["write_files"][0] == {
        "path": "/etc/motd",
        # the agent takes the backslash away
        "content": "on 192.0.2.11, not \\$public_ipv4\n",
        "permissions": "0600",
    }
    assert found["coreos"]["units"][0]["content"] == "[Service]\nExecStart=/bin/echo 10.0.0.11\n"
    # the agent writes Environment="FLEET_METADATA=..." without a look at it
    assert found["coreos"]["fleet"]["metadata"] == 'role=a \\"b\\" 50%% \\\\'
    assert "permissions: '0600'" in text
    assert "reboot_strategy: 'off'" in text
    assert "-" not in "".join(
        key for section in found["coreos"].values() if isinstance(section, dict) for key in section
    )


def test_a_coreos_document_can_leave_variables_to_the_agent():
    text = render(CONFIG, "coreos", addresses=None).documents["user-data"]
    assert "on $public_ipv4, not \\$public_ipv4" in text


def ignition_file(document, path):
    entry = next(one for one in document["storage"]["files"] if one["path"] == path)
    source = (entry.get("contents") or entry["append"][0])["source"]
    data = base64.b64decode(source.partition(",")[2])
    return gzip.decompress(data).decode() if (entry.get("contents") or {}).get("compression") else data.decode()


def test_ignition_document():
    document = json.loads(render(CONFIG, "ignition").documents["config.ign"])
    assert document["ignition"] == {"version": "3.3.0"}
    assert document["passwd"]["users"] == [
        {"name": "core", "sshAuthorizedKeys": [KEY]},
        {"name": "elroy", "passwordHash": "$6$x$y", "groups": ["docker"]},
    ]
    assert ignition_file(document, "/etc/motd") == "on 192.0.2.11, not $public_ipv4\n"
    assert ignition_file(document, "/etc/hostname") == "core-01\n"
    assert ignition_file(document, "/etc/flatcar/update.conf") == "REBOOT_STRATEGY=off\n"
    units = {unit["name"]: unit for unit in document["systemd"]["units"]}
    assert units["hello.service"] == {
        "name": "hello.service",
        "contents": "[Service]\nExecStart=/bin/echo 10.0.0.11\n",
    }
    # it has no [Install] section, so a link does what command: start does at each boot
    assert document["storage"]["links"][0]["path"] == "/etc/systemd/system/multi-user.target.wants/hello.service"
    assert units["docker.service"] == {"name": "docker.service", "enabled": True}
    assert units["old.service"] == {"name": "old.service", "mask": True}
    assert units["fleet.service"]["dropins"] == [
        {
            "name": "20-cloudinit.conf",
            "contents": '[Service]\nEnvironment="FLEET_METADATA=role=a \\"b\\" 50%% \\\\"\n'
            'Environment="FLEET_PUBLIC_IP=192.0.2.11"\n',
        }
    ]


def test_cloud_init_documents():
    rendered = render(CONFIG, "cloud-init")
    found = yaml.safe_load(rendered.documents["user-data"])
    assert found["hostname"] == "core-01"
    assert [user["name"] for user in found["users"]] == ["core", "elroy"]
    assert found["users"][0]["lock_passwd"] is True
    assert (found["users"][1]["lock_passwd"], found["users"][1]["hashed_passwd"]) == (False, "$6$x$y")
    files = {entry["path"]: entry for entry in found["write_files"]}
    assert files["/etc/motd"]["permissions"] == "0600"
    assert files["/etc/systemd/system/hello.service"]["content"] == "[Service]\nExecStart=/bin/echo 10.0.0.11\n"
    assert ["systemctl", "--no-block", "start", "hello.service"] in found["runcmd"]
    assert ["systemctl", "enable", "docker.service"] in found["runcmd"]
    assert ["ln", "-sfn", "/dev/null", "/etc/systemd/system/old.service"] in found["runcmd"]
    assert found["runcmd"].index(["systemctl", "daemon-reload"]) < found["runcmd"].index(
        ["systemctl", "--no-block", "start", "hello.service"]
    )
    meta = yaml.safe_load(rendered.documents["meta-data"])
    assert meta["local-hostname"] == "core-01"
    assert yaml.safe_load(rendered.documents["network-config"]) == {"version": 2, "config": "disabled"}


def test_the_instance_id_is_that_of_the_content():
    def instance(config):
        return yaml.safe_load(render(config, "cloud-init").documents["meta-data"])["instance-id"]

    assert instance(CONFIG) == instance(json.loads(json.dumps(CONFIG)))
    assert instance(CONFIG) != instance({**CONFIG, "hostname": "core-02"})


def test_a_file_of_somebody_else_is_written_once_that_user_is_there():
    entry = user_data({"write_files": [{"path": "/x", "content": "a", "owner": "etcd:etcd"}]}, addresses={})[
        "write_files"
    ][0]
    assert (entry["owner"], entry["defer"]) == ("etcd:etcd", True)


def test_bytes_and_large_texts_are_packed():
    content = base64.b64encode(bytes(range(256))).decode()
    config = {
        "write_files": [{"path": "/a", "content": content, "encoding": "b64"}, {"path": "/b", "content": "x" * 9000}]
    }
    for entry, expected in zip(user_data(config, addresses={})["write_files"], (bytes(range(256)), b"x" * 9000)):
        assert entry["encoding"] == "gz+b64"
        assert gzip.decompress(base64.b64decode(entry["content"])) == expected
    assert ignition_file(json.loads(render(config, "ignition").documents["config.ign"]), "/b") == "x" * 9000


EVERYTHING = {
    "links": [{"path": "/opt/current", "target": "1.0"}],
    "directories": [{"path": "/var/lib/x", "permissions": "0700", "owner": "etcd"}, {"path": "/srv/y"}],
    "packages": ["etcd-server"],
    "filesystems": [
        {"device": "/dev/vdb", "path": "/var/lib/docker", "format": "ext4", "label": "docker", "wipe": True},
        {"device": "/dev/vdc", "path": "none", "format": "swap"},
    ],
    "networks": [
        {"name": "eth0", "mac": "52:54:00:AA:BB:01", "bond": "bond0"},
        {"name": "eth1", "mac": "52:54:00:AA:BB:02", "bond": "bond0"},
        {"name": "bond0", "bond_mode": "active-backup", "addresses": ["192.0.2.11/24"], "gateway": "192.0.2.1",
         "dns": ["192.0.2.2"], "routes": [{"to": "198.51.100.0/24", "via": "192.0.2.3"}]},
        {"name": "vlan7", "vlan_id": 7, "vlan_link": "bond0", "addresses": ["2001:db8::11/64"], "mtu": 1400},
    ],
}  # fmt: skip


def test_what_goes_beyond_coreos_in_cloud_init():
    rendered = render(EVERYTHING, "cloud-init")
    found = yaml.safe_load(rendered.documents["user-data"])
    assert found["packages"] == ["etcd-server"]
    assert found["bootcmd"] == [["install", "-d", "-m", "0755", "-o", "root", "-g", "root", "/srv/y"]]
    assert ["ln", "-sfn", "1.0", "/opt/current"] in found["runcmd"]
    assert found["runcmd"][0] == ["install", "-d", "-m", "0700", "-o", "etcd", "-g", "etcd", "/var/lib/x"]
    assert found["mounts"][1] == ["/dev/vdc", "none", "swap", "sw", "0", "0"]
    network = yaml.safe_load(rendered.documents["network-config"])
    assert network["bonds"]["bond0"] == {
        "dhcp4": False,
        "addresses": ["192.0.2.11/24"],
        "routes": [{"to": "0.0.0.0/0", "via": "192.0.2.1"}, {"to": "198.51.100.0/24", "via": "192.0.2.3"}],
        "nameservers": {"addresses": ["192.0.2.2"]},
        "interfaces": ["eth0", "eth1"],
        "parameters": {"mode": "active-backup"},
    }
    assert network["vlans"]["vlan7"]["link"] == "bond0"
    assert network["ethernets"]["eth0"]["match"] == {"macaddress": "52:54:00:aa:bb:01"}
    # the network's files are cloud-init's own to write
    assert not [entry for entry in found.get("write_files", ()) if "/systemd/network/" in entry["path"]]


def test_what_goes_beyond_coreos_in_ignition():
    config = {key: value for key, value in EVERYTHING.items() if key != "packages"}
    document = json.loads(render(config, "ignition").documents["config.ign"])
    assert document["storage"]["links"] == [{"path": "/opt/current", "target": "1.0", "overwrite": True}]
    assert document["storage"]["directories"][0] == {
        "path": "/var/lib/x", "mode": 0o700, "user": {"name": "etcd"}, "group": {"name": "etcd"}
    }  # fmt: skip
    assert document["storage"]["filesystems"][0]["wipeFilesystem"] is True
    mount = next(unit for unit in document["systemd"]["units"] if unit["name"] == "var-lib-docker.mount")
    assert "What=/dev/vdb\nType=ext4" in mount["contents"]
    assert ignition_file(document, "/etc/systemd/network/10-bond0.netdev").endswith("[Bond]\nMode=active-backup\n")
    assert "VLAN=vlan7\n" in ignition_file(document, "/etc/systemd/network/10-bond0.network")
    assert "packages: has no place in Ignition" in problems(EVERYTHING, "ignition")


def test_what_goes_beyond_coreos_is_refused_there_but_for_the_network():
    for key in ("links", "directories", "filesystems", "packages"):
        assert f"{key}: has no place in a CoreOS cloud-config" in problems({key: EVERYTHING[key]}, "coreos")
    found = user_data({"networks": EVERYTHING["networks"]}, "coreos")
    assert [unit["name"] for unit in found["coreos"]["units"]][:2] == ["10-bond0.netdev", "10-vlan7.netdev"]


def test_the_first_boot_has_the_same_addresses():
    model = models.build(EVERYTHING)
    assert renderers.boot_arguments(model.networks, "core-01") == [
        "ifname=eth0:52:54:00:aa:bb:01",
        "ifname=eth1:52:54:00:aa:bb:02",
        "bond=bond0:eth0,eth1:mode=active-backup",
        "ip=192.0.2.11::192.0.2.1:255.255.255.0:core-01:bond0:none",
        "nameserver=192.0.2.2",
        "vlan=vlan7:bond0",
        "ip=[2001:db8::11]:::64:core-01:vlan7:none",
    ]


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ({"name": "a", "addresses": ["192.0.2.1"]}, "without its prefix length"),
        ({"name": "a", "addresses": ["192.0.2.300/24"]}, "give addresses such as 192.0.2.11/24"),
        ({"name": "a", "gateway": "here"}, "give an IP address"),
        ({"name": "a", "dhcp": True, "addresses": ["192.0.2.1/24"]}, "excludes addresses"),
        ({"name": "a", "bond": "b"}, "no interface of that name has a bond_mode"),
        ({"name": "a", "bond_mode": "802.3ad"}, "a bond of nothing"),
        ({"name": "a", "vlan_id": 5000, "vlan_link": "a"}, "give 1 to 4094"),
        ({"name": "a", "vlan_id": 5, "vlan_link": "b"}, "name the interface that the VLAN is on"),
        ({"mac": "aa:bb"}, "six pairs of hexadecimal digits"),
        ({"addresses": []}, "has no name"),
    ],
)
def test_interfaces_that_cannot_be(network, words):
    assert words in problems({"networks": [network]})


def test_two_interfaces_with_one_address():
    two = [{"name": name, "addresses": ["192.0.2.1/24"]} for name in ("eth0", "eth1")]
    assert "holds 192.0.2.1, which eth0 has already" in problems({"networks": two})


def test_an_unknown_address_is_an_error_where_nothing_would_put_it_in():
    for format_ in ("ignition", "cloud-init"):
        assert "holds $public_ipv4, and that address is not known" in problems(CONFIG, format_, addresses=None)
    assert "give an IPv4 address" in problems(
        CONFIG, addresses={"public_ipv4": "2001:db8::1", "private_ipv4": "10.0.0.1"}
    )
    assert "is no variable of a cloud-config" in problems({}, addresses={"ipv4": "192.0.2.1"})


def test_every_section_has_the_originals_variables():
    """A sample of each section, and all that is irregular."""
    expected = {
        "etcd": {"snapshot_count": "ETCD_SNAPSHOTCOUNT", "trace": "ETCD_TRACE", "cors": "ETCD_CORS"},
        "etcd2": {"snapshot_count": "ETCD_SNAPSHOT_COUNT", "wal_dir": "ETCD_WAL_DIR", "cors": "ETCD_CORS"},
        "fleet": {"etcd_cafile": "FLEET_ETCD_CAFILE", "agent_ttl": "FLEET_AGENT_TTL"},
        "locksmith": {"endpoint": "LOCKSMITHD_ENDPOINT", "window_start": "REBOOT_WINDOW_START"},
        "flannel": {"interface": "FLANNELD_IFACE", "etcd_endpoints": "FLANNELD_ETCD_ENDPOINTS"},
    }
    for section, names in expected.items():
        for key, variable in names.items():
            assert schema.SECTIONS[section].keys[key].env == variable
    counts = {name: len(section.keys) for name, section in schema.SECTIONS.items()}
    assert counts == {"etcd": 49, "etcd2": 41, "fleet": 17, "locksmith": 9, "flannel": 11}


def test_zero_false_and_nothing_are_left_out():
    settings = {"disable_engine": False, "token_limit": 0, "metadata": "", "verify_units": True, "verbosity": 1}
    assert models.section_variables("fleet", {**settings, "engine_reconcile_interval": 2.0}) == (
        ("FLEET_ENGINE_RECONCILE_INTERVAL", "2"),
        ("FLEET_VERBOSITY", "1"),
        ("FLEET_VERIFY_UNITS", "true"),
    )


def test_update_conf_and_environment_keep_what_they_do_not_know():
    existing = "GROUP=alpha\nX=1\nREBOOT_STRATEGY=reboot\n"
    assert models.update_conf({"server": "https://u", "reboot_strategy": "off"}, existing) == (
        "GROUP=alpha\nX=1\nREBOOT_STRATEGY=off\nSERVER=https://u\n"
    )
    assert models.environment_file({"A": "1", "B": "2"}, "B=x\nLANG=C\n") == "B=2\nLANG=C\nA=1\n"


@pytest.mark.parametrize(
    ("target", "limit"),
    [("ec2", 16384), ("brightbox", 16384), ("openstack", 65535), ("rackspace", 65535), ("vmware", 65536),
     ("azure", 65535), ("digitalocean", 65536), ("gce", 262144), ("virtualbox", 1024)],
)  # fmt: skip
def test_a_document_that_is_too_large_is_refused(target, limit):
    random.seed(1)
    noise = "".join(random.choices(string.ascii_letters, k=limit * 2))
    config = {"write_files": [{"path": "/x", "content": noise}]}
    assert f"takes {limit}" in problems(config, "coreos", target=target)
    assert render({}, "coreos", target=target).payload.size < limit


def test_what_can_be_packed_is_packed_where_that_is_understood():
    config = {"write_files": [{"path": "/x", "content": "x" * 20000}]}
    rendered = render(config, "coreos", target="ec2")
    assert rendered.payload.encoding == "gzip+base64"
    assert gzip.decompress(base64.b64decode(rendered.payload.text)).decode() == rendered.documents["user-data"]
    assert "DigitalOcean takes 65536" in problems(
        {"write_files": [{"path": "/x", "content": "x" * 70000}]}, "coreos", target="digitalocean"
    )


def test_clouds_that_want_base64_get_it():
    payload = render(CONFIG, "coreos", target="openstack").payload
    assert payload.encoding == "base64"
    assert base64.b64decode(payload.text).startswith(b"#cloud-config")


def test_every_cloud_of_the_walkthrough_has_a_way():
    for name in ("ec2", "gce", "azure", "digitalocean", "rackspace", "openstack", "brightbox", "vmware", "qemu", "iso"):
        assert targets.TARGETS[name].how


def test_a_stub_fetches_what_is_too_large():
    random.seed(2)
    config = {"write_files": [{"path": "/x", "content": "".join(random.choices(string.ascii_letters, k=9000))}]}
    assert "takes 1024" in problems(config, "ignition", target="virtualbox")
    rendered = render(config, "ignition", target="virtualbox", stub_url="https://config.example.org/a.ign")
    replace = json.loads(rendered.payload.text)["ignition"]["config"]["replace"]
    assert replace["source"] == "https://config.example.org/a.ign"
    assert replace["verification"]["hash"].startswith("sha512-")
    assert render(config, "cloud-init", stub_url="https://a/b").payload.text == "#include\nhttps://a/b\n"
    assert "not for the format coreos" in problems(config, "coreos", stub_url="https://a/b")
    assert "stub_url is 'x'" in problems(config, "ignition", stub_url="x")


# --- migration ----------------------------------------------------------------------------------------------------

ARTICLE = b"""#cloud-config

coreos:
  etcd2:
    # generate a new token for each unique cluster
    discovery: https://discovery.example.org/00000000000000000000000000000000
    advertise-client-urls: http://$public_ipv4:2379
    initial-advertise-peer-urls: http://$private_ipv4:2380
  fleet:
    public-ip: $public_ipv4
  update: {reboot-strategy: off, group: alpha}
  units:
    - name: etcd2.service
      command: start
      enable: true
    - name: flanneld.service
      drop-ins:
      - name: 50-network-config.conf
        content: |
          [Service]
          ExecStartPre=/usr/bin/etcdctl set /coreos.com/network/config '{ "drop-ins": "10.1.0.0/16" }'
write_files:
  - path: /etc/motd
    permissions: 0644  # for all
    content: drop-ins
"""


def test_an_articles_document_is_migrated_line_by_line():
    found = cloud.migrate(ARTICLE.replace(b"off, group", b"reboot, group"))
    assert found.kept
    assert "# generate a new token" in found.document
    assert "permissions: '0644'  # for all" in found.document
    assert '{ "drop-ins": "10.1.0.0/16" }' in found.document
    assert "content: drop-ins" in found.document
    assert "enable" not in found.document
    assert [one for one in found.remaining if one.severity == "error"] == []
    assert {one["rule"] for one in found.changes} == {"hyphenated-key", "unquoted-octal", "enable-race"}
    assert yaml.safe_load(found.document)["coreos"]["update"] == {"reboot_strategy": "reboot", "group": "alpha"}


def test_what_cannot_be_mended_in_place_is_written_anew_and_told():
    found = cloud.migrate(ARTICLE)
    assert not found.kept
    assert found.changes[-1]["rule"] == "rewritten"
    assert yaml.safe_load(found.document)["coreos"]["update"] == {"reboot_strategy": "off", "group": "alpha"}
    assert "http://$public_ipv4:2379" in found.document


def test_a_migrated_document_needs_no_migration():
    once = cloud.migrate(ARTICLE)
    twice = cloud.migrate(once.document.encode())
    assert (twice.changes, twice.document) == ([], once.document)
    assert twice.data == once.data


def test_packed_documents_are_opened_by_migration():
    assert cloud.migrate(gzip.compress(ARTICLE)).changes[0]["rule"] == "wrapping"


@pytest.mark.parametrize("document", [b"#!/bin/sh\n", b"#cloud-config\na: [", b'{"ignition": {"version": "3.3.0"}}'])
def test_what_is_no_cloud_config_is_not_migrated(document):
    with pytest.raises(cloud.CloudConfigError):
        cloud.migrate(document)


# --- properties ---------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\t"), max_size=60)


@given(TEXTS.filter(lambda text: "_ipv" not in text))
def test_any_text_reaches_the_file(text):
    config = {"write_files": [{"path": "/x", "content": text}]}
    for format_ in ("coreos", "cloud-init"):
        entry = user_data(config, format_, addresses={}, allow_secrets=True)["write_files"][0]
        content = entry.get("content", "")
        if entry.get("encoding"):
            content = gzip.decompress(base64.b64decode(content)).decode()
        assert content == text
    document = json.loads(render(config, "ignition", addresses={}, allow_secrets=True).documents["config.ign"])
    assert ignition_file(document, "/x") == text


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40))
def test_any_setting_is_read_by_systemd_as_it_was_written(value):
    line = models.section_drop_in([("X", value)]).splitlines()[1]
    assert line.startswith('Environment="X=')
    inner = line[len('Environment="X=') : -1]
    read = inner.replace("%%", "%").replace('\\"', '"').replace("\\\\", "\\")
    assert read == value


def test_a_thousand_machines_are_rendered_in_seconds():
    began = time.monotonic()
    for number in range(100):
        addresses = {"public_ipv4": f"192.0.2.{number}", "private_ipv4": f"10.0.0.{number}"}
        for format_ in cloud.renderers.FORMATS:
            render({**CONFIG, "hostname": f"core-{number}"}, format_, addresses=addresses)
    # 1,000 machines in under 10 s, all three formats, with room for a machine that others use too
    assert time.monotonic() - began < 10
