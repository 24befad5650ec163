# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each example is told beforehand, deployed, found to work, unchanged by a second run, and removed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.deployed import EXAMPLES, Cluster, get, wait


def shows_a_page(cluster: Cluster) -> None:
    (machine,) = cluster.active("greeting@1.service")
    assert get(machine.address, 8090) == f"Hello from {machine.name}"


def shows_three_pages(cluster: Cluster) -> None:
    texts = {get(machine.address, 8091) for machine in cluster.machines}
    copies = {f"Copy {number} on {cluster.active(f'pages@{number}.service')[0].name}" for number in (1, 2, 3)}
    assert texts == copies


def ships_lines(cluster: Cluster) -> None:
    assert len(cluster.active("shipper.service")) == len(cluster.machines)
    for machine in cluster.machines:
        # the shipper passes on what is written after it has begun to look
        ship = f"echo a line of {machine.name} >>/var/log/dpkg.log; grep -q {machine.name} /var/lib/shipped/all"
        wait("a line in the shipper's file", 15, lambda here=machine, words=ship: here.host.run(words).rc == 0)


def runs_again_and_again(cluster: Cluster) -> None:
    (machine,) = cluster.active("cleanup.timer")

    def runs() -> int:
        return len(machine.host.file("/var/lib/cleanup/runs").content_string.splitlines())

    before = wait("the first run", 15, runs)
    wait("another run", 15, lambda: runs() > before)
    assert not any(
        other.host.file("/var/lib/cleanup/runs").exists for other in cluster.machines if other is not machine
    )


def keeps_its_data(cluster: Cluster) -> None:
    (machine,) = cluster.active("counter@1.service")
    starts = "docker run --rm --volume=counter:/data flotilla/busybox:1 wc -l /data/starts"
    before = int(machine.host.check_output(starts).split()[0])
    cluster.ctl("restart counter@1", machine)
    wait("one start more", 20, lambda: int(machine.host.check_output(starts).split()[0]) == before + 1)
    assert [found.name for found in cluster.active("counter@1.service")] == [machine.name]


def shows_its_version(cluster: Cluster) -> None:
    assert [get(machine.address, 8092) for machine in cluster.machines] == ["Version 1"] * 3


def answers_everywhere(cluster: Cluster) -> None:
    texts = {f"Copy {number} on {cluster.active(f'site@{number}.service')[0].name}" for number in (1, 2, 3)}
    for machine in cluster.machines:
        found: set[str] = set()
        wait(
            f"all copies through {machine.name}",
            15,
            lambda here=machine, seen=found: seen.add(get(here.address, 8088)) or seen == texts,
        )


# by the example's name; behind a space what tells one run of it from another
EXAMPLES_AND_WORDS = {
    "hello": (shows_a_page, ()),
    "replicated": (shows_three_pages, ()),
    "logs": (ships_lines, ()),
    "job": (runs_again_and_again, ("-e", "at='*:*:0/2'")),
    "stateful": (keeps_its_data, ()),
    "rolling": (shows_its_version, ()),
    "proxy": (answers_everywhere, ()),
    "proxy nginx": (answers_everywhere, ("-e", "program=nginx")),
}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yml")), ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 40


@pytest.mark.parametrize("example", EXAMPLES_AND_WORDS)
def test_an_example_comes_and_goes(cluster: Cluster, example: str) -> None:
    works, words = EXAMPLES_AND_WORDS[example]
    example = example.split()[0]
    before, containers = cluster.unit_files(), cluster.containers()
    told = cluster.play(example, "--check", "--diff", *words)
    assert told.changed >= 1
    assert "+ExecStart=" in told.output
    assert cluster.unit_files() == before
    assert cluster.play(example, *words).changed >= 1
    works(cluster)
    again = cluster.play(example, *words)
    assert again.changed == 0, again.output
    assert cluster.play(example, "--check", *words).changed == 0
    assert cluster.play(example, "-e", "gone=true").changed >= 1
    assert cluster.unit_files() == before
    assert cluster.containers() == containers


def test_an_update_goes_from_copy_to_copy_and_back_when_it_fails(cluster: Cluster) -> None:
    cluster.play("rolling")
    addresses = [machine.address for machine in cluster.machines]
    told = cluster.play("rolling", "--check", "--diff", "-e", "version=2")
    assert "Version 2" in told.output
    assert shown(addresses) == ["Version 1"] * 3
    with Asked(addresses, 8092) as asked:
        cluster.play("rolling", "-e", "version=2")
    assert shown(addresses) == ["Version 2"] * 3
    # never more than one of the three is away
    assert asked.most_down <= 1
    failed = cluster.play("rolling", "-e", "version=3", "-e", "page=/missing", "fails")
    assert failed.code != 0
    assert "The units are what they were before." in failed.output
    assert shown(addresses) == ["Version 2"] * 3
    assert cluster.play("rolling", "-e", "version=2").changed == 0
    cluster.play("rolling", "-e", "gone=true")


def shown(addresses: list[str]) -> list[str]:
    return [wait(f"an answer of {address}", 10, lambda here=address: get(here, 8092)) for address in addresses]


class Asked:
    """Asks addresses all the time, for how many of them were down at one time."""

    def __init__(self, addresses: list[str], port: int) -> None:
        self.most_down = 0
        self._addresses = addresses
        self._port = port
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        while not self._end.wait(0.1):
            self.most_down = max(self.most_down, len(self._addresses) - len(list(self._up())))

    def _up(self) -> Iterator[str]:
        for address in self._addresses:
            try:
                yield get(address, self._port, 2)
            except OSError:
                continue

    def __enter__(self) -> Asked:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._end.set()
        self._thread.join()


def test_a_service_with_data_waits_for_its_machine(cluster: Cluster) -> None:
    cluster.play("stateful")
    (machine,) = cluster.active("counter@1.service")
    others = [other for other in cluster.machines if other is not machine]
    cluster.hosts("kill", machine.name)
    try:
        wait(
            "fleet without the machine",
            60,
            lambda: len(cluster.ctl("list-machines --no-legend", others[0]).splitlines()) == 2,
        )
        time.sleep(5)
        assert cluster.active("counter@1.service", others[0]) == []
        assert cluster.id_of(machine)[:8] in cluster.ctl(
            "list-unit-files --no-legend --fields=unit,target,reason", others[0]
        )
    finally:
        cluster.hosts("start", machine.name)
    wait("the service where it was", 60, lambda: cluster.active("counter@1.service", others[0]) == [machine])
    cluster.play("stateful", "-e", "gone=true")


class Client:
    """Asks a proxy every 100 ms, whatever becomes of the questions before; an answer has two seconds."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.answers: list[tuple[float, str]] = []
        self.failures: list[tuple[float, str]] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._asking: list[threading.Thread] = []

    def _run(self) -> None:
        due = time.monotonic()
        while not self._end.is_set():
            thread = threading.Thread(target=self._ask)
            thread.start()
            self._asking.append(thread)
            due += 0.1
            time.sleep(max(0.0, due - time.monotonic()))

    def _ask(self) -> None:
        begun = time.monotonic()
        try:
            self.answers.append((begun, get(self.address, 8088, 2)))
        except OSError as exc:
            self.failures.append((begun, str(exc)))

    def __enter__(self) -> Client:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._end.set()
        self._thread.join()
        for thread in self._asking:
            thread.join()


@pytest.mark.parametrize("program", ["nginx", "haproxy"])
def test_a_client_of_the_proxy_hardly_sees_that_a_machine_is_lost(cluster: Cluster, program: str) -> None:
    cluster.play("proxy", "-e", f"program={program}")
    answers_everywhere(cluster)
    asked, victim = cluster.machines[0], cluster.machines[1]
    with Client(asked.address) as client:
        time.sleep(2)
        killed = time.monotonic()
        cluster.hosts("kill", victim.name)
        wait("one copy less in what is announced", 30, lambda: announced(cluster) == 2)
        seconds = time.monotonic() - killed
        time.sleep(3)
    before = [text for begun, text in client.answers if begun < killed]
    after = [text for begun, text in client.answers if begun > killed + seconds]
    assert any(text.endswith(f"on {victim.name}") for text in before)
    assert after
    assert not any(text.endswith(f"on {victim.name}") for text in after)
    assert len(client.answers) > 40
    assert len(client.failures) <= 2, client.failures
    print(f"{len(client.answers)} answers, {len(client.failures)} failures, withdrawn after {seconds:.1f} s")
    cluster.hosts("start", victim.name)
    wait("the copy announced again", 60, lambda: announced(cluster) == 3)
    answers_everywhere(cluster)


def announced(cluster: Cluster) -> int:
    return len(cluster.ctl("list-announced --no-legend").splitlines())


def test_a_copy_that_turns_sick_or_is_stopped_is_asked_no_more(cluster: Cluster) -> None:
    cluster.play("proxy")
    wait("all copies announced", 30, lambda: announced(cluster) == 3)
    (machine,) = cluster.active("site@1.service")
    # the server lives on and answers with nothing but 404
    machine.host.check_output("docker exec site-1 rm /www/index.html")
    wait("one copy less, being sick", 20, lambda: announced(cluster) == 2)
    machine.host.check_output("systemctl restart site@1.service")
    wait("all copies again", 30, lambda: announced(cluster) == 3)
    begun = time.monotonic()
    cluster.ctl("stop site@2")
    assert announced(cluster) == 2
    assert time.monotonic() - begun < 15
    cluster.ctl("start site@2")
    wait("all copies again", 30, lambda: announced(cluster) == 3)


def test_without_etcd_the_proxy_goes_on(cluster: Cluster) -> None:
    """Continues with what the test before has left."""
    machine = cluster.machines[0]
    config = "/run/flotilla-proxy-front/haproxy.cfg"
    before = machine.host.file(config).content_string
    assert before.count("server site-") == 3
    for member in cluster.machines[1:]:
        member.host.check_output("systemctl stop etcd")
    try:
        time.sleep(8)
        assert machine.host.file(config).content_string == before
        assert get(machine.address, 8088).startswith("Copy ")
        machine.host.check_output("systemctl restart front.service")
        wait("an answer of a proxy that was started without etcd", 15, lambda: get(machine.address, 8088))
        assert machine.host.file(config).content_string == before
    finally:
        for member in cluster.machines[1:]:
            member.host.check_output("systemctl start etcd")
    wait("all copies announced", 30, lambda: announced(cluster) == 3)
    answers_everywhere(cluster)
    cluster.play("proxy", "-e", "gone=true")
