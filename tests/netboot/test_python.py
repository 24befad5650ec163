# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host without Python gets one over Ansible's connection, with no internet of its own. make test-netboot."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import ROOT, done

CLUSTER, HOST = "nbpy", "nbpy-01"
PLAY = """
- hosts: nbpy-01
  gather_facts: false
  tasks:
    - ansible.builtin.import_role:
        name: flotilla.cluster.bootstrap
        tasks_from: python
    - ansible.builtin.setup:
        gather_subset: ["!all", python]
      when: not ansible_check_mode
    - ansible.builtin.debug:
        msg: "ran on {{ ansible_facts.python.executable | default('nothing') }}"
    - flotilla.cluster.host_info:
      when: not ansible_check_mode
"""


def run(*argv: str, check: bool = True, timeout: float = 300) -> str:
    quiet = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    return "".join(done(*argv, timeout=timeout, check=check, **quiet))


def hosts_py(*arguments: str, check: bool = True) -> str:
    return run(sys.executable, "tools/hosts.py", *arguments, check=check)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A host whose Python is gone, and which reaches no network but the machine's."""
    if os.geteuid() != 0:
        pytest.skip("local hosts are made by root")
    made = tmp_path_factory.mktemp("python")
    try:
        hosts_py("up", "--cluster", CLUSTER, "--prefix=nbpy-", "--hosts=1", f"--inventory={made}/hosts.yml")
        text = (made / "hosts.yml").read_text()
        (made / "hosts.yml").write_text(re.sub(r"(?m)^ *ansible_python_interpreter:.*\n", "", text))
        script = "rm -f /usr/bin/python3* && ip route del default && ! command -v python3"
        hosts_py("ssh", "--cluster", CLUSTER, HOST, script)
        (made / "play.yml").write_text(PLAY)
        yield made
    finally:
        hosts_py("down", "--cluster", CLUSTER, "--all")


def play(folder: Path, *arguments: str, check: bool = True) -> str:
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    return run(program, "-i", str(folder / "hosts.yml"), str(folder / "play.yml"), *arguments, check=check)


def changed(said: str) -> int:
    found = re.search(rf"(?m)^{HOST} +: ok=\d+ +changed=(\d+)", said)
    assert found, said
    return int(found[1])


def test_modules_run_where_there_was_no_python(folder: Path) -> None:
    archive = folder / "python.tar.gz"
    sha256 = run(sys.executable, "tools/python_archive.py", str(archive)).split()[-1]
    given = [
        *("-e", f"bootstrap_python_release_url={archive}"),
        *("-e", f"bootstrap_python_release_sha256={sha256}"),
    ]
    refused = play(folder, check=False)
    assert "the host has no Python 3.9 or newer (it has none): install one, or give an archive with one" in refused
    assert changed(play(folder, "--check", *given)) == 1
    said = play(folder, *given)
    assert changed(said) == 1
    assert "ran on /opt/flotilla/python/current/bin/python3" in said
    again = play(folder, *given)
    assert changed(again) == 0
    assert "ran on /opt/flotilla/python/current/bin/python3" in again
    script = "find /usr -newer /opt/flotilla/python/current/.sha256 -type f"
    assert hosts_py("ssh", "--cluster", CLUSTER, HOST, script) == ""
