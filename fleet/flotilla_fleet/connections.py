# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many clients the API takes at one time, and how long one may be silent.

aiohttp bounds neither. Each listener counts its own connections, so that nobody on TCP keeps the users of the machine's
own socket out.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, cast

from aiohttp import web

log = logging.getLogger(__name__)

MOST = 512
"""Connections of one listener."""
SILENCE = 60.0
"""Seconds in which a client must have sent the whole head of a request, its first or another."""
HANDSHAKES = 128
"""Clients of a listener with TLS that may be in the middle of their handshakes; more wait in the kernel's queue."""
HANDSHAKE = 10.0
"""Seconds that a handshake may take."""
LOOK = 5.0
"""Seconds between two looks at who is silent."""

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s"
)


def refusal(most: int) -> bytes:
    """The answer to who is one too many."""
    text = b'{"error":{"code":503,"message":"fleetd has %d connections on this address, try again later"}}' % most
    return _FULL % (len(text), text)


class _Handler(Protocol):
    """What asyncio calls of aiohttp's handler of one connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def connection_lost(self, exc: BaseException | None) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool | None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class Connections:
    """All connections of the API. ``begin`` and ``end`` tell of the requests on them."""

    def __init__(self, most: int = MOST, silence: float = SILENCE) -> None:
        self.most = most
        self.silence = silence
        self._doors: dict[object, _Door] = {}
        self._refused: set[_Door] = set()
        self._look: asyncio.TimerHandle | None = None

    def listener(self, server: Any) -> Listener:
        return Listener(self, server)

    def begin(self, handler: object) -> None:
        """A request has come whole; how long its answer takes is not the client's doing."""
        door = self._doors.get(handler)
        if door is not None:
            door.waits_since = math.inf

    def end(self, handler: object) -> None:
        door = self._doors.get(handler)
        if door is not None:
            door.waits_since = asyncio.get_running_loop().time()

    def left(self, handler: object) -> asyncio.Event:
        """An event that is set when the client is gone; aiohttp tells a handler only when it writes."""
        door = self._doors.get(handler)
        return asyncio.Event() if door is None else door.left

    def enter(self, door: _Door) -> None:
        self._doors[door.handler] = door
        self.end(door.handler)
        if self._look is None:
            self._look = asyncio.get_running_loop().call_later(min(LOOK, self.silence), self._end_silent)

    def refuse(self, door: _Door) -> None:
        self._refused.add(door)

    def abort(self) -> None:
        """Break what is still open; over TLS a connection is not closed before the other end agrees."""
        for door in [*self._doors.values(), *self._refused]:
            door.abort()

    def leave(self, door: _Door) -> None:
        self._doors.pop(door.handler, None)
        self._refused.discard(door)
        if not self._doors and self._look is not None:
            self._look.cancel()
            self._look = None

    def _end_silent(self) -> None:
        loop = asyncio.get_running_loop()
        self._look = loop.call_later(min(LOOK, self.silence), self._end_silent)
        for door in list(self._doors.values()):
            if loop.time() - door.waits_since >= self.silence:
                door.abort()


class Listener:
    """The server as one listener knows it: what asyncio asks for a protocol at each new connection."""

    def __init__(self, connections: Connections, server: Any) -> None:
        self.connections = connections
        self.open = 0
        self._server = server

    def __call__(self) -> asyncio.Protocol:
        return _Door(self, self._server())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


class _Door(asyncio.Protocol):
    """One connection: lets it in to aiohttp's handler, or refuses it."""

    def __init__(self, listener: Listener, handler: _Handler) -> None:
        self.handler = handler
        self.waits_since = math.inf
        self.left = asyncio.Event()
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._inside = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        most = self._listener.connections.most
        if self._listener.open >= most:
            self._listener.connections.refuse(self)
            self._transport.write(refusal(most))
            self._transport.close()
            return
        self._inside = True
        self._listener.open += 1
        self._listener.connections.enter(self)
        self.handler.connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._listener.connections.leave(self)
        self.left.set()
        if self._inside:
            self._inside = False
            self._listener.open -= 1
            self.handler.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._inside:
            self.handler.data_received(data)

    def eof_received(self) -> bool | None:
        return self.handler.eof_received() if self._inside else None

    def pause_writing(self) -> None:
        if self._inside:
            self.handler.pause_writing()

    def resume_writing(self) -> None:
        if self._inside:
            self.handler.resume_writing()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class TlsSite(web.BaseSite):
    """A TCP address at which aiohttp's ``runner`` serves with TLS.

    asyncio's own server starts any number of handshakes and gives each a minute, and nobody who has not finished one
    is known to ``Connections``.
    """

    def __init__(
        self,
        runner: web.BaseRunner,
        host: str,
        port: int,
        context: ssl.SSLContext,
        most: int = HANDSHAKES,
        seconds: float = HANDSHAKE,
    ) -> None:
        super().__init__(runner, ssl_context=context)
        self._address = (host, port)
        self._most = most
        self._seconds = seconds

    @property
    def name(self) -> str:
        host, port = self._address
        return f"https://{f'[{host}]' if ':' in host else host}:{port}"

    async def start(self) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        await super().start()
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        listening = socket.create_server(self._address, family=family, backlog=self._backlog)
        listening.setblocking(False)
        # Asked for once, as it counts the connections of this listener.
        protocols = cast(Any, self._runner.server)

        async def greet(client: socket.socket) -> None:
            loop = asyncio.get_running_loop()
            with contextlib.suppress(OSError):  # no TLS, no certificate that counts, too slow, or gone
                await loop.connect_accepted_socket(
                    protocols, client, ssl=self._ssl_context, ssl_handshake_timeout=self._seconds
                )

        self._server = cast(asyncio.AbstractServer, _Acceptor(listening, greet, self._most))


class _Acceptor:
    """Takes clients of a listening socket as long as there is room for another handshake."""

    def __init__(
        self, listening: socket.socket, greet: Callable[[socket.socket], Coroutine[Any, Any, None]], most: int
    ) -> None:
        self.sockets = (listening,)
        self._listening = listening
        self._greet = greet
        self._most = most
        self._greetings: set[asyncio.Task[None]] = set()
        self._open = True
        self._listen()

    def _listen(self) -> None:
        if self._open:
            asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def _pause(self) -> None:
        asyncio.get_running_loop().remove_reader(self._listening)

    def _accept(self) -> None:
        try:
            client, _address = self._listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):  # gone again
            return
        except OSError as error:  # out of file descriptors, for example
            log.warning("cannot take a connection at %s: %s", self._listening.getsockname(), error)
            self._pause()
            asyncio.get_running_loop().call_later(1, self._listen)
            return
        client.setblocking(False)
        greeting = asyncio.get_running_loop().create_task(self._greet(client))
        self._greetings.add(greeting)
        greeting.add_done_callback(functools.partial(self._greeted, client))
        if len(self._greetings) >= self._most:
            self._pause()

    def _greeted(self, client: socket.socket, greeting: asyncio.Task[None]) -> None:
        if greeting.cancelled():  # perhaps before it has begun
            client.close()
        self._greetings.discard(greeting)
        self._listen()

    def close(self) -> None:
        """Take nobody any more, and end handshakes. Who has been greeted stays."""
        self._open = False
        self._pause()
        self._listening.close()
        for greeting in self._greetings:
            greeting.cancel()

    async def wait_closed(self) -> None:
        """Wait for what `close` has ended."""
        await asyncio.gather(*self._greetings, return_exceptions=True)
