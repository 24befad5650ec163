# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What host_info makes of the files and answers of a host."""

from __future__ import annotations

import os
import socket
import struct
import sys
import typing as t
from pathlib import Path

import pytest
from ansible_collections.flotilla.cluster.plugins.module_utils import _host_facts as facts

DEBIAN = """PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
NAME="Debian GNU/Linux"
VERSION_ID="12"
VERSION="12 (bookworm)"
VERSION_CODENAME=bookworm
ID=debian
"""
UBUNTU = """PRETTY_NAME="Ubuntu 24.04.1 LTS"
VERSION_ID="24.04"
VERSION_CODENAME=noble
ID=ubuntu
ID_LIKE=debian
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DEBIAN, ("debian", "12", "bookworm", "Debian GNU/Linux 12 (bookworm)")),
        (UBUNTU, ("ubuntu", "24.04", "noble", "Ubuntu 24.04.1 LTS")),
        ('ID=\'arch\'\nPRETTY_NAME="A \\"quoted\\" one"\n# ID=no\n', ("arch", "", "", 'A "quoted" one')),
        ("", ("linux", "", "", "")),
        ("nonsense\n=\n", ("linux", "", "", "")),
    ],
)
def test_os_release(text: str, expected: tuple[str, ...]) -> None:
    assert tuple(facts.parse_os_release(text).values()) == expected


@pytest.mark.skipif(sys.byteorder != "little", reason="the recorded tables are from little-endian machines")
def test_tables_of_sockets() -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    rest = " 00:00000000 00000000     0        0 "
    tcp = head + (
        f"   0: 0100007F:094B 00000000:0000 0A 00000000:00000000{rest}41 1 0 100 0 0 10 0\n"
        f"   1: 00000000:0016 00000000:0000 0A 00000000:00000000{rest}42 1 0 100 0 0 10 0\n"
        f"   2: 0B66D04F:0016 0166D04F:D0C2 01 00000000:00000000{rest}43 4 0 20 4 31 10 -1\n"
    )
    tcp6 = head + (
        "   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A"
        " 00000000:00000000 00:00000000 00000000     0        0 44 1 0 100 0 0 10 0\n"
        "   1: 0000000000000000FFFF00000100007F:1F91 00000000000000000000000000000000:0000 0A"
        " 00000000:00000000 00:00000000 00000000     0        0 45 1 0 100 0 0 10 0\n"
        "   2: B80D0120000000000000000001000000:1F92 00000000000000000000000000000000:0000 0A"
        " 00000000:00000000 00:00000000 00000000     0        0 46 1 0 100 0 0 10 0\n"
    )
    udp = head + "  7: 3600007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 47 2 0 0\n"
    assert facts.parse_sockets("tcp", tcp) == [
        ("tcp", "127.0.0.1", 2379, "41"),
        ("tcp", "0.0.0.0", 22, "42"),
    ]
    assert facts.parse_sockets("tcp", tcp6) == [
        ("tcp", "::", 8080, "44"),
        ("tcp", "127.0.0.1", 8081, "45"),
        ("tcp", "2001:db8::1", 8082, "46"),
    ]
    assert facts.parse_sockets("udp", udp) == [("udp", "127.0.0.54", 53, "47")]
    assert facts.parse_sockets("tcp", "") == []


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/etcd.service\n", "etcd.service"),
        ("0::/system.slice/system-web.slice/web@1.service\n", "web@1.service"),
        ("0::/user.slice/user-0.slice/session-3.scope\n", "session-3.scope"),
        ("0::/system.slice/docker.service/payload\n", "docker.service"),
        ("1:name=systemd:/system.slice/ssh.service\n0::/\n", "ssh.service"),
        ("5:cpu:/system.slice/no.service\n0::/init.scope\n", "init.scope"),
        ("0::/\n", ""),
        ("", ""),
    ],
)
def test_the_unit_of_a_process(text: str, unit: str) -> None:
    assert facts.parse_unit(text) == unit


def message(family: int, index: int, *attributes: tuple[int, str]) -> bytes:
    body = struct.pack("=BBBBI", family, 24, 0, 0, index)
    for kind, address in attributes:
        raw = socket.inet_pton(family, address)
        body += struct.pack("=HH", 4 + len(raw), kind) + raw
        body += struct.pack("=HHI", 7, 3, 0x6161)  # a label of an odd length, padded
    return struct.pack("=IHHII", 16 + len(body), 20, 2, 1, 0) + body


def test_addresses_of_interfaces() -> None:
    done = struct.pack("=IHHIII", 20, 3, 2, 1, 0, 0)
    messages = (
        message(socket.AF_INET, 1, (1, "127.0.0.1"), (2, "127.0.0.1"))
        + message(socket.AF_INET, 2, (1, "192.0.2.1"), (2, "192.0.2.11"))
        + message(socket.AF_INET, 2, (2, "198.51.100.7"))
        + message(socket.AF_INET6, 1, (1, "::1"))
        + message(socket.AF_INET6, 3, (1, "2001:db8::11"))
        + done
    )
    names = {1: "lo", 2: "eth0", 3: "eth1"}.__getitem__
    assert facts.parse_addresses(messages, names) == {"eth0": ["192.0.2.11", "198.51.100.7"], "eth1": ["2001:db8::11"]}
    assert facts.parse_addresses(b"", names) == {}
    assert facts.parse_addresses(bytes(16), names) == {}
    assert facts.parse_addresses(messages[:-30], names)["eth0"] == ["192.0.2.11", "198.51.100.7"]


def test_installed_packages() -> None:
    text = "installed docker.io 20.10.24+dfsg1-1\nconfig-files etcd-server 3.4\nnot-installed foo \nhalf nonsense\n"
    assert facts.parse_packages(text) == {"docker.io": "20.10.24+dfsg1-1"}


def test_names_of_accounts() -> None:
    assert facts.parse_names("root:x:0:0::/root:/bin/sh\n\n# no\n+nis\netcd:x:9:9::/:\n") == ["root", "etcd"]


def test_the_age_of_package_lists(tmp_path: Path) -> None:
    lists = tmp_path / "var/lib/apt/lists"
    assert facts.read_apt_cache_age(1000.0, str(tmp_path)) is None
    (lists / "partial").mkdir(parents=True)
    (lists / "lock").touch()
    assert facts.read_apt_cache_age(1000.0, str(tmp_path)) is None
    (lists / "mirror_InRelease").touch()
    for path in (lists / "mirror_InRelease", lists / "partial", lists):
        os.utime(path, (400, 400))
    assert facts.read_apt_cache_age(1000.0, str(tmp_path)) == 600
    stamp = tmp_path / "var/lib/apt/periodic/update-success-stamp"
    stamp.parent.mkdir()
    stamp.touch()
    os.utime(stamp, (900, 900))
    assert facts.read_apt_cache_age(1000.0, str(tmp_path)) == 100
    assert facts.read_apt_cache_age(800.0, str(tmp_path)) == 0


def test_this_machine() -> None:
    """All of it on the machine that runs the tests: what can be known of any machine is right."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = facts.read_host([], ports=True)
        port = server.getsockname()[1]
    assert host["hostname"] == socket.gethostname()
    assert host["python"].split(".")[:2] == [str(part) for part in sys.version_info[:2]]
    assert "127.0.0.1" not in host["addresses"]
    assert host["default_address"] in ("", *host["addresses"])
    assert host["packages"] == {}
    assert host["cpus"] >= 1
    (mine,) = [entry for entry in host["listening"] if entry["port"] == port and entry["proto"] == "tcp"]
    assert mine["address"] == "127.0.0.1"
    assert mine["pid"] in (os.getpid(), 0)
    assert "listening" not in facts.read_host([], ports=False)


@pytest.mark.parametrize("name", ["", "a", "Docker", "a b", "-x", "a;b", "*.io"])
def test_names_that_no_package_has(run_module: t.Callable[..., dict[str, t.Any]], name: str) -> None:
    result = run_module("host_info", packages=[name])
    assert result["failed"]
    assert result["msg"].startswith(f"packages: {name!r} cannot be the name of a package")


def test_the_module_changes_nothing(run_module: t.Callable[..., dict[str, t.Any]]) -> None:
    result = run_module("host_info", packages=["*"], ports=False, _ansible_check_mode=True)
    assert result["changed"] is False
    assert set(result["host"]) >= {"os", "arch", "machine_id", "boot_id", "time", "users", "groups", "virtualization"}


def test_what_is_at_a_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text\n")
    (tmp_path / "dangling").symlink_to("nowhere")
    looked = {"file": "file", "folder": ".", "nothing": "nothing", "link": "dangling"}
    host = facts.read_host([], ports=False, look_at={name: str(tmp_path / path) for name, path in looked.items()})
    assert host["paths"] == {
        "file": {"kind": "file", "text": "text\n", "target": ""},
        "folder": {"kind": "directory", "text": "", "target": ""},
        "nothing": {"kind": "absent", "text": "", "target": ""},
        "link": {"kind": "other", "text": "", "target": "nowhere"},
    }


ROUTES = """Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
host0	00000000	018C4F0A	0003	0	0	0	00000000	0	0	0
host0	008C4F0A	00000000	0001	0	0	0	00FFFFFF	0	0	0
tun0	0000000A	010C4F0A	0003	0	0	0	000000FF	0	0	0
down0	0000010A	010C4F0A	0002	0	0	0	0000FFFF	0	0	0
tun0	0500000A	010C4F0A	0007	0	0	0	FFFFFFFF	0	0	0
"""
ROUTES_IPV6 = """fe800000000000000000000000000000 40 0 00 0 00000000000000000000000000000000 00000100 1 00000001  host0
20010db8000000000000000000000000 20 0 00 0 00000000000000000000000000000000 00000100 1 00000001  host0
20010db8000000000000000000000001 80 0 00 0 00000000000000000000000000000000 00000100 1 00000001  host0
ff000000000000000000000000000000 08 0 00 0 00000000000000000000000000000000 00000100 1 00000001  host0
"""


def test_networks_by_the_routing_tables() -> None:
    assert facts.parse_routes(ROUTES, "") == [
        {"interface": "host0", "network": "10.79.140.0/24"},
        {"interface": "tun0", "network": "10.0.0.0/8"},
    ]
    assert facts.parse_routes("", ROUTES_IPV6) == [{"interface": "host0", "network": "2001:db8::/32"}]
    assert facts.parse_routes("", "") == []


@pytest.mark.parametrize(
    ("connection", "address"),
    [
        ("192.0.2.7 50022 192.0.2.11 22", "192.0.2.7"),
        ("2001:db8::7 50022 2001:db8::11 22", "2001:db8::7"),
        ("fe80::7%eth0 50022 fe80::11%eth0 22", "fe80::7"),
        ("::ffff:192.0.2.7 50022 ::ffff:192.0.2.11 22", "192.0.2.7"),
        ("", ""),
        ("accept 1 2 3", ""),
    ],
)
def test_where_a_connection_comes_from(connection: str, address: str) -> None:
    assert facts.client_address(connection) == address
