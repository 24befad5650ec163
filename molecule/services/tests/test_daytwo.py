# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines drained, reported on and rebooted while services run on them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster_access import Machine
from support.deployed import Cluster, get, wait

UNIT = "greeting@1.service"


@pytest.fixture(scope="module", autouse=True)
def greeting(cluster: Cluster) -> Iterator[None]:
    cluster.play("hello")
    yield
    cluster.play("hello", "-e", "gone=true")


def place_of(cluster: Cluster, asked: Machine) -> Machine:
    (machine,) = wait("the service active", 60, lambda: cluster.active(UNIT, asked))
    return machine


def test_a_drained_machine_gets_nothing_until_it_is_used_again(cluster: Cluster) -> None:
    machine = place_of(cluster, cluster.machines[0])
    cluster.play("drain", "-e", f"drain_hosts={machine.name}")
    other = place_of(cluster, machine)
    assert other is not machine
    assert wait("an answer from there", 15, lambda: get(other.address, 8090)) == f"Hello from {other.name}"
    assert f"{cluster.id_of(machine)[:8]}...\t" in cluster.ctl("list-machines --no-legend")
    states = cluster.ctl("list-machines --no-legend --fields=ip,state").split()
    assert states[states.index(machine.address) + 1] == "draining"
    assert cluster.play("drain", "-e", f"drain_hosts={machine.name}").changed == 0
    cluster.play("undrain", "-e", f"drain_hosts={machine.name}")
    states = cluster.ctl("list-machines --no-legend --fields=ip,state").split()
    assert states[states.index(machine.address) + 1] == "ready"
    # what runs stays where it is
    assert place_of(cluster, machine) is other


def test_names_that_are_no_machines_are_refused(cluster: Cluster) -> None:
    refused = cluster.play("drain", "-e", "drain_hosts=nowhere", "fails")
    assert refused.code != 0
    assert "nowhere" in refused.output


def test_the_report_tells_of_machines_and_units(cluster: Cluster, tmp_path: Path) -> None:
    page = tmp_path / "status.html"
    told = cluster.play("status", "-e", f"status_html={page}")
    html = page.read_text()
    for text in (told.output, html):
        assert UNIT in text
        for machine in cluster.machines:
            assert machine.name in text
            assert cluster.id_of(machine)[:8] in text
    assert html.count('<div class="machine"') == len(cluster.machines)
    assert f">{UNIT}</span>" in html
    # one file: nothing is fetched from anywhere
    assert "src=" not in html
    assert "<link" not in html


class Watcher:
    """Asks all machines for the page, and notes for how long none had it."""

    def __init__(self, machines: list[Machine]) -> None:
        self.longest = 0.0
        self.answers = 0
        self._machines = machines
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        seen = time.monotonic()
        while not self._end.wait(0.2):
            for machine in self._machines:
                try:
                    get(machine.address, 8090, 1)
                except OSError:
                    continue
                self.answers += 1
                seen = time.monotonic()
                break
            self.longest = max(self.longest, time.monotonic() - seen)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._end.set()
        self._thread.join()


def boots(cluster: Cluster) -> list[str]:
    return [machine.host.check_output("cat /proc/sys/kernel/random/boot_id") for machine in cluster.machines]


def test_machines_reboot_one_at_a_time_and_the_service_goes_on(cluster: Cluster) -> None:
    before = boots(cluster)
    assert cluster.play("reboot").changed == 0
    assert boots(cluster) == before
    machine = cluster.machines[1]
    machine.host.check_output("touch /run/reboot-required")
    cluster.play("reboot")
    after = boots(cluster)
    assert [old != new for old, new in zip(before, after, strict=True)] == [False, True, False]
    with Watcher(cluster.machines) as watcher:
        cluster.play("reboot", "-e", "reboot_always=true")
    assert all(old != new for old, new in zip(after, boots(cluster), strict=True))
    assert watcher.answers > 20
    print(f"{watcher.answers} answers, away for {watcher.longest:.1f} s at most")
    # moved before its machine goes, not lost with it: what it takes to stop a container and to start another
    assert watcher.longest < 30
    assert "draining" not in cluster.ctl("list-machines --no-legend --fields=ip,state")
    place_of(cluster, cluster.machines[0])
