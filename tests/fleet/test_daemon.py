# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is left of fleetd when it is dead: stopping what must not run twice."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from flotilla_fleet.daemon import fence, must_fence
from flotilla_fleet.memory import Memory


@pytest.mark.parametrize(
    ("result", "deadline", "expected"),
    [
        ("success", 50.0, False),  # stopped or restarted by systemctl
        ("success", 150.0, False),
        ("", 50.0, False),  # not called by systemd
        ("watchdog", 150.0, True),  # hung: it may hang again
        ("watchdog", 50.0, True),
        ("signal", 150.0, False),  # crashed: the next one looks after its units
        ("signal", 50.0, True),  # crashed so often that its lease is over
        ("exit-code", 150.0, False),  # cannot start
        ("exit-code", 100.0, True),
    ],
)
def test_who_stops_fenced_units(result: str, deadline: float, expected: bool) -> None:
    assert must_fence(result, deadline, 100.0) is expected


SYSTEMCTL = """#!/bin/sh
echo "$*" >>{log}
case "$*" in
*slow*) [ "$1" = kill ] && touch {log}.killed; while [ "$1" = stop ] && [ ! -e {log}.killed ]; do sleep 0.05; done;;
esac
"""


def test_fence_stops_what_is_fenced_and_runs_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    program = tmp_path / "systemctl"
    program.write_text(SYSTEMCTL.format(log=log))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    memory = Memory(tmp_path / "memory")
    for name, fenced, job in [
        ("slow.service", True, "launched"),
        ("quick.service", True, "launched"),
        ("run.service", False, "launched"),
        ("loaded.service", True, "loaded"),
    ]:
        memory.write(f"unit-{name}", {"name": name, "fenced": fenced, "job": job})
    begun = time.monotonic()
    fence(memory, grace=2.0)
    assert time.monotonic() - begun < 2.0
    assert sorted(log.read_text().splitlines()) == [
        "kill -s KILL -- slow.service",
        "stop -- quick.service",
        "stop -- slow.service",
    ]
    jobs = {name: memory.read(name)["job"] for name in memory.names("unit-")}
    assert jobs == {
        "unit-loaded.service": "loaded",
        "unit-quick.service": "loaded",
        "unit-run.service": "launched",
        "unit-slow.service": "loaded",
    }
