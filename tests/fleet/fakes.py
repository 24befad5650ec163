# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A systemd in memory with the calls that the agent makes, and whole machines on it for tests with a real etcd."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from flotilla_fleet.agent import Agent
from flotilla_fleet.engine import Engine
from flotilla_fleet.etcd import Etcd, EtcdError
from flotilla_fleet.memory import Memory
from flotilla_fleet.model import Machine
from flotilla_fleet.pin import Pin
from flotilla_fleet.presence import Presence
from flotilla_fleet.registry import Keys, Registry
from flotilla_fleet.systemd import ActiveState, SystemdError
from flotilla_fleet.unitfile import parse_unit
from flotilla_fleet.unitname import UNIT_TYPES


class FakeSystemd:
    """Units of one machine. ``ExecStart=/bin/false`` fails; ``X-Stop=slow`` in [Service] stops when told so."""

    def __init__(self) -> None:
        self.paths: dict[str, Path] = {}
        self.enabled: set[str] = set()
        self.active: dict[str, str] = {}
        """What runs: unit name -> the text it was started with."""
        self.failed: set[str] = set()
        self.in_memory: dict[str, str] = {}
        self.calls: Counter[str] = Counter()
        self.starts: Counter[str] = Counter()
        self.stops: list[str] = []
        self.let_stop = asyncio.Event()
        self.let_stop.set()
        self.slow: set[str] = set()
        self.broken: set[str] = set()
        """Names whose start is refused."""
        self.on_state: Callable[[str, ActiveState], None] = lambda _name, _state: None
        self.on_removed: Callable[[str], None] = lambda _name: None
        self.on_job: Callable[[str, str], None] = lambda _name, _result: None

    async def stop_by_hand(self, name: str) -> None:
        """``systemctl stop``: a job of somebody else, whose end systemd tells after the unit's new state."""
        await self.stop(name)
        self.on_job(name, "done")

    def _load(self, name: str) -> None:
        if name in self.in_memory:
            return
        if name not in self.paths:
            raise SystemdError(f"Unit {name} not found.", "org.freedesktop.systemd1.NoSuchUnit")
        self.in_memory[name] = self.paths[name].read_text(encoding="utf-8")

    async def start(self, name: str) -> asyncio.Future[str]:
        self.calls["start"] += 1
        if name in self.broken:
            raise SystemdError(f"Unit {name} has a bad unit file setting.", "org.freedesktop.systemd1.BadUnitSetting")
        self._load(name)
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        if name in self.active:
            future.set_result("done")
            return future
        self.starts[name] += 1
        text = self.in_memory[name]
        if any(o.name == "ExecStart" and o.value == "/bin/false" for o in parse_unit(text)):
            self.failed.add(name)
            self.on_state(name, ActiveState("", "failed", "failed"))
            future.set_result("failed")
            return future
        self.active[name] = text
        self.on_state(name, ActiveState("", "activating", "start"))
        self.on_state(name, ActiveState("", "active", "running"))
        future.set_result("done")
        return future

    async def stop(self, name: str) -> None:
        self.calls["stop"] += 1
        if name in self.slow:
            self.on_state(name, ActiveState("", "deactivating", "stop"))
            await self.let_stop.wait()
        if self.active.pop(name, None) is not None:
            self.stops.append(name)
            self.on_state(name, ActiveState("", "inactive", "dead"))

    async def reload(self) -> None:
        """As systemd does it: it forgets all units, tells so, and loads them anew; what runs, runs on."""
        self.calls["reload"] += 1
        for name in list(self.in_memory):
            self.on_removed(name)
        for name in list(self.in_memory):
            if name in self.paths and self.paths[name].exists():
                self.in_memory[name] = self.paths[name].read_text(encoding="utf-8")

    async def is_loaded(self, name: str) -> bool:
        return name in self.in_memory

    def _state(self, name: str) -> ActiveState:
        with suppress(SystemdError):
            self._load(name)
        load = "bad-setting" if name in self.broken else "loaded" if name in self.in_memory else "not-found"
        if name in self.active:
            return ActiveState(load, "active", "running")
        if name in self.failed:
            return ActiveState(load, "failed", "failed")
        return ActiveState(load, "inactive", "dead")

    async def states(self, names: list[str]) -> dict[str, ActiveState]:
        self.calls["states"] += 1
        for name in names:  # systemd answers for all names or for none
            stem, _dot, suffix = name.rpartition(".")
            if not stem or stem.endswith("@") or suffix not in UNIT_TYPES:
                raise SystemdError(f"Unit name {name} is neither a valid invocation ID nor unit name.")
        return {name: self._state(name) for name in names}

    async def link(self, paths: list[str]) -> None:
        self.calls["link"] += 1
        for path in map(Path, paths):
            if not path.is_file():
                raise SystemdError(f"{path} does not exist")
            self.paths[path.name] = path

    async def enable(self, paths: list[str]) -> None:
        self.calls["enable"] += 1
        self.enabled.update(Path(path).name for path in paths)

    async def disable(self, names: list[str]) -> None:
        self.calls["disable"] += 1
        for name in names:
            self.paths.pop(name, None)
            self.enabled.discard(name)

    async def kill(self, name: str) -> None:
        self.calls["kill"] += 1
        if self.active.pop(name, None) is not None:
            self.stops.append(name)
            self.on_state(name, ActiveState("", "failed", "failed"))

    async def reset_failed(self, name: str) -> None:
        self.failed.discard(name)
        if name not in self.active:
            self.in_memory.pop(name, None)


class FakeMachine:
    """One machine with agent, presence and engine on a real etcd; ``crash`` is power loss, ``restart`` a new fleetd."""

    def __init__(
        self,
        letter: str,
        endpoints: list[str],
        directory: Path,
        ttl: int = 2,
        prefix: str = "/t/",
        users: dict[str, tuple[str, str]] | None = None,
    ) -> None:
        """``users``: name and password of the etcd users of machine, engine and api; None: nobody."""
        self.users = users or {}
        self.id = letter * 32
        self.ip = f"192.0.2.{ord(letter)}"
        self.boot = f"boot-{letter}"
        self.endpoints = endpoints
        self.directory = directory
        self.ttl = ttl
        self.keys = Keys(prefix)
        self.systemd = FakeSystemd()
        self.metadata: dict[str, str] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self.build()

    def build(self) -> None:
        self.etcd = Etcd(self.endpoints, None, 1.0, *self.users.get("machine", ()))
        self.etcd.probe = self.keys.leader
        memory = self.memory = Memory(self.directory / "memory")
        self.pin = Pin(self.etcd, memory, self.keys.prefix)
        self.registry = Registry(self._as("api"), self.keys)
        self.agent = Agent(self.id, self.etcd, self.keys, self.systemd, self.directory / "units", memory, 1.0)
        self.systemd.on_state = self.agent.on_state
        self.systemd.on_removed = self.agent.on_removed
        self.systemd.on_job = self.agent.on_job
        self.engine = Engine(self._as("engine"), self.keys, self.id, self.ttl, memory, grace=1.0)
        machine = Machine(self.id, self.ip, self.metadata, self.boot, version="test")
        self.presence = Presence(self.etcd, self.keys, machine, self.ttl, memory, self.agent.on_lease, self.agent.mend)

    def _as(self, part: str) -> Etcd:
        return self.etcd.as_user(*self.users[part]) if part in self.users else self.etcd

    async def start(self) -> None:
        await self.agent.refresh()
        self.agent.systemd_is_up(True)
        jobs = (
            self.presence.run(),
            self.agent.run(),
            self.agent.publish(),
            self.agent.guard(),
            self.engine.run(),
            self.pin.run(),
        )
        self.tasks = [asyncio.create_task(job) for job in jobs]

    async def crash(self) -> None:
        """fleetd is killed: nothing is said to anybody."""
        tasks = [*self.tasks, *self.agent._workers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.tasks = []
        await self.etcd.close()

    async def die(self) -> None:
        """The machine loses power: units are gone, /run is empty."""
        await self.crash()
        self.systemd = FakeSystemd()
        for path in sorted(self.directory.rglob("*")):
            if path.is_file():
                path.unlink()
        self.boot += "+"

    async def restart(self) -> None:
        await self.crash()
        self.build()
        await self.start()

    async def boot_again(self) -> None:
        self.build()
        await self.start()

    async def stop(self) -> None:
        with suppress(EtcdError):
            await self.engine.resign()
        await self.crash()
