# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docker from its own apt repository: a signed one that is made here, pinned, upgraded and brought back.

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

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="local hosts are made by root")

SUITE, OLD, NEW = "flotilla-test", "28.5.0", "28.5.1"
FOLDER, PORT = "/var/lib/repository", 8000
NAMES = ("docker-ce", "docker-ce-cli", "containerd.io")


class Served(Host):
    """The host, which serves a repository for itself."""

    fingerprint = ""
    stranger = ""

    def serve(self) -> None:
        script = Path(__file__).with_name("repository.sh").read_text()
        said = self.says(
            f"cat >/root/repository.sh <<'END'\n{script}END\nsh /root/repository.sh {FOLDER} {SUITE} stable {OLD} {NEW}"
        )
        self.fingerprint, self.stranger = said.split()[-2:]
        for name in ("key", "stranger"):
            (self.folder / f"{name}.asc").write_text(self.on(self.hosts[0], f"cat {FOLDER}/{name}.asc"))
        self.says(
            "systemd-run --quiet --unit=repository python3 -m http.server"
            f" --bind {self.addresses[0]} --directory {FOLDER}/www {PORT}"
        )

    def wanted(self, **more: Any) -> dict[str, Any]:
        """Variables of the role: the repository and its key."""
        return {
            "docker_repository_url": f"http://{self.addresses[0]}:{PORT}",
            "docker_repository_suite": SUITE,
            "docker_repository_key": str(self.folder / "key.asc"),
            "docker_repository_fingerprint": self.fingerprint,
            **more,
        }

    def versions(self) -> dict[str, str]:
        """Docker's packages that are installed, and their versions."""
        shown = self.says(
            f"dpkg-query -W -f '${{db:Status-Abbrev}} ${{Package}} ${{Version}}\\n' {' '.join(NAMES)} 2>/dev/null || :"
        )
        return {line.split()[1]: line.split()[2] for line in shown.splitlines() if line.startswith("ii")}

    def daemon(self) -> str:
        return self.says("systemctl show --property=MainPID --value docker.service")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("host"), os.environ.get("DOCKER_CLUSTER", "engine"), "dr-")
    try:
        made.up()
        made.serve()
        yield made
    finally:
        made.down()


def test_a_key_that_is_not_the_one_expected_is_refused(host: Served) -> None:
    said = words(host.docker(fails=True, **host.wanted(docker_repository_fingerprint=host.stranger)))
    assert f"docker_repository_key holds {host.fingerprint}, not just {host.stranger}" in said
    assert host.says("ls /etc/apt/sources.list.d /etc/apt/keyrings 2>/dev/null | grep -c flotilla || :") == "0"


def test_what_somebody_else_has_signed_is_not_installed(host: Served) -> None:
    strange = {
        "docker_repository_key": str(host.folder / "stranger.asc"),
        "docker_repository_fingerprint": host.stranger,
    }
    said = words(host.docker(fails=True, **host.wanted(**strange)))
    assert f"cannot be had from http://{host.addresses[0]}:{PORT}" in said
    assert host.versions() == {}


def test_the_version_asked_for_is_installed_and_stays(host: Served) -> None:
    wanted = host.wanted(docker_version=OLD, docker_containerd_version="1.7.28")
    told = host.docker(more=["--check"], **wanted)
    assert "apt would install" in told
    assert host.versions() == {}
    host.docker(**wanted)
    docker = f"5:{OLD}-1~debian"
    assert host.versions() == {"docker-ce": docker, "docker-ce-cli": docker, "containerd.io": "1.7.28-1~debian"}
    assert host.says("docker run --rm flotilla/busybox:1 /bin/echo works") == "works"
    assert unchanged(host.docker(**wanted))
    # a newer one is there, and nothing of what the distribution has as well is ever taken from here
    assert NEW in host.says("apt-cache madison docker-ce")
    assert "docker-ce" not in host.says("apt-get --simulate upgrade | grep ^Inst || :")
    assert "99:1-1" in host.says("apt-cache madison busybox-static")
    assert "99:1-1" not in host.says("apt-cache policy busybox-static | grep Candidate")


def test_an_upgrade_restarts_docker_and_no_container_and_goes_back_as_well(host: Served) -> None:
    host.says("docker run --detach --name lasting flotilla/busybox:1 sleep 3000")
    pid = "docker inspect --format '{{.State.Pid}} {{.State.Running}}' lasting"
    before, daemon = host.says(pid), host.daemon()
    for version in (NEW, OLD):
        host.docker(**host.wanted(docker_version=version))
        assert host.versions()["docker-ce"] == f"5:{version}-1~debian"
        assert host.says(pid) == before
        assert host.daemon() != daemon
        daemon = host.daemon()
    assert unchanged(host.docker(**host.wanted(docker_version=OLD)))
    host.says("docker rm --force lasting")


def test_a_version_that_is_not_there_says_so(host: Served) -> None:
    said = words(host.docker(fails=True, **host.wanted(docker_version="29.9.9")))
    assert "version 29.9.9): it has no such version" in said
    assert host.versions()["docker-ce"] == f"5:{OLD}-1~debian"


def test_the_distributions_docker_does_not_take_its_place(host: Served) -> None:
    said = words(host.docker(fails=True))
    assert "the package docker-ce is installed, and the engine that is asked for would replace it" in said
    assert host.versions()["docker-ce"] == f"5:{OLD}-1~debian"
