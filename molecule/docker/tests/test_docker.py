# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docker with all that the roles have beside the defaults: who gets in, what comes from where, what lives on."""

from __future__ import annotations

import importlib.util
import json
import socket
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from support.cluster_access import SECONDS, Files, Machine, ask, fetch

HERE = Path(__file__).resolve().parent
IMAGE, GREETING = "flotilla/busybox:1", "molecule/greeting:1"
GUARDED = (2376, 2379, 2380)
TRY = """
import socket, sys
for port in sys.argv[2:]:
    try:
        socket.create_connection((sys.argv[1], int(port)), timeout=5).close()
        print(port, "open")
    except ConnectionRefusedError:
        print(port, "refused")
"""
specification = importlib.util.spec_from_file_location("bench", HERE / "bench.py")
assert specification is not None
assert specification.loader is not None
bench = importlib.util.module_from_spec(specification)
specification.loader.exec_module(bench)


@pytest.fixture(scope="session")
def docker_client(machines: list[Machine], tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The certificate with which one may use docker's port."""
    names = ["docker-ca.crt", "docker-client.crt", "docker-client.key"]
    return Files(*fetch(machines[0], names, tmp_path_factory.mktemp("docker")))


# --- findings -------------------------------------------------------------------------------------------------


def test_findings_are_those_of_the_baseline(machines: list[Machine]) -> None:
    for machine in machines:
        found = bench.findings(json.loads(machine.host.check_output("python3 -c %s", bench.FACTS)))
        assert bench.differences(found, (HERE.parent / "baseline.json").read_text()) == [], machine.name


@pytest.mark.parametrize(
    ("change", "number"),
    [
        ({"daemon": {"icc": True}}, "2.2"),
        ({"daemon": {"live-restore": False}, "info": {"LiveRestoreEnabled": False}}, "2.15"),
        ({"daemon": {"no-new-privileges": False}}, "2.14"),
        ({"daemon": {"tlsverify": False}}, "2.7"),
        ({"members": ["somebody"]}, "1.1.2"),
        ({"files": {"/run/docker.sock": ["root", "docker", "666"]}}, "3.15"),
        ({"files": {"/etc/docker/daemon.json": ["nobody", "root", "644"]}}, "3.17"),
        ({"files": {"/etc/flotilla/pki/docker-server.key": ["root", "root", "440"]}}, "3.13"),
    ],
)
def test_what_is_worse_than_the_baseline_is_found(
    machines: list[Machine], change: dict[str, object], number: str
) -> None:
    facts = json.loads(machines[0].host.check_output("python3 -c %s", bench.FACTS))
    for key, value in change.items():
        facts[key] = {**facts[key], **value} if isinstance(value, dict) else value
    (sentence,) = bench.differences(bench.findings(facts), (HERE.parent / "baseline.json").read_text())
    assert sentence.startswith(f"not followed: {number} ")


# --- who gets in ----------------------------------------------------------------------------------------------


def test_dockers_port_is_for_holders_of_the_right_certificate(machines: list[Machine], docker_client: Files) -> None:
    for machine in machines:
        assert ask(machine.address, 2376, "/version", docker_client)["ApiVersion"], machine.name
        with pytest.raises(OSError, match=r"(?i)alert|closed|reset|EOF"):
            ask(machine.address, 2376, "/version", replace(docker_client, certificate=None, key=None))


def test_another_authoritys_certificate_and_a_servers_open_nothing(
    machines: list[Machine], docker_client: Files, tmp_path: Path
) -> None:
    for pair in ("etcd-client", "docker-server"):
        files = Files(docker_client.authority, *fetch(machines[0], [f"{pair}.crt", f"{pair}.key"], tmp_path))
        with pytest.raises(OSError, match=r"(?i)alert|closed|reset|EOF"):
            ask(machines[0].address, 2376, "/version", files)


def test_http_without_tls_gets_nothing(machines: list[Machine]) -> None:
    with pytest.raises(OSError, match="400"):
        urllib.request.urlopen(f"http://{machines[0].address}:2376/version", timeout=SECONDS)


def reach(source: Machine, target: Machine) -> dict[int, str]:
    """What becomes of connections from one host to guarded ports of another."""
    arguments = " ".join(map(str, (*GUARDED, 22)))
    said = source.host.check_output(f"python3 -c %s %s {arguments}", TRY, target.address)
    return {int(line.split()[0]): line.split()[1] for line in said.splitlines()}


def test_the_firewall_knows_its_own(machines: list[Machine], stranger: Machine) -> None:
    """Also when docker has started anew and written all its rules again."""
    machines[0].host.check_output("systemctl restart docker.service")
    for machine in machines:
        refused = {**dict.fromkeys(GUARDED, "refused"), 22: "open"}
        assert reach(stranger, machine) == refused, machine.name
        assert reach(machines[1], machine) == dict.fromkeys((*GUARDED, 22), "open"), machine.name
        for port in GUARDED:
            socket.create_connection((machine.address, port), timeout=SECONDS).close()


def test_published_ports_are_none_of_the_firewalls_business(machines: list[Machine], stranger: Machine) -> None:
    host = machines[0].host
    host.check_output(f"docker run --detach --name page --publish 8088:8080 {IMAGE} httpd -f -p 8080 -h /etc")
    try:
        code = f"import urllib.request as u; print(u.urlopen('http://{machines[0].address}:8088/passwd').read())"
        assert "root:x:0" in stranger.host.check_output("python3 -c %s", code)
    finally:
        host.check_output("docker rm --force page")


# --- what lives on --------------------------------------------------------------------------------------------


def test_a_container_lives_on_while_docker_restarts(machines: list[Machine]) -> None:
    host = machines[1].host
    host.check_output(f"docker run --detach --name lasting {IMAGE} sleep 600")
    try:
        before = host.check_output("docker inspect --format '{{.State.Pid}}' lasting")
        host.check_output("systemctl restart docker.service")
        assert (
            host.check_output("docker inspect --format '{{.State.Pid}} {{.State.Running}}' lasting") == f"{before} true"
        )
    finally:
        host.check_output("docker rm --force lasting")


def test_daemon_json_is_made_of_variables_and_the_users_own_file(machines: list[Machine]) -> None:
    daemon = json.loads(machines[0].host.file("/etc/docker/daemon.json").content_string)
    assert daemon["max-concurrent-downloads"] == 4
    assert daemon["log-opts"] == {"max-size": "5m", "max-file": "3"}
    assert daemon["bip"] == "10.201.0.1/24"
    made = machines[0].host.check_output(
        "docker network create probe >/dev/null;"
        " docker network inspect --format '{{(index .IPAM.Config 0).Subnet}}' probe;"
        " docker network rm probe >/dev/null"
    )
    assert made.startswith("10.200.")


# --- what comes from where ------------------------------------------------------------------------------------


def test_the_archives_image_is_everywhere(machines: list[Machine], stranger: Machine) -> None:
    ids = {
        host.check_output(f"docker image inspect --format '{{{{.Id}}}}' {GREETING}").removeprefix("sha256:")
        for host in (machine.host for machine in (*machines, stranger))
    }
    assert len(ids) == 1
    said = machines[0].host.check_output(
        f"id=$(docker create {GREETING}); docker cp $id:/greeting - | tar --extract --to-stdout;"
        " docker rm $id >/dev/null"
    )
    assert said.strip() == "hello from an archive"


def test_an_image_goes_through_the_registry_of_the_cluster(machines: list[Machine]) -> None:
    registry = f"{machines[0].address}:5000"
    name = f"{registry}/molecule/page:1"
    machines[0].host.check_output(f"docker tag {IMAGE} {name} && docker push --quiet {name}")
    # as a unit does it, whose environment is empty
    machines[1].host.check_output(f"systemd-run --wait --quiet /usr/bin/docker pull --quiet {name}")
    assert machines[1].host.check_output(f"docker run --rm {name} /bin/echo pulled") == "pulled"
    refused = machines[2].host.run(f"DOCKER_CONFIG=/nowhere docker pull {name}")
    assert refused.rc != 0
    assert "no basic auth credentials" in refused.stderr
    for machine in machines:
        config = machine.host.file("/root/.docker/config.json")
        assert (config.user, config.mode) == ("root", 0o600)


# --- podman ---------------------------------------------------------------------------------------------------


def test_an_example_unit_runs_with_podman(stranger: Machine) -> None:
    unit = (HERE.parents[2] / "examples/units/hello.service").read_text()
    host = stranger.host
    host.check_output("printf %%s %s > /run/systemd/system/hello.service && systemctl daemon-reload", unit)
    host.check_output("systemctl start hello.service")
    try:
        code = (
            "import time, urllib.request as u\n"
            "for i in range(50):\n"
            "    try: print(u.urlopen('http://127.0.0.1:8080/').read().decode()); break\n"
            "    except OSError: time.sleep(0.2)\n"
        )
        assert host.check_output("python3 -c %s", code).strip() == f"Hello from {stranger.name}"
        assert "podman" in host.check_output("docker --version")
    finally:
        host.check_output("systemctl stop hello.service")
    assert host.check_output("docker ps --all --quiet") == ""
