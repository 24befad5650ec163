# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the installer of role netboot does, its functions run by a shell with files in place of disks and a server."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

INSTALLER = Path(__file__).resolve().parents[2] / "roles/netboot/files/installer.sh"
MIB = 1 << 20

#: Programs of an initramfs that change a machine, or that a test has no right to use.
STAND_INS = """
ip() { echo "ip $*"; }
modprobe() { echo "modprobe $*"; }
ipconfig() { echo "ipconfig $*"; }
blockdev() { stat -L -c %s "$2"; }
fetch() { cat "$1"; }
sync() { :; }
say() { echo "$*"; }
"""


def shell(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    text = INSTALLER.read_text().replace("/run/", f"{folder}/")
    whole = f"{text}\n{STAND_INS}\n{script}\n"
    return subprocess.run(["sh", "-c", whole], capture_output=True, text=True, timeout=60, check=False)


def test_nothing_happens_by_itself(tmp_path: Path) -> None:
    done = subprocess.run(["sh", str(INSTALLER)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("name,eth9,lan0", ["ip link set dev eth9 down", "ip link set dev eth9 name lan0"]),
        ("name,lan0,lan0", []),
        ("vlan,storage,bond0,20", ["modprobe 8021q", "ip link set dev bond0 up",
                                   "ip link add link bond0 name storage type vlan id 20"]),
        ("mtu,lan0,9000", ["ip link set dev lan0 mtu 9000"]),
        ("up,lan0", ["ip link set dev lan0 up"]),
        ("address,lan0,192.0.2.11/24", ["ip address add 192.0.2.11/24 dev lan0"]),
        ("route,default,192.0.2.1", ["ip route add default via 192.0.2.1"]),
        ("dhcp,lan0", ["ipconfig -t 60 -c dhcp -d lan0"]),
        ("frobnicate,lan0", ["does not know how to 'frobnicate'"]),
    ],
)  # fmt: skip
def test_a_step_of_the_network(tmp_path: Path, step: str, said: list[str]) -> None:
    assert shell(tmp_path, f"step '{step}'").stdout.splitlines() == said


@pytest.mark.parametrize(
    ("written", "empty"),
    [
        ({}, True),
        ({510: b"\x55\xaa"}, False),  # a partition table
        ({1080: b"\x53\xef"}, False),  # ext4
        ({65536: b"_BHRfS_M"}, False),  # btrfs
        ({8 * MIB - 65536: b"RAID"}, False),
        ({8 * MIB - 512: b"EFI PART"}, False),  # the copy of a partition table
        ({8 * MIB + 4096 - 512: b"EFI PART"}, False),  # on a disk that is no whole number of mebibytes
        ({4 * MIB: b"data in the middle"}, True),
    ],
)
def test_a_disk_is_empty_when_nothing_can_be_lost(tmp_path: Path, written: dict[int, bytes], empty: bool) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as stream:
        stream.truncate(8 * MIB + 4096)
        for at, data in written.items():
            stream.seek(at)
            stream.write(data)
    assert (shell(tmp_path, f"is_empty {disk}").returncode == 0) is empty


CONTENT = bytes(range(256)) * 4096
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "none": bytes,
}


def write(folder: Path, image: bytes, unpack: str, digest: str, disk: str = "") -> subprocess.CompletedProcess[str]:
    (folder / "image").write_bytes(image)
    script = f"image={folder}/image sha256={digest} unpack={unpack} disk={disk or folder / 'disk'}; write_image"
    return shell(folder, f"{script} || {{ cat {folder}/failed; exit 1; }}")


@pytest.mark.parametrize("unpack", PACKERS)
def test_an_image_goes_to_the_disk_as_it_is(tmp_path: Path, unpack: str) -> None:
    packed = PACKERS[unpack](CONTENT)
    done = write(tmp_path, packed, unpack, hashlib.sha256(packed).hexdigest())
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "disk").read_bytes() == CONTENT


def test_an_image_that_is_another_is_refused(tmp_path: Path) -> None:
    done = write(tmp_path, CONTENT, "none", "0" * 64)
    assert done.returncode == 1
    assert f"the image has the SHA-256 {hashlib.sha256(CONTENT).hexdigest()} in place of 000" in done.stdout


def test_an_image_that_ends_early_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(CONTENT)
    done = write(tmp_path, packed[:-100], "gzip", hashlib.sha256(packed).hexdigest())
    assert done.returncode == 1
    assert "cannot unpack" in done.stdout
    assert "SHA-256" in done.stdout


def test_a_disk_that_is_too_small_is_told(tmp_path: Path) -> None:
    packed = gzip.compress(CONTENT)
    done = write(tmp_path, packed, "gzip", hashlib.sha256(packed).hexdigest(), disk="/dev/full")
    assert done.returncode == 1
    assert "cannot write it to /dev/full" in done.stdout
    assert "SHA-256" not in done.stdout


def test_the_server_gets_a_request_that_it_understands(tmp_path: Path) -> None:
    script = f"""
    nc() {{ echo "$*" > {tmp_path}/called; cat > {tmp_path}/sent; printf 'HTTP/1.1 201 Created\\r\\n'; }}
    url=http://192.0.2.2:8090 key=0123
    report failed 'there is no disk'
    """
    assert shell(tmp_path, script).returncode == 0
    assert (tmp_path / "called").read_text() == "-w 10 192.0.2.2 8090\n"
    head, body = (tmp_path / "sent").read_bytes().split(b"\r\n\r\n")
    assert head == b"PUT /failed/0123 HTTP/1.0\r\nHost: 192.0.2.2:8090\r\nContent-Length: 16"
    assert body == b"there is no disk"
    refused = script.replace("201 Created", "404 Not Found")
    assert shell(tmp_path, refused).returncode == 1


ORDERS = "disk {disk}\nwipe {wipe}\nimage {image}\nsha256 {sha}\nunpack none\nlabel flotilla\nseed /seed\n"


@pytest.mark.parametrize(("wipe", "written"), [("no", False), ("yes", True)])
def test_a_disk_in_use_is_written_only_when_that_is_wanted(tmp_path: Path, wipe: str, written: bool) -> None:
    disk, image = tmp_path / "disk", tmp_path / "image"
    before = b"somebody's data".ljust(4 * MIB, b"\0")
    disk.write_bytes(before)
    image.write_bytes(CONTENT)
    sha = hashlib.sha256(CONTENT).hexdigest()
    (tmp_path / "orders-there").write_text(ORDERS.format(disk=disk, wipe=wipe, image=image, sha=sha))
    script = f"""
    is_there() {{ test -f "$1"; }}
    fetch() {{ case "$1" in */orders) cat {tmp_path}/orders-there ;; *) cat "$1" ;; esac; }}
    is_done() {{ return 1; }}
    report() {{ echo "told $1: $2"; }}
    write_documents() {{ echo documents; }}
    url=http://192.0.2.2:8090 key=0123
    (attempt)
    """
    done = shell(tmp_path, script)
    if written:
        assert done.returncode == 0, done.stdout + done.stderr
        assert disk.read_bytes()[: len(CONTENT)] == CONTENT
        assert "documents" in done.stdout
    else:
        assert done.returncode == 1
        assert f"told failed: {disk} is not empty and stays as it is" in done.stdout
        assert disk.read_bytes() == before
