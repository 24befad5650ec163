# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A systemd small enough for unit tests, and a way to kill a module between any two things it does."""

from __future__ import annotations

import os
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.flotilla.cluster.plugins.module_utils import _host_plan as plans
from ansible_collections.flotilla.cluster.plugins.module_utils import _host_system as system

# Starts count as this much later than they are, so that files written just before do not look newer (kernel file times
# are as coarse as plans.CLOCK_TICK).
START_DELAY = 0.02


class FakeUnit:
    """One unit as systemd sees it."""

    def __init__(self) -> None:
        self.active = "inactive"
        self.sub = "dead"
        self.enabled = False
        self.masked = False
        self.invocation = ""
        self.started = 0.0
        self.loaded: bytes | None = None
        self.runs_with: dict[str, bytes] = {}


class FakeSystemd:
    """Answers the systemctl and journalctl calls of `_host_system`. A unit reads all its files when it starts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.watched: list[Path] = []
        self.units: dict[str, FakeUnit] = {}
        self.calls: list[str] = []
        self.environments: list[dict[str, str]] = []
        self.journal: list[str] = ["the last thing it said"]
        self.fails_to_start = False
        self.dies_after_start = False
        self.starts = 0

    # what the module calls

    def run(
        self, argv: t.Sequence[str], timeout: float = 30, environment: t.Mapping[str, str] | None = None
    ) -> system.CommandResult:
        """Stands in for `_host_system.run`."""
        if argv[0] == "journalctl":
            return system.CommandResult(0, "\n".join(self.journal) + "\n", "")
        if argv[0] != "systemctl":
            return REAL_RUN(argv, timeout)
        verb = argv[1]
        names = list(argv[list(argv).index("--") + 1 :]) if "--" in argv else []
        if verb == "show":
            return system.CommandResult(0, "\n\n".join(self._show(name) for name in names) + "\n", "")
        self.calls.append(" ".join([verb, *names]))
        self.environments.append(dict(environment or {}))
        if verb in ("daemon-reload", "enable", "disable", "reenable"):
            return self._change_files(verb, names)
        return self._change_units(verb, names)

    def _change_files(self, verb: str, names: list[str]) -> system.CommandResult:
        for name in names:
            if verb != "disable" and self._file(name) is None:
                return system.CommandResult(1, "", f"Failed to {verb} unit: Unit file {name} does not exist.")
            self.unit(name).enabled = verb != "disable"
        self.reload()
        return system.CommandResult(0, "", "")

    def _change_units(self, verb: str, names: list[str]) -> system.CommandResult:
        for name in names:
            if verb == "stop":
                self.stop(name)
            elif verb in ("start", "restart"):
                if verb == "start" and self.unit(name).active == "activating":
                    # what began before is waited for, and it cannot succeed
                    return system.CommandResult(1, "", f"Job for {name} failed because of what it was started with.")
                if self.fails_to_start or self._file(name) is None:
                    return system.CommandResult(5, "", f"Failed to {verb} {name}: Unit {name} not found.")
                if verb == "restart" or self.unit(name).active != "active":
                    self.start(name)
        return system.CommandResult(0, "", "")

    def _file(self, name: str) -> bytes | None:
        path = self.directory / plans.unit_file_name(name)
        return path.read_bytes() if path.is_file() else None

    def _show(self, name: str) -> str:
        unit, text = self.unit(name), self._file(name)
        state = "enabled" if unit.enabled else "disabled" if text is not None else ""
        started = int(unit.started * 1e6)
        values = {
            "LoadState": "loaded" if text is not None else "not-found",
            "ActiveState": unit.active,
            "SubState": unit.sub,
            "UnitFileState": "masked" if unit.masked else state,
            "InvocationID": unit.invocation,
            "ExecMainStartTimestampMonotonic": started,
            "ActiveEnterTimestampMonotonic": started,
            "NeedDaemonReload": "yes" if unit.loaded is not None and unit.loaded != text else "no",
            "Result": "exit-code" if unit.active == "failed" else "success",
        }
        if unit.sub == "auto-restart":
            # the time between two tries ends as soon as somebody has looked
            unit.sub = "start"
        return "\n".join(f"{key}={value}" for key, value in values.items())

    # what happens on the host

    def unit(self, name: str) -> FakeUnit:
        return self.units.setdefault(name, FakeUnit())

    def reload(self) -> None:
        for name, unit in self.units.items():
            if unit.loaded is not None:
                unit.loaded = self._file(name)

    def start(self, name: str) -> None:
        unit = self.unit(name)
        if unit.loaded is None:
            unit.loaded = self._file(name)
        self.starts += 1
        unit.active, unit.sub = ("failed", "failed") if self.dies_after_start else ("active", "running")
        unit.invocation = f"{self.starts:032x}"
        unit.started = time.monotonic() + START_DELAY
        unit.runs_with = self.on_disk()
        unit.runs_with["definition"] = unit.loaded or b""

    def stop(self, name: str) -> None:
        unit = self.unit(name)
        unit.active, unit.sub, unit.invocation = "inactive", "dead", ""

    def reboot(self, stamps: Path) -> None:
        """/run is empty, definitions are read again, enabled units start."""
        for path in stamps.glob("*"):
            path.unlink()
        for name, unit in self.units.items():
            unit.loaded = None
            self.stop(name)
            if unit.enabled and self._file(name) is not None:
                self.start(name)

    def on_disk(self) -> dict[str, bytes]:
        """What a process reads at its start."""
        return {str(path): path.read_bytes() for path in self.watched if path.is_file()}


REAL_RUN = system.run


class Killed(BaseException):
    """The module was killed, as by SIGKILL: no clean-up of its own runs either."""


class Killer:
    """Counts what a module does to the host, and kills it before the n-th deed."""

    DEEDS = ("rename", "symlink", "unlink", "mkdir", "chown", "chmod", "fchmod", "fsync", "open")

    def __init__(self, patch: pytest.MonkeyPatch, kill_at: int) -> None:
        self.kill_at = kill_at
        self.count = 0
        for name in self.DEEDS:
            patch.setattr(os, name, self._wrap(getattr(os, name)))
        patch.setattr(system, "run", self._wrap(system.run))

    @property
    def killed(self) -> bool:
        return self.count >= self.kill_at

    def _wrap(self, deed: t.Callable[..., t.Any]) -> t.Callable[..., t.Any]:
        def wrapped(*args: t.Any, **kwargs: t.Any) -> t.Any:
            self.count += 1
            if self.killed:
                raise Killed
            return deed(*args, **kwargs)

        return wrapped
