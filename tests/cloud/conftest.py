# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documents on real hosts, and read by the programs they are for: pytest tests/cloud, as root."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import ROOT, done

CLUSTER = "cloudtest"
PATIENCE = 300


def run(*argv: str, check: bool = True, **environment: str) -> str:
    """Run a program in the checkout; what it printed."""
    return done(*argv, timeout=PATIENCE, check=check, **environment)[0]


def hosts_py(*arguments: str, check: bool = True) -> str:
    return run(sys.executable, str(ROOT / "tools/hosts.py"), *arguments, check=check)


class Lab:
    """The hosts of one cluster."""

    def __init__(self, cluster: str, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.inventory = folder / "hosts.yml"

    def up(self, *arguments: str) -> None:
        hosts_py("up", "--cluster", self.cluster, "--inventory", str(self.inventory), *arguments)

    def run(self, host: str, script: str, check: bool = True) -> str:
        return hosts_py("ssh", "--cluster", self.cluster, host, script, check=check)

    def reboot(self, host: str) -> None:
        hosts_py("stop", "--cluster", self.cluster, host)
        hosts_py("start", "--cluster", self.cluster, host)

    def play(self, text: str, *arguments: str, check: bool = True) -> str:
        """Run a playbook; what ansible-playbook printed."""
        playbook = self.folder / "play.yml"
        playbook.write_text(text)
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        settings = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        return run(program, "-i", str(self.inventory), str(playbook), *arguments, check=check, **settings)

    def down(self) -> None:
        hosts_py("down", "--cluster", self.cluster, "--all")


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Hosts are made by the tests that need them, and removed at the end."""
    if os.geteuid() != 0:
        pytest.skip("local hosts are made by root")
    made = Lab(CLUSTER, tmp_path_factory.mktemp("lab"))
    try:
        yield made
    finally:
        made.down()
