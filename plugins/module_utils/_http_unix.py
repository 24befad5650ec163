# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""Lets C(requests) speak to a Unix socket. For C(_http_session), which loads it where it has found C(requests)."""

from __future__ import annotations

import socket
import typing as t

try:
    from requests.adapters import HTTPAdapter
    from urllib3.connection import HTTPConnection
    from urllib3.connectionpool import HTTPConnectionPool
except ImportError:
    if not t.TYPE_CHECKING:
        # base classes of what is defined below, so that the file can be read everywhere
        HTTPAdapter = HTTPConnection = HTTPConnectionPool = object


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.timeout if isinstance(self.timeout, (int, float)) else None)
            sock.connect(self._path)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


class _UnixPool(HTTPConnectionPool):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def _new_conn(self) -> _UnixConnection:
        return _UnixConnection(self._path)


class UnixAdapter(HTTPAdapter):
    """Lets a requests session reach one Unix socket, whatever host its URLs name."""

    def __init__(self, path: str) -> None:
        self._pool = _UnixPool(path)
        super().__init__()

    def get_connection_with_tls_context(
        self, request: t.Any, verify: t.Any, proxies: t.Any = None, cert: t.Any = None
    ) -> t.Any:
        return self._pool

    def get_connection(self, url: t.Any, proxies: t.Any = None) -> t.Any:
        # what requests before 2.32 calls
        return self._pool

    def request_url(self, request: t.Any, proxies: t.Any) -> str:
        return str(request.path_url)

    def close(self) -> None:
        self._pool.close()
        super().close()
