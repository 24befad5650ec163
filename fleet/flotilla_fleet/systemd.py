# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""systemd's manager over D-Bus: the few calls and signals that the agent needs.

Raw messages instead of dbus-fast's proxies, because introspecting a unit costs more than starting it. States come from
``PropertiesChanged`` signals; nothing is polled.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dbus_fast import BusType, Message, MessageType
from dbus_fast.aio import MessageBus

log = logging.getLogger(__name__)

SYSTEMD = "org.freedesktop.systemd1"
MANAGER_PATH = "/org/freedesktop/systemd1"
MANAGER = f"{SYSTEMD}.Manager"
UNIT = f"{SYSTEMD}.Unit"
PROPERTIES = "org.freedesktop.DBus.Properties"
UNIT_PATH = "/org/freedesktop/systemd1/unit/"

NO_SUCH_UNIT = f"{SYSTEMD}.NoSuchUnit"
CONNECT_SECONDS = 5.0
LONG_AS_IT_TAKES = 90_000.0
"""Seconds for a job: how long a stop may last is TimeoutStopSec's business, not ours."""


class SystemdError(Exception):
    """systemd or D-Bus refused a call, or did not answer; ``name`` is the D-Bus error name or ""."""

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message)
        self.name = name


@dataclass(frozen=True)
class ActiveState:
    """load, active and sub state of a unit as systemd names them."""

    load: str = ""
    active: str = ""
    sub: str = ""


@lru_cache(4096)  # a start comes with a dozen signals
def unescape_path(path: str) -> str:
    """The unit name of a D-Bus object path below :data:`UNIT_PATH`."""
    escaped = path.removeprefix(UNIT_PATH)
    out = bytearray()
    index = 0
    while index < len(escaped):
        if escaped[index] == "_" and len(escaped) >= index + 3:
            try:
                out.append(int(escaped[index + 1 : index + 3], 16))
            except ValueError:
                return ""
            index += 3
        else:
            out.extend(escaped[index].encode())
            index += 1
    return out.decode("utf-8", "replace")


class Systemd:
    """A connection to one systemd manager.

    ``on_state`` is called with (unit name, state) for each change of any unit of the manager; parts of a state that a
    signal does not tell are "". ``on_removed`` is called with the name of a unit that systemd holds in memory no more:
    it has ended, or systemd reloads, forgets all units and knows them again a moment later. ``on_lost`` is called once
    when the connection breaks. ``on_job`` is called with (unit name, result) when a job that somebody else has queued
    is over and the unit's state has been told.
    """

    def __init__(
        self,
        on_state: Callable[[str, ActiveState], None],
        on_removed: Callable[[str], None],
        on_lost: Callable[[], None],
        on_job: Callable[[str, str], None] = lambda _name, _result: None,
        user: bool = False,
        call_timeout: float = 25.0,
    ) -> None:
        self.on_state = on_state
        self.on_removed = on_removed
        self.on_lost = on_lost
        self.on_job = on_job
        self.bus_type = BusType.SESSION if user else BusType.SYSTEM
        self.call_timeout = call_timeout
        self._bus: MessageBus | None = None
        self._jobs: dict[str, asyncio.Future[str]] = {}
        self._finished: dict[str, str] = {}
        self._watcher: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                bus = await MessageBus(bus_type=self.bus_type).connect()
        except TimeoutError:
            name = self.bus_type.name.lower()
            raise SystemdError(f"the D-Bus {name} bus does not answer within {CONNECT_SECONDS:.0f} s") from None
        except (OSError, EOFError, ValueError, KeyError) as exc:
            raise SystemdError(f"cannot connect to the D-Bus {self.bus_type.name.lower()} bus: {exc}") from None
        self._bus = bus
        bus.add_message_handler(self._on_message)
        for rule in (
            # Only what all units have: each change is told a second time with the many properties of the unit's type.
            f"type='signal',sender='{SYSTEMD}',path_namespace='{UNIT_PATH.rstrip('/')}',interface='{PROPERTIES}',"
            f"arg0='{UNIT}'",
            f"type='signal',sender='{SYSTEMD}',path='{MANAGER_PATH}',interface='{MANAGER}',member='JobRemoved'",
            f"type='signal',sender='{SYSTEMD}',path='{MANAGER_PATH}',interface='{MANAGER}',member='UnitRemoved'",
        ):
            await self._dbus("AddMatch", "s", [rule])
        await self._manager("Subscribe")
        self._watcher = asyncio.create_task(self._watch_connection(bus))

    async def close(self) -> None:
        bus, self._bus = self._bus, None
        if self._watcher is not None:
            self._watcher.cancel()
        if bus is not None:
            bus.disconnect()

    @property
    def connected(self) -> bool:
        return self._bus is not None

    async def _watch_connection(self, bus: MessageBus) -> None:
        try:
            await bus.wait_for_disconnect()
        except (OSError, EOFError) as exc:
            log.warning("the D-Bus connection broke: %s", exc)
        self._bus = None
        for job in self._jobs.values():
            if not job.done():
                job.set_exception(SystemdError("the D-Bus connection broke"))
        self._jobs.clear()
        self.on_lost()

    async def _call(self, message: Message, patience: float | None = None) -> list[Any]:
        if self._bus is None:
            raise SystemdError("not connected to D-Bus")
        seconds = patience or self.call_timeout
        try:
            async with asyncio.timeout(seconds):
                reply = await self._bus.call(message)
        except TimeoutError:
            # A connection that may be dead is given up: whoever holds it makes a new one, and asks for all states.
            if self._bus is not None:
                self._bus.disconnect()
            raise SystemdError(f"systemd did not answer {message.member} in {seconds:.0f} s") from None
        except (OSError, EOFError) as exc:
            raise SystemdError(f"D-Bus call {message.member} failed: {exc}") from None
        if reply is None:
            raise SystemdError(f"D-Bus call {message.member} had no answer")
        if reply.message_type == MessageType.ERROR:
            text = reply.body[0] if reply.body else reply.error_name
            raise SystemdError(f"{message.member}: {text}", reply.error_name or "")
        return list(reply.body)

    async def _dbus(self, member: str, signature: str, body: list[Any]) -> list[Any]:
        return await self._call(
            Message(
                destination="org.freedesktop.DBus",
                path="/org/freedesktop/DBus",
                interface="org.freedesktop.DBus",
                member=member,
                signature=signature,
                body=body,
            )
        )

    async def _manager(
        self, member: str, signature: str = "", body: list[Any] | None = None, patience: float | None = None
    ) -> list[Any]:
        return await self._call(
            Message(
                destination=SYSTEMD,
                path=MANAGER_PATH,
                interface=MANAGER,
                member=member,
                signature=signature,
                body=body or [],
            ),
            patience,
        )

    def _on_message(self, message: Message) -> None:
        if message.message_type != MessageType.SIGNAL:
            return
        if message.member == "PropertiesChanged" and message.body and message.body[0] == UNIT:
            name = unescape_path(message.path or "")
            changed = message.body[1]
            keys = ("LoadState", "ActiveState", "SubState")
            parts = [str(changed[key].value) if key in changed else "" for key in keys]
            if name and any(parts):
                self.on_state(name, ActiveState(*parts))
        elif message.member == "JobRemoved" and len(message.body) >= 4:
            path, result = str(message.body[1]), str(message.body[3])
            future = self._jobs.pop(path, None)
            if future is None:
                self._remember(path, result)
                self.on_job(str(message.body[2]), result)
            elif not future.done():
                future.set_result(result)
        elif message.member == "UnitRemoved" and message.body:
            self.on_removed(str(message.body[0]))

    def _remember(self, path: str, result: str) -> None:
        """The signal may overtake the answer that names the job; keep the last few results for that."""
        self._finished[path] = result
        while len(self._finished) > 512:
            self._finished.pop(next(iter(self._finished)))

    async def _job(self, member: str, name: str) -> asyncio.Future[str]:
        """Queue a job; the future gives its result ("done", "failed", "timeout", …)."""
        body = await self._manager(member, "ss", [name, "replace"])
        path = str(body[0])
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        if path in self._finished:
            future.set_result(self._finished.pop(path))
        else:
            # Two jobs of one path cannot be; a merged job has the path of the one that was there, whose waiter shares.
            known = self._jobs.get(path)
            if known is not None:
                return known
            self._jobs[path] = future
        return future

    async def start(self, name: str) -> asyncio.Future[str]:
        return await self._job("StartUnit", name)

    async def stop(self, name: str) -> None:
        """Stop and wait until systemd has; a unit that systemd does not know is stopped."""
        try:
            future = await self._job("StopUnit", name)
        except SystemdError as exc:
            if exc.name == NO_SUCH_UNIT:
                return
            raise
        async with asyncio.timeout(LONG_AS_IT_TAKES):
            result = await asyncio.shield(future)
        if result not in ("done", "skipped"):
            log.warning("stop of %s ended with %s", name, result)

    async def reload(self) -> None:
        await self._manager("Reload", patience=90.0)

    async def is_loaded(self, name: str) -> bool:
        """Whether systemd holds a unit of this name in memory."""
        try:
            await self._manager("GetUnit", "s", [name])
        except SystemdError as exc:
            if exc.name == NO_SUCH_UNIT:
                return False
            raise
        return True

    async def list_states(self) -> dict[str, ActiveState]:
        """The states of all units that systemd holds in memory."""
        body = await self._manager("ListUnits")
        return {str(row[0]): ActiveState(str(row[2]), str(row[3]), str(row[4])) for row in body[0]}

    async def states(self, names: list[str]) -> dict[str, ActiveState]:
        """The states of all these units, in one call. While systemd reloads, the answer waits."""
        body = await self._manager("ListUnitsByNames", "as", [names])
        found = {str(row[0]): ActiveState(str(row[2]), str(row[3]), str(row[4])) for row in body[0]}
        return {name: found.get(name, ActiveState("not-found", "inactive", "dead")) for name in names}

    async def link(self, paths: list[str]) -> None:
        """Make unit files outside the search path known until the next reboot."""
        await self._manager("LinkUnitFiles", "asbb", [paths, True, True])

    async def enable(self, paths: list[str]) -> None:
        await self._manager("EnableUnitFiles", "asbb", [paths, True, True])

    async def disable(self, names: list[str]) -> None:
        """Remove the links that ``link`` and ``enable`` made."""
        await self._manager("DisableUnitFiles", "asb", [names, True])

    async def kill(self, name: str) -> None:
        """Send SIGKILL to all processes of a unit; one that is not there is dead already."""
        try:
            await self._manager("KillUnit", "ssi", [name, "all", int(signal.SIGKILL)])
        except SystemdError as exc:
            log.debug("%s", exc)

    async def reset_failed(self, name: str) -> None:
        try:
            await self._manager("ResetFailedUnit", "s", [name])
        except SystemdError as exc:
            if exc.name != NO_SUCH_UNIT:
                raise

    async def queued_job_type(self, name: str) -> str:
        """The type of the job that is queued for a unit (start, stop, restart, …), or ""."""
        body = await self._manager("GetUnit", "s", [name])
        job = await self._property(str(body[0]), UNIT, "Job")
        number, path = job
        if not number:
            return ""
        return str(await self._property(str(path), f"{SYSTEMD}.Job", "JobType"))

    async def system_state(self) -> str:
        return str(await self._property(MANAGER_PATH, MANAGER, "SystemState"))

    async def _property(self, path: str, interface: str, name: str) -> Any:
        body = await self._call(
            Message(
                destination=SYSTEMD,
                path=path,
                interface=PROPERTIES,
                member="Get",
                signature="ss",
                body=[interface, name],
            )
        )
        return body[0].value
