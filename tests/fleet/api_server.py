# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The API on a Unix socket, served by a thread, for clients that are not asynchronous."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from flotilla_fleet.api import make_app, make_runner
from flotilla_fleet.connections import Connections, TlsSite
from flotilla_fleet.store import Store

T = TypeVar("T")
MACHINE_ID = "f" + "1" + "0" * 29 + "1"


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        self.sock.connect(str(self.path))


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        return str(self.json["error"]["message"])


async def _end_other_tasks() -> None:
    """As asyncio.run() does at its end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class Server:
    """``with Server(store, path) as server``: the API of ``store`` on the socket ``path``."""

    def __init__(self, store: Store, path: Path, connections: Connections | None = None, **options: Any) -> None:
        self.connections = connections or Connections()
        self.store = store
        self.path = path
        self.options = options
        self.loop = asyncio.new_event_loop()
        self._runner: web.AppRunner | None = None
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    async def _start(self) -> None:
        app = make_app(self.store, MACHINE_ID, connections=self.connections, **self.options)
        self._runner = make_runner(app, self.connections)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self.path)).start()

    def __enter__(self) -> Server:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self.loop).result(10)
        return self

    def listen_tls(self, context: ssl.SSLContext, **limits: Any) -> int:
        """Serve on a TCP port of the loopback too, and return the port."""

        async def listen() -> int:
            assert self._runner is not None
            await TlsSite(self._runner, "127.0.0.1", 0, context, **limits).start()
            return int(self._runner.addresses[-1][1])

        return asyncio.run_coroutine_threadsafe(listen(), self.loop).result(10)

    def stop(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), self.loop).result(10)

    def __exit__(self, *_exc: object) -> None:
        self.stop()
        asyncio.run_coroutine_threadsafe(_end_other_tasks(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    def run(self, function: Callable[[], T]) -> T:
        """Call ``function`` in the server's thread, as the store is not for two threads at once."""

        async def call() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(10)

    def call(
        self,
        method: str,
        target: str,
        body: str | bytes | None = None,
        content_types: tuple[str, ...] = (),
    ) -> Answer:
        """One request with exactly these Content-Type headers."""
        raw = body.encode() if isinstance(body, str) else body
        connection = UnixConnection(self.path)
        try:
            connection.putrequest(method, target)
            for value in content_types:
                connection.putheader("Content-Type", value)
            if raw is not None:
                connection.putheader("Content-Length", str(len(raw)))
            # A server that refuses the headers may close before it has read the body.
            with contextlib.suppress(BrokenPipeError):
                connection.endheaders(raw)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def put(self, name: str, **body: Any) -> Answer:
        return self.call("PUT", f"/fleet/v1/units/{name}", json.dumps(body), ("application/json",))

    def get(self, target: str) -> Answer:
        return self.call("GET", f"/fleet/v1/{target}")
