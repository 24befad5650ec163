# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""tools/hosts.py with real hosts: what it promises while they run, and that nothing is left afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from localhosts import guest, network, plan

pytestmark = [
    pytest.mark.hosts,
    pytest.mark.skipif(os.geteuid() != 0, reason="local hosts are made by root"),
]

PROGRAM = Path(__file__).resolve().parents[2] / "tools" / "hosts.py"
PATIENCE = 300  # seconds; the base image is there already (below), so this only bounds a hang


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(PROGRAM), *arguments]


def hosts(*arguments: str, check: bool = True, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run hosts.py with pipes: it must not leave one open, or this never returns."""
    done = subprocess.run(
        command(*arguments), input=text, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def on(cluster: str, host: str, script: str, check: bool = True) -> str:
    return hosts("ssh", "--cluster", cluster, host, script, check=check, text="").stdout


def left_overs(cluster: str) -> dict[str, object]:
    """Everything on this machine that belongs to a cluster."""
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"/{cluster}/" in line]
    cgroups = [path for path in guest.cgroups_of(cluster) if path.exists()]
    names = (plan.bridge_name(cluster), f"vb-{plan.tag(cluster)}-")
    commands = [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.exists() and f"/{cluster}/".encode() in _read(path)
    ]
    found = {
        "mounts": mounts,
        "cgroups": cgroups,
        "processes": [pid for path in cgroups for pid in guest._processes_below(path)] + commands,
        "interfaces": [path.name for path in Path("/sys/class/net").iterdir() if path.name.startswith(names)],
        "rules": network.rules_of(subprocess.check_output(["iptables-save"], text=True), cluster),
        "partitions": network.cuts(cluster),
        "files": [path for path in (guest.DISKS / cluster, guest.RUNTIME / cluster) if path.exists()],
        "locks": list((guest.RUNTIME / ".locks").glob(f"*{cluster}*")),
    }
    return {what: value for what, value in found.items() if value}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.fixture(scope="module", autouse=True)
def base() -> None:
    subprocess.run(command("base"), check=True, timeout=1200)


@pytest.fixture
def cluster() -> Iterator[str]:
    name = f"it-{os.getpid()}"
    yield name
    hosts("down", "--cluster", name)
    assert left_overs(name) == {}


def statuses(cluster: str) -> dict[str, float | None]:
    return {row["name"]: row["uptime"] for row in json.loads(hosts("status", "--cluster", cluster, "--json").stdout)}


def test_two_hosts_from_up_to_down(cluster: str, tmp_path: Path) -> None:
    inventory = tmp_path / "hosts.yml"
    made = hosts("up", "--cluster", cluster, "--hosts", "2", "--inventory", str(inventory))
    assert "2 hosts answer ssh" in made.stderr
    assert set(left_overs(cluster)) >= {"mounts", "cgroups", "processes", "interfaces", "rules", "files"}

    facts = [
        on(cluster, host, "hostname; cat /etc/machine-id; cat /etc/ssh/*.pub").split()
        for host in ("core-01", "core-02")
    ]
    assert [fact[0] for fact in facts] == ["core-01", "core-02"]
    assert facts[0][1] != facts[1][1]
    assert facts[0][3] != facts[1][3]
    assert on(cluster, "core-01", "systemctl is-system-running --wait") == "running\n"
    assert on(cluster, "core-01", "ls /var/cache/apt/archives/docker.io_*.deb | wc -l") == "1\n"

    again = hosts("up", "--cluster", cluster)
    assert "2 of 2 hosts" in again.stderr
    assert "switching on" not in again.stderr

    on(cluster, "core-02", "echo kept > /root/file; sync")
    boot = on(cluster, "core-02", "cat /proc/sys/kernel/random/boot_id; systemctl show -p UserspaceTimestampMonotonic")
    hosts("kill", "--cluster", cluster, "core-02")
    assert statuses(cluster)["core-02"] is None
    assert guest.processes(guest.Place(cluster, "core-02")) == []
    off = hosts("ssh", "--cluster", cluster, "core-02", "true", check=False)
    assert (off.returncode, len(off.stderr.splitlines())) == (1, 1)
    assert "core-02 is off" in off.stderr
    hosts("start", "--cluster", cluster, "core-02")
    assert on(cluster, "core-02", "cat /root/file") == "kept\n"
    later = on(cluster, "core-02", "cat /proc/sys/kernel/random/boot_id; systemctl show -p UserspaceTimestampMonotonic")
    assert later != boot

    hosts("stop", "--cluster", cluster, "core-01")
    assert [uptime is None for uptime in statuses(cluster).values()] == [True, False]
    hosts("up", "--cluster", cluster, "--hosts", "3")
    assert "Reached target poweroff.target" in on(cluster, "core-01", "journalctl -b -1 -o cat --no-pager")
    assert list(statuses(cluster)) == ["core-01", "core-02", "core-03"]
    assert None not in statuses(cluster).values()

    assert inventory.exists()
    hosts("down", "--cluster", cluster, "--all")
    assert left_overs(cluster) == {}
    assert not inventory.exists()


def test_a_host_that_reboots_comes_back_and_is_switched_off_as_before(cluster: str) -> None:
    hosts("up", "--cluster", cluster, "--hosts", "1")
    boot = on(cluster, "core-01", "cat /proc/sys/kernel/random/boot_id")
    for _ in range(2):
        before = guest.life(guest.Place(cluster, "core-01")).supervisor
        on(cluster, "core-01", "echo kept > /root/file; systemctl reboot", check=False)
        deadline = time.monotonic() + 60
        again = boot
        while again in (boot, ""):
            assert time.monotonic() < deadline, "it does not come back"
            time.sleep(0.2)
            again = on(cluster, "core-01", "cat /proc/sys/kernel/random/boot_id", check=False)
        boot = again
        assert guest.life(guest.Place(cluster, "core-01")).supervisor != before
        assert on(cluster, "core-01", "cat /root/file; systemctl is-system-running --wait") == "kept\nrunning\n"
    hosts("stop", "--cluster", cluster, "core-01")
    assert statuses(cluster) == {"core-01": None}
    assert guest.processes(guest.Place(cluster, "core-01")) == []


def test_partitions(cluster: str) -> None:
    hosts("up", "--cluster", cluster, "--hosts", "3")
    address = {
        row["name"]: row["address"] for row in json.loads(hosts("status", "--cluster", cluster, "--json").stdout)
    }

    def reached(source: str) -> list[str]:
        others = [name for name in address if name != source]
        script = "".join(f"ping -n -c1 -W1 {address[name]} >/dev/null && echo {name}; " for name in others) + "true"
        return on(cluster, source, script).split()

    assert reached("core-01") == ["core-02", "core-03"]
    hosts("partition", "--cluster", cluster, "core-01", "core-02")
    assert reached("core-01") == ["core-03"]
    assert reached("core-02") == ["core-03"]
    # A cut stays when a host starts again.
    hosts("kill", "--cluster", cluster, "core-02")
    hosts("start", "--cluster", cluster, "core-02")
    assert reached("core-02") == ["core-03"]
    hosts("heal", "--cluster", cluster, "core-01", "core-02")
    assert reached("core-02") == ["core-01", "core-03"]

    hosts("partition", "--cluster", cluster, "core-03", "--one-way")
    listen = "timeout 3 python3 -c 'import socket; s = socket.socket(2, 2); s.bind((\"\", 9)); print(s.recv(9))'"
    with subprocess.Popen(
        command("ssh", "--cluster", cluster, "core-03", listen),
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    ) as listener:
        send = f"for i in 1 2 3 4 5 6 7 8; do echo hi > /dev/udp/{address['core-03']}/9; sleep 0.2; done"
        neighbour = f"ip neigh replace {address['core-03']} lladdr $MAC dev host0 nud permanent"
        mac = on(cluster, "core-03", "cat /sys/class/net/host0/address").strip()
        on(cluster, "core-01", f"MAC={mac}; {neighbour}; bash -c '{send}'")
        assert listener.stdout is not None
        assert listener.stdout.read() == "b'hi\\n'\n"
    assert reached("core-03") == []
    hosts("heal", "--cluster", cluster)
    assert reached("core-03") == ["core-01", "core-02"]


@pytest.mark.parametrize("delay", [0.1, 0.2, 0.3, 0.5, 0.8])
def test_a_killed_up_stops_neither_down_nor_up(cluster: str, delay: float) -> None:
    for finish in (["down", "--cluster", cluster], ["up", "--cluster", cluster, "--hosts", "2"]):
        with subprocess.Popen(
            command("up", "--cluster", cluster, "--hosts", "2"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as program:
            time.sleep(delay)
            program.kill()
        hosts(*finish)
        if finish[0] == "down":
            assert left_overs(cluster) == {}
    assert [on(cluster, host, "hostname") for host in ("core-01", "core-02")] == ["core-01\n", "core-02\n"]


def test_two_at_once_take_turns(cluster: str) -> None:
    programs = [
        subprocess.Popen(command("up", "--cluster", cluster, "--hosts", str(count)), stderr=subprocess.PIPE, text=True)
        for count in (1, 2)
    ]
    for program in programs:
        _out, said = program.communicate(timeout=PATIENCE)
        assert program.returncode == 0, said
    uptimes = statuses(cluster)
    assert list(uptimes) == ["core-01", "core-02"]
    assert None not in uptimes.values()


def test_a_host_that_does_not_start_is_told_with_its_console(cluster: str) -> None:
    hosts("up", "--cluster", cluster, "--hosts", "1")
    hosts("stop", "--cluster", cluster, "core-01")
    upper = guest.DISKS / cluster / "core-01" / "upper"
    # Without an init, systemd-nspawn says so and ends.
    for name in ("usr/lib/systemd", "usr/sbin"):
        (upper / name).mkdir(parents=True, exist_ok=True)
    for name in ("usr/lib/systemd/systemd", "usr/sbin/init"):
        os.mknod(upper / name, 0o020000, os.makedev(0, 0))  # how an overlay marks a file as removed
    failed = hosts("start", "--cluster", cluster, "core-01", check=False)
    assert failed.returncode == 1
    assert "host core-01 ended while it started; the end of its console" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert statuses(cluster) == {"core-01": None}


def test_a_supervisor_that_was_killed_stops_neither_down_nor_up(cluster: str) -> None:
    """As by the kernel when memory runs out: it cannot remove its lock any more."""
    hosts("up", "--cluster", cluster, "--hosts", "1")
    place = guest.Place(cluster, "core-01")
    supervisor = guest.life(place).supervisor
    assert supervisor is not None
    guest.send_signal(supervisor, signal.SIGKILL)
    hosts("down", "--cluster", cluster)
    assert left_overs(cluster) == {}
    hosts("up", "--cluster", cluster, "--hosts", "1")
    assert on(cluster, "core-01", "hostname") == "core-01\n"
