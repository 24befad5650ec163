# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From bare metal to a member: a virtual machine with an empty disk is switched on. make test-netboot.

A local host is the cluster and the server; QEMU emulates the machine in software, on the host's bridge. Installs what
is missing of QEMU and iPXE, and takes everything away at the end.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from daytwo.lab import words
from localhosts import cluster, plan, system
from support.commands import ROOT, done

FILES = Path("/var/cache/flotilla/netboot")
CLUSTER, SERVER = "nb", "nb-01"
PACKAGES = ("ipxe-qemu", "qemu-system-x86")
PATIENCE = 1800.0  # a machine that is emulated beside other work takes many times as long
DISK_SIZE = 4 << 30


def run(*argv: str, timeout: float = 900, check: bool = True, **environment: str) -> str:
    return done(*argv, timeout=timeout, check=check, **{"LANG": "C.UTF-8", **environment})[0]


def hosts_py(*arguments: str, check: bool = True) -> str:
    return run(sys.executable, "tools/hosts.py", *arguments, check=check)


def on_server(script: str, check: bool = True) -> str:
    return hosts_py("ssh", "--cluster", CLUSTER, SERVER, script, check=check)


@dataclass(frozen=True)
class Machine:
    """A virtual machine: its name, what the inventory says of it, and its place in the bridge."""

    name: str
    mac: str
    address: str
    tap: str


@dataclass(frozen=True)
class Lab:
    folder: Path
    machines: tuple[Machine, ...]
    url: str

    def play(self, playbook: str, *arguments: str) -> str:
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        environment = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        return run(program, "-i", str(self.folder / "inventory"), f"playbooks/{playbook}", *arguments, **environment)

    def changed(self, said: str) -> dict[str, int]:
        """How much a play has changed on each host."""
        return {host: int(number) for host, number in re.findall(r"(?m)^(\S+) +: ok=\d+ +changed=(\d+)", said)}

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of what the server has, as a machine sees it."""
        said = run("curl", "--silent", "--max-time", "20", "--write-out", "\n%{http_code}", f"{self.url}/{path}")
        body, _newline, status = said.rpartition("\n")
        return int(status), body

    def key(self, machine: Machine) -> str:
        """Name of the machine's folder, which its script tells."""
        status, script = self.get(f"machines/{machine.mac.replace(':', '-')}.ipxe")
        assert status == 200
        found = re.search("keys/([0-9a-f]{32})/boot.ipxe", script)
        assert found, script
        return found[1]


def write_inventory(folder: Path, machines: tuple[Machine, ...], subnet: str, gateway: str) -> None:
    sums = dict(reversed(line.split()) for line in (FILES / "SHA256SUMS").read_text().splitlines())
    public = (cluster.directory(CLUSTER) / "id_ed25519.pub").read_text().strip()
    bare = {
        one.name: {
            "ansible_host": one.address,
            "netboot_disk": "/dev/vda",
            "cloud_config_description": {
                "ssh_authorized_keys": [public],
                "networks": [{"name": "lan0", "mac": one.mac, "addresses": ["$private_ipv4/24"], "gateway": gateway}],
            },
        }
        for one in machines
    }
    variables = {
        "cloud_config_member": True,
        "cloud_config_allow_secrets": True,
        "cloud_config_packages": [],  # the image has them
    }
    server: dict[str, object] = {"netboot_subnet": subnet, "netboot_kernel_arguments": ["console=ttyS0"]}
    for name, file in (("kernel", "vmlinuz"), ("initrd", "initrd.img"), ("image", "disk.img.gz")):
        server |= {f"netboot_{name}_url": str(FILES / file), f"netboot_{name}_sha256": sums[file]}
    whole = {
        # with users in etcd, a machine is listed only once a play has made the machine's own
        "machines": {"hosts": dict.fromkeys(bare), "vars": {"fleet_etcd_auth": False}},
        "bare": {"hosts": bare, "vars": variables},
        "netboot": {"hosts": {SERVER: None}, "vars": server},
    }
    (folder / "inventory/bare.json").write_text(json.dumps(whole))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A cluster of one host, which serves two machines that are off."""
    if os.geteuid() != 0:
        pytest.skip("machines and their bridge are made by root")
    system.install(*PACKAGES)
    run(sys.executable, "tools/netboot_image.py", str(FILES))
    folder = tmp_path_factory.mktemp("netboot")
    (folder / "inventory").mkdir()
    taps = ("nb-tap1", "nb-tap2")
    try:
        up = ["--prefix=nb-", "--hosts=1", "--packages=installed", f"--inventory={folder}/inventory/hosts.yml"]
        hosts_py("up", "--cluster", CLUSTER, *up)
        known = cluster.load(CLUSTER)
        machines = tuple(
            Machine(f"nb-vm{number}", f"52:54:00:6e:62:{number:02x}", str(known.gateway + 100 + number), tap)
            for number, tap in enumerate(taps, 1)
        )
        write_inventory(folder, machines, str(known.subnet), str(known.gateway))
        for tap in taps:
            run("ip", "tuntap", "add", "dev", tap, "mode", "tap")
            run("ip", "link", "set", "dev", tap, "master", plan.bridge_name(CLUSTER), "up")
        made = Lab(folder, machines, f"http://{known.address(known.host(SERVER))}:8090")
        made.play("site.yml", "--limit", SERVER)
        made.play("netboot.yml")
        yield made
    finally:
        for tap in taps:
            run("ip", "link", "delete", "dev", tap, check=False)
        hosts_py("down", "--cluster", CLUSTER, "--all")


class Power:
    """A machine that is switched on, with a disk in a file and a console in another."""

    def __init__(self, lab: Lab, machine: Machine, content: bytes = b"") -> None:
        self.disk, self.log = lab.folder / f"{machine.name}.disk", lab.folder / f"{machine.name}.console"
        with self.disk.open("wb") as stream:
            stream.truncate(DISK_SIZE)
            stream.write(content)
        devices = [
            f"tap,id=net,ifname={machine.tap},script=no,downscript=no",
            f"virtio-net-pci,netdev=net,mac={machine.mac},bootindex=1",
            f"if=none,id=disk,file={self.disk},format=raw,cache=unsafe",
            "virtio-blk-pci,drive=disk,bootindex=2",
            "virtio-rng-pci",
        ]
        kinds = ("-netdev", "-device", "-drive", "-device", "-device")
        argv = ["qemu-system-x86_64", "-machine", "pc,accel=tcg,graphics=off", "-cpu", "max", "-smp", "2", "-m", "2048"]
        argv += ["-nodefaults", "-no-user-config", "-display", "none", "-serial", f"file:{self.log}"]
        argv += [word for pair in zip(kinds, devices, strict=True) for word in pair]
        self.begun = time.monotonic()
        # it ends with the tests, however they end
        self.process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *argv], stdin=subprocess.DEVNULL)

    def console(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait(self, what: str, done: Callable[[], bool]) -> float:
        """Seconds from power-on until it is so."""
        while not done():
            assert self.process.poll() is None, "QEMU has ended"
            seconds = time.monotonic() - self.begun
            assert seconds < PATIENCE, f"{what}: not within {seconds:.0f} s; {self.console()[-3000:]}"
            time.sleep(1)
        return time.monotonic() - self.begun

    def off(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def member(lab: Lab) -> Iterator[Power]:
    """The first machine, from power-on to the list of machines."""
    machine = lab.machines[0]
    power = Power(lab, machine)
    try:
        marks = [
            ("the installer runs", lambda: "flotilla: writing" in power.console()),
            ("installed", lambda: "the server knows" in power.console()),
            ("boots from its disk", lambda: power.console().count("Linux version") == 2),
            (
                "listed by fleetctl",
                lambda: machine.address in on_server("fleetctl list-machines --no-legend", check=False),
            ),
        ]
        print()
        for what, done in marks:
            print(f"{power.wait(what, done):6.1f} s after power-on: {what}")
        yield power
    finally:
        power.off()


def test_a_second_run_changes_nothing_and_check_mode_agrees(lab: Lab) -> None:
    """Before any machine has been on."""
    assert set(lab.changed(lab.play("netboot.yml", "--check")).values()) == {0}
    assert set(lab.changed(lab.play("netboot.yml")).values()) == {0}


def test_an_unknown_machine_boots_locally(lab: Lab) -> None:
    status, script = lab.get("machines/52-54-00-00-00-99.ipxe")
    assert (status, script) == (
        200,
        "#!ipxe\n" + (ROOT / "roles/netboot/files/local.ipxe").read_text().rstrip("\n") + "\n",
    )


def test_firmware_gets_ipxe(lab: Lab) -> None:
    for name in ("undionly.kpxe", "ipxe.efi"):
        address = lab.url.split("/")[2].split(":")[0]
        on_server(f"cd /run && busybox tftp -g -r {name} {address} && cmp {name} /usr/lib/ipxe/{name}")


def test_documents_are_found_by_their_machine_alone(lab: Lab) -> None:
    assert lab.get(f"keys/{lab.key(lab.machines[0])}/user-data")[0] == 200
    for path in ("", "keys/", "machines/", "keys/" + "0" * 32 + "/user-data", "../state/installed/", "installed/x"):
        assert lab.get(path)[0] in (403, 404), path
    # a word about a machine that nobody knows
    put = [
        "curl",
        "--silent",
        "--request",
        "PUT",
        "--data",
        "x",
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code}",
    ]
    assert run(*put, f"{lab.url}/installed/{'0' * 32}") == "404"
    assert on_server("find /var/lib/flotilla/netboot/state -type f") == ""
    assert (
        on_server("setpriv --reuid=nobody --clear-groups ls /var/lib/flotilla/netboot/http 2>&1 || :").count("denied")
        == 1
    )


def test_a_bare_machine_becomes_a_member(lab: Lab, member: Power) -> None:
    machine = lab.machines[0]
    listed = on_server("fleetctl list-machines --no-legend")
    assert machine.address in listed
    assert len(listed.splitlines()) == 2
    # installed once, and then from its disk
    assert member.console().count("flotilla: writing") == 1
    assert member.console().count("Booting from the local disk") == 1


def test_it_is_what_the_inventory_says(lab: Lab, member: Power) -> None:
    """As the installer had it: one address, on an interface of that name."""
    machine = lab.machines[0]
    folder = cluster.directory(CLUSTER)
    ssh = ["ssh", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=60",
           "-o", "LogLevel=ERROR", "-i", str(folder / "id_ed25519"), f"core@{machine.address}"]  # fmt: skip
    script = "hostname; ip -o -4 address show dev lan0; ip route; df --output=size / | tail -1; cat /proc/cmdline"
    said = run(*ssh, script, check=False)
    assert said.splitlines()[0] == machine.name
    assert f"{machine.address}/24" in said
    assert "default via" in said
    assert "flotilla." not in said
    assert int(said.splitlines()[-2]) > DISK_SIZE / 1024 * 0.8


def test_nobody_gets_the_documents_of_an_installed_machine(lab: Lab, member: Power) -> None:
    key = lab.key(lab.machines[0])
    for name in ("user-data", "orders", "boot.ipxe"):
        assert lab.get(f"keys/{key}/{name}")[0] == 404
    assert key in on_server("ls /var/lib/flotilla/netboot/state/installed")
    said = lab.play("netboot.yml")
    assert lab.changed(said) == {SERVER: 1, **{one.name: 0 for one in lab.machines}}
    assert "1 of 2 machines are installed; waiting: nb-vm2" in words(said)
    assert key not in on_server("ls /var/lib/flotilla/netboot/http/keys")
    assert set(lab.changed(lab.play("netboot.yml")).values()) == {0}


def test_a_disk_with_data_is_left_alone(lab: Lab, member: Power) -> None:
    member.off()  # two at once would take twice as long
    machine = lab.machines[1]
    key, data = lab.key(machine), b"somebody's data".ljust(440, b"\0") + bytes(70) + b"\x55\xaa"
    power = Power(lab, machine, data)
    try:
        report = f"cat /var/lib/flotilla/netboot/state/failed/{key}"
        power.wait("refused", lambda: on_server(report, check=False) != "")
        assert "/dev/vda is not empty and stays as it is" in on_server(report)
        with power.disk.open("rb") as stream:
            assert stream.read(512) == data
            assert not stream.read(1 << 20).strip(b"\0")
        said = words(lab.play("netboot.yml"))
        assert "failed, see /var/lib/flotilla/netboot/state/failed: nb-vm2" in said
    finally:
        power.off()
