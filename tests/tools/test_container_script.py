# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The script that a unit runs to have a container (roles/docker/files/container.sh), with a docker that is played."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "roles/docker/files/container.sh"

# Answers of each subcommand, one a call, are lines "STATUS TEXT" in a file of its name; the last one stays.
DOCKER = """#!/bin/sh
echo "$*" >>{root}/calls
answers={root}/$1
[ -f "$answers" ] || exit 0
line=$(head -n 1 "$answers")
[ "$(wc -l <"$answers")" -le 1 ] || sed -i 1d "$answers"
status=${{line%% *}} text=${{line#* }}
if [ "$status" = 0 ]; then echo "$text"; else echo "$text" >&2; fi
exit "$status"
"""
NOTIFY = """#!/bin/sh
echo "systemd-notify $*" >>{root}/calls
"""


class Docker:
    def __init__(self, root: Path) -> None:
        self.root = root
        for name, text in (("docker", DOCKER), ("systemd-notify", NOTIFY), ("sleep", "#!/bin/sh\n")):
            program = root / "bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(text.format(root=root))
            program.chmod(0o755)

    def answers(self, subcommand: str, *lines: str) -> None:
        (self.root / subcommand).write_text("".join(f"{line}\n" for line in lines))

    def run(self, *words: str) -> tuple[int, list[str], str]:
        """Exit code, what was called, and what was said on standard error."""
        environment = {**os.environ, "PATH": f"{self.root}/bin:{os.environ['PATH']}"}
        done = subprocess.run(
            ["sh", str(SCRIPT), *words], capture_output=True, text=True, env=environment, timeout=30, check=False
        )
        calls = [line for line in (self.root / "calls").read_text().splitlines() if not line.startswith("inspect")]
        return done.returncode, calls, done.stderr


@pytest.fixture
def docker(tmp_path: Path) -> Docker:
    return Docker(tmp_path)


def test_a_container_that_starts_and_ends(docker: Docker) -> None:
    docker.answers("inspect", "0 running 0 ", "0 exited 3 ")
    status, calls, said = docker.run("web-1", "started", "--publish=80:80", "image", "two words")
    assert status == 3
    assert calls == [
        "run --detach --name web-1 --publish=80:80 image two words",
        "systemd-notify --ready --status=container is started",
        "logs --follow --since 0 web-1",
    ]
    assert said == "container web-1: ended with 3\n"


def test_a_container_that_a_crash_has_left_is_replaced(docker: Docker) -> None:
    conflict = '125 docker: Error response from daemon: Conflict. The container name "/web-1" is already in use'
    docker.answers("run", conflict, "0 id")
    docker.answers("inspect", "0 running 0 ", "0 exited 0 ")
    status, calls, _said = docker.run("web-1", "started", "image")
    assert status == 0
    assert calls[:3] == ["run --detach --name web-1 image", "rm --force web-1", "run --detach --name web-1 image"]


def test_what_docker_refuses_is_told_and_nothing_removed(docker: Docker) -> None:
    docker.answers("run", "125 docker: no such image")
    status, calls, said = docker.run("web-1", "started", "image")
    assert (status, len(calls)) == (1, 1)
    assert said == "docker: no such image\n"


def test_it_is_ready_when_it_is_healthy(docker: Docker) -> None:
    docker.answers(
        "inspect",
        "0 running 0 starting",
        "0 running 0 starting",
        "0 running 0 healthy",
        "0 running 0 healthy",
        "0 exited 0 ",
    )
    status, calls, _said = docker.run("web-1", "healthy", "image")
    assert status == 0
    assert calls[1] == "systemd-notify --ready --status=container is healthy"
    inspections = (docker.root / "calls").read_text().count("inspect")
    assert inspections == 5


def test_one_that_does_not_get_healthy_fails_with_what_its_check_said(docker: Docker) -> None:
    docker.answers("inspect", "0 running 0 starting", "0 running 0 unhealthy", "0 1 connection refused")
    status, calls, said = docker.run("web-1", "healthy", "image")
    assert status == 1
    assert not any("notify" in call for call in calls)
    assert said.splitlines() == ["container web-1: is not healthy; its last check said:", "1 connection refused"]


def test_one_that_ends_before_it_is_healthy_is_not_ready(docker: Docker) -> None:
    docker.answers("inspect", "0 running 0 starting", "0 exited 1 unhealthy")
    status, calls, _said = docker.run("web-1", "healthy", "image")
    assert status == 1
    assert not any("notify" in call for call in calls)


def test_a_restart_of_docker_ends_nothing(docker: Docker) -> None:
    away = "1 Cannot connect to the Docker daemon"
    docker.answers("inspect", "0 running 0 ", away, away, "0 running 0 ", "0 exited 0 ")
    docker.answers("logs", "1 unexpected EOF", "0 ")
    begun = int(time.time())
    status, calls, _said = docker.run("web-1", "started", "image")
    assert status == 0
    first, second = [call.split() for call in calls if call.startswith("logs")]
    assert first[3] == "0"
    assert begun <= int(second[3]) <= time.time()


def test_a_container_that_somebody_removed_is_an_end(docker: Docker) -> None:
    docker.answers("inspect", "0 running 0 ", "1 Error: No such object: web-1")
    status, _calls, said = docker.run("web-1", "started", "image")
    assert status == 1
    assert "ended with 1" in said
