# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cluster, and what is done with it: examples deployed, machines lost, addresses asked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from support.cluster_access import Machine

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples/services"
CLUSTER = os.environ.get("SERVICES_CLUSTER", "molsvc")
T = TypeVar("T")


def wait(what: str, seconds: float, ready: Callable[[], T]) -> T:
    """Ask until the answer is true; AssertionError after ``seconds``. Errors count as no."""
    end, problem = time.monotonic() + seconds, ""
    while time.monotonic() < end:
        try:
            if found := ready():
                return found
        except (OSError, AssertionError, RuntimeError) as exc:
            problem = f": {exc}"
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds:.0f} s: {what}{problem}")


def get(address: str, port: int, seconds: float = 5) -> str:
    with urllib.request.urlopen(f"http://{address}:{port}/", timeout=seconds) as answer:
        return str(answer.read().decode()).strip()


@dataclass(frozen=True)
class Played:
    """How a playbook ended; ``changed`` is the number of changed tasks of all hosts."""

    code: int
    changed: int
    output: str


class Cluster:
    def __init__(self, machines: list[Machine]) -> None:
        self.machines = machines

    def play(self, name: str, *arguments: str) -> Played:
        """Run an example, or a playbook. AssertionError when it fails, unless ``fails`` is among the arguments."""
        path = EXAMPLES / f"{name}.yml"
        if not path.exists():
            path = ROOT / "playbooks" / f"{name}.yml"
        inventory = os.path.join(os.environ["MOLECULE_SCENARIO_DIRECTORY"], "inventory")
        program = Path(sys.executable).parent / "ansible-playbook"
        may_fail = "fails" in arguments
        words = [word for word in arguments if word != "fails"]
        done = subprocess.run(
            [str(program), "-i", inventory, str(path), *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=900,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        )
        output = done.stdout + done.stderr
        assert may_fail or done.returncode == 0, output
        counts = [int(number) for number in re.findall(r"changed=(\d+)", output)]
        return Played(done.returncode, sum(counts), output)

    def ctl(self, words: str, machine: Machine | None = None) -> str:
        return str((machine or self.machines[0]).host.check_output(f"fleetctl {words}"))

    def unit_files(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = json.loads(self.ctl("list-unit-files --format=json --fields=unit,hash,dstate"))
        return found

    def containers(self) -> dict[str, list[str]]:
        """All containers of each machine, also those that have ended."""
        listed = "docker ps --all --format '{{.Names}}'"
        return {machine.name: sorted(machine.host.check_output(listed).split()) for machine in self.machines}

    def active(self, unit: str, asked: Machine | None = None) -> list[Machine]:
        """The machines on which a unit is active."""
        states = json.loads(self.ctl("list-units --format=json --fields=unit,machine,active", asked))
        ids = [s["machine"] for s in states if s["unit"] == unit and s["active"] == "active"]
        return [machine for machine in self.machines if self.id_of(machine) in ids]

    def id_of(self, machine: Machine) -> str:
        if machine.name not in _IDS:
            _IDS[machine.name] = machine.host.file("/etc/machine-id").content_string.strip()
        return _IDS[machine.name]

    def hosts(self, *words: str) -> None:
        """What tools/hosts.py does: kill or start a machine."""
        command, *rest = words
        subprocess.run(
            [sys.executable, str(ROOT / "tools/hosts.py"), command, f"--cluster={CLUSTER}", *rest],
            check=True,
            timeout=120,
        )


_IDS: dict[str, str] = {}
