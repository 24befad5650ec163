# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""announce: runs beside a container and keeps the cluster told of it, through the machine's own fleetd.

The container engine tells by its event stream when something happens to the container; then it is looked at, and
:func:`whereabouts` decides. One thread listens to the engine, one to fleetd while something is announced, and all they
hear goes into one queue.
"""

from __future__ import annotations

import ipaddress
import json
import queue
import signal
import threading
import time
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from .client import Stream, unix_socket
from .errors import CtlError, UsageError
from .session import Session, mangle, tell
from .wire import Connection, WireError

Json = dict[str, Any]

RETRY = 0.2  # seconds between two attempts to reach fleetd, which may be restarting
ENGINE_RETRY = 1.0  # seconds between two attempts to reach the container engine
EVENTS = ("start", "die", "stop", "destroy", "pause", "unpause", "rename", "health_status")
_ANY = ("", "0.0.0.0", "::")


class Place(NamedTuple):
    """Where a container answers; without an address, at that of its machine."""

    address: str
    port: int


def whereabouts(container: Json | None, port: int) -> Place | str:
    """Where the container's port is reached from other machines, or why nothing is to be announced.

    ``container`` is what the engine's inspection gives, None when there is no such container.
    """
    if container is None:
        return "there is no container"
    state = container.get("State") or {}
    if not state.get("Running") or state.get("Paused"):
        return f"the container is {state.get('Status') or 'not running'}"
    health = (state.get("Health") or {}).get("Status", "none")
    if health not in ("healthy", "none", ""):
        return f"the container is {health}"
    if ((container.get("HostConfig") or {}).get("NetworkMode")) == "host":
        return Place("", port)
    published = ((container.get("NetworkSettings") or {}).get("Ports") or {}).get(f"{port}/tcp") or []
    places = [Place(_address(entry), int(entry.get("HostPort") or 0)) for entry in published]
    found = [place for place in places if place.port and not _is_loopback(place.address)]
    if not found:
        return f"port {port} of the container is not published on an address that other machines reach"
    return found[0]


def _address(entry: Json) -> str:
    address = str(entry.get("HostIp") or "")
    return "" if address in _ANY else address


def _is_loopback(address: str) -> bool:
    try:
        return bool(address) and ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


class Engine:
    """Docker's API, as much as is needed of it, on its Unix socket."""

    def __init__(self, path: str, container: str) -> None:
        self._path = path
        self._container = container

    def _connection(self, timeout: float | None) -> Connection:
        return Connection(lambda: unix_socket(self._path, timeout), "localhost")

    def inspect(self) -> Json | None:
        connection = self._connection(10)
        try:
            response = connection.request("GET", f"/containers/{quote(self._container, safe='')}/json", None, {})
            text = response.read()
        finally:
            connection.close()
        if response.status == 404:
            return None
        if response.status != 200:
            raise WireError(f"it answered {response.status}")
        try:
            found = json.loads(text)
        except ValueError:
            raise WireError("it answered with something that is not JSON") from None
        if not isinstance(found, dict):
            raise WireError("it answered with something that is no container")
        return found

    def follow(self, look: Any) -> None:
        """Call ``look`` with the container now and after each event of it, until the engine goes away."""
        filters = {"type": ["container"], "container": [self._container], "event": list(EVENTS)}
        connection = self._connection(None)
        try:
            response = connection.request("GET", f"/events?{urlencode({'filters': json.dumps(filters)})}", None, {})
            if response.status != 200:
                raise WireError(f"it answered {response.status}")
            # What happened before the stream flowed is seen by this look.
            look(self.inspect())
            for line in response.lines():
                if line.strip():
                    look(self.inspect())
        finally:
            connection.close()


class Sidekick:
    """Announces one container while it is up. ``run`` lasts until SIGTERM or SIGINT."""

    def __init__(self, session: Session, service: str, unit: str, port: int, engine: Engine, linger: float) -> None:
        self._session = session
        self._what = {"service": service, "unit": unit}
        self._port = port
        self._engine = engine
        self._linger = linger
        self._news: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._place: Place | None = None
        self._stream: Stream | None = None
        self._said = ""

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_args: self._news.put(("end", None)))
        threading.Thread(target=self._listen, daemon=True).start()
        while True:
            try:
                what, value = self._news.get(timeout=RETRY if self._place and not self._stream else None)
            except queue.Empty:
                what, value = "again", None
            if what == "end":
                announced = self._stream is not None
                self._withdraw()
                time.sleep(self._linger if announced else 0)
                return 0
            if what == "container":
                self._follow(whereabouts(value, self._port))
            elif what == "lost" and value is self._stream:
                self._withdraw()
            if self._place and not self._stream and what != "lost":
                self._announce(self._place)

    def _say(self, text: str) -> None:
        if text != self._said:
            tell(text)
        self._said = text

    def _follow(self, found: Place | str) -> None:
        place = found if isinstance(found, Place) else None
        if place != self._place:
            self._withdraw()
        self._place = place
        if isinstance(found, str):
            self._say(f"not announced: {found}")

    def _announce(self, place: Place) -> None:
        query = {**self._what, "port": str(place.port)}
        try:
            self._stream = self._session.client.announce(
                **query, **({"address": place.address} if place.address else {})
            )
        except CtlError as exc:
            self._say(f"cannot announce: {exc}")
            return
        threading.Thread(target=self._read, args=(self._stream, place), daemon=True).start()

    def _withdraw(self) -> None:
        """The connection is the announcement."""
        if self._stream is not None:
            self._stream.stop()
            self._stream = None

    def _read(self, stream: Stream, place: Place) -> None:
        for line in stream.lines():
            if line.strip():
                self._say(f"announced at {place.address or 'the address of this machine'}, port {place.port}")
        stream.close()
        self._news.put(("lost", stream))

    def _listen(self) -> None:
        """While the engine is away nothing changes: its containers go on without it."""
        while True:
            try:
                self._engine.follow(lambda container: self._news.put(("container", container)))
            except (OSError, WireError) as exc:
                self._say(f"cannot ask the container engine: {exc}")
            time.sleep(ENGINE_RETRY)


def announce(session: Session, arguments: list[str]) -> int:
    options = session.options
    if len(arguments) != 2 or not options.text("container"):
        raise UsageError("give SERVICE, UNIT, and the name of the container with --container")
    port = options.number("port")
    if not 0 < port < 65536:
        raise UsageError(f"--port is {port}, not 1 to 65535")
    engine = Engine(options.text("docker"), options.text("container"))
    return Sidekick(session, arguments[0], mangle(arguments[1]), port, engine, options.seconds("linger")).run()
