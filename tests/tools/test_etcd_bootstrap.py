# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How role etcd tells members to find each other: its variables as Ansible works them out, without any host."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PLAY = """
- hosts: etcd
  connection: local
  gather_facts: false
  tasks:
    - ansible.builtin.import_role:
        name: flotilla.cluster.etcd
        tasks_from: variables
        rolespec_validate: false
    - ansible.builtin.copy:
        content: "{{ [__etcd_found_by, __etcd_discovery_secret] | to_json }}"
        dest: "{{ told }}"
        mode: "0600"
      run_once: true
      no_log: true
"""
INVENTORY = "[etcd]\ncore-01 ansible_host=192.0.2.11 ansible_python_interpreter=" + sys.executable
TOKEN = "0123456789abcdef" * 2


def told(folder: Path, **variables: Any) -> tuple[str, dict[str, Any]]:
    """The options on the command line, and the file with the token."""
    (folder / "play.yml").write_text(PLAY)
    (folder / "hosts.ini").write_text(INVENTORY + "\n")
    (folder / "token").write_text(variables.pop("kept", "") + "\n")
    answer = folder / "told.json"
    given = {"etcd_discovery_token_file": str(folder / "token"), "told": str(answer), **variables}
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(folder / "hosts.ini")]
    done = subprocess.run(
        [*command, str(folder / "play.yml"), "-e", json.dumps(given)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert TOKEN not in done.stdout + done.stderr
    flags, secret = json.loads(answer.read_text())
    return flags, secret


@pytest.mark.parametrize(
    ("variables", "flags"),
    [
        ({}, ""),
        (
            {"etcd_bootstrap": "srv", "etcd_discovery_srv": "example.org", "etcd_token": "production"},
            "--discovery-srv=example.org --initial-cluster-state=new --initial-cluster-token=production",
        ),
    ],
)
def test_members_that_need_no_token(tmp_path: Path, variables: dict[str, Any], flags: str) -> None:
    assert told(tmp_path, **variables)[0] == flags


def test_a_token_of_a_service_is_no_option(tmp_path: Path) -> None:
    flags, secret = told(tmp_path, etcd_bootstrap="discovery", kept=f"http://192.0.2.9:8087/{TOKEN}")
    assert flags == "--discovery-fallback=exit --discovery-proxy="
    assert secret["content"] == f"ETCD_DISCOVERY=http://192.0.2.9:8087/{TOKEN}\n"
    assert (secret["mode"], secret["sensitive"]) == ("0600", True)


def test_a_token_of_an_etcd_is_no_option_either_and_travels_with_tls(tmp_path: Path) -> None:
    registry = ["https://192.0.2.9:8087"]
    more: dict[str, Any] = {"etcd_discovery_protocol": "v3", "etcd_discovery_endpoints": registry, "kept": TOKEN}
    flags, secret = told(tmp_path, etcd_bootstrap="discovery", **more)
    assert flags.split() == [
        "--discovery-endpoints=https://192.0.2.9:8087",
        "--discovery-insecure-transport=false",
        "--discovery-cacert=/etc/flotilla/pki/etcd-client-ca.crt",
        "--discovery-cert=/etc/flotilla/pki/etcd-server.crt",
        "--discovery-key=/etc/flotilla/pki/etcd-server.key",
    ]
    assert secret["content"] == f"ETCD_DISCOVERY_TOKEN={TOKEN}\n"
