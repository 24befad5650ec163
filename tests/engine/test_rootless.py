# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docker without root's powers: what it needs is said, units run with it as they are, and it comes back.

Part of make test-docker, as root. The tests build on each other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daytwo.lab import unchanged, words
from engine.lab import Host
from support.deployed import get, wait

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="local hosts are made by root")

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "flotilla/busybox:1"
# Where all users may enter, on a file system that takes layers.
DATA = "/var/lib/docker/without-root"

# What a host that is a container itself lacks: the kernel lets only those mount a process tree who see a whole one, and
# udev would have opened the device to all.
PREPARE = f"""
cat >/etc/systemd/system/run-proc.mount <<'END'
[Mount]
What=proc
Where=/run/proc
Type=proc
[Install]
WantedBy=local-fs.target
END
echo 'z /dev/net/tun 0666' >/etc/tmpfiles.d/tun.conf
systemd-tmpfiles --create tun.conf
systemctl enable --quiet --now run-proc.mount
useradd --system bare
useradd --create-home containers
chmod 0711 /var/lib/docker
install -d -o containers -g containers -m 0711 {DATA}
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    made = Host(tmp_path_factory.mktemp("host"), os.environ.get("DOCKER_CLUSTER", "engine"), "dl-")
    try:
        made.up()
        made.says(PREPARE)
        yield made
    finally:
        made.down()


def rootless(host: Host, *, fails: bool = False, user: str = "containers", **more: Any) -> str:
    return host.docker(fails=fails, docker_rootless_user=user, docker_daemon={"data-root": DATA}, **more)


def owners(host: Host) -> str:
    """The users that run dockerd."""
    return host.says("ps -o user= -C dockerd | sort -u")


@pytest.mark.parametrize(
    ("user", "sentence"),
    [
        ("nobody-here", "there is no such user on this host; make it with: useradd --create-home nobody-here"),
        ("bare", "its home /home/bare, where images and containers are to be, does not exist"),
        ("root", "docker_rootless_user is root; name another user"),
    ],
)
def test_who_cannot_run_it_is_refused_before_anything_is_written(host: Host, user: str, sentence: str) -> None:
    assert sentence in words(rootless(host, fails=True, user=user))
    assert host.says("ls /etc/docker/daemon.json 2>/dev/null || echo none") == "none"


def test_a_user_without_ids_is_told_how_to_get_them(host: Host) -> None:
    host.says("mkdir /home/bare && chown bare: /home/bare")
    said = words(rootless(host, fails=True, user="bare"))
    assert "it has fewer than 65536 ids in /etc/subuid" in said
    assert "usermod --add-subuids 100000-165535 bare" in said


def test_what_does_not_go_together_is_refused(host: Host) -> None:
    assert "docker_listen is, too" in words(rootless(host, fails=True, docker_listen="127.0.0.1:2376"))
    assert "docker_engine is podman" in words(rootless(host, fails=True, docker_engine="podman"))


def test_the_user_runs_it_and_root_uses_it(host: Host) -> None:
    rootless(host)
    assert owners(host) == "containers"
    assert "rootless" in host.says("docker info --format '{{.SecurityOptions}}'")
    assert host.says("docker info --format '{{.DockerRootDir}} {{.Driver}}'") == f"{DATA} overlay2"
    assert host.says(f"docker run --rm {IMAGE} /bin/echo works") == "works"
    # root in a container is nobody of importance outside
    host.says(f"docker run --detach --name asleep {IMAGE} sleep 1000")
    assert host.says("ps -o user= -p $(docker inspect --format '{{.State.Pid}}' asleep)") == "containers"
    host.says("docker rm --force asleep")
    assert host.says("stat -L -c '%U %a' /run/flotilla-docker; systemctl is-active docker.socket || :").split() == [
        "containers",
        "700",
        "inactive",
    ]
    assert unchanged(rootless(host))
    assert unchanged(rootless(host, more=["--check"]))


def test_units_run_with_it_as_they_are(host: Host) -> None:
    unit = (ROOT / "examples/units/hello.service").read_text()
    host.says(f"cat >/run/systemd/system/hello.service <<'END'\n{unit}END\nsystemctl daemon-reload")
    host.says("systemctl start hello.service")
    wait("an answer", 15, lambda: get(host.addresses[0], 8080) == f"Hello from {host.hosts[0]}")
    host.says("systemctl stop hello.service")
    # what units of role service run
    host.says(
        "systemd-run --quiet --unit=copy --property=Type=notify --property=NotifyAccess=all"
        " --property='ExecStopPost=-/usr/bin/docker rm --force copy'"
        f" /usr/lib/flotilla/container copy started {IMAGE} sleep 1000"
    )
    assert host.says("docker ps --format '{{.Names}}'") == "copy"
    host.says("systemctl stop copy.service")
    assert host.says("docker ps --all --quiet") == ""


def test_a_new_configuration_restarts_it(host: Host) -> None:
    before = host.says("pidof dockerd")
    rootless(host, docker_log_max_size="7m")
    assert host.says("pidof dockerd") != before
    assert owners(host) == "containers"
    assert unchanged(rootless(host, docker_log_max_size="7m"))


def test_it_comes_back(host: Host) -> None:
    answers = "docker version --format '{{.Server.Version}}' 2>/dev/null || :"
    before = host.says("pidof dockerd")
    host.says(f"kill -KILL {before}")
    wait("another dockerd", 30, lambda: host.says(answers) and host.says("pidof dockerd") != before)
    host.tool("stop", "--cluster", host.cluster, host.hosts[0])
    host.tool("start", "--cluster", host.cluster, host.hosts[0])
    wait("docker after a reboot", 60, lambda: host.says(answers))
    assert owners(host) == "containers"
    assert unchanged(rootless(host, docker_log_max_size="7m"))
