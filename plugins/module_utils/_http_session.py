# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""All that needs C(requests), for C(_http) alone, which loads this file again when it has installed it."""

from __future__ import annotations

import socket
import ssl
import sys
import traceback
import typing as t

try:
    import requests
    from requests.adapters import HTTPAdapter
    from requests.utils import get_environ_proxies
    from urllib3.connection import HTTPConnection
    from urllib3.connectionpool import HTTPConnectionPool
    from urllib3.exceptions import ConnectTimeoutError

    REQUESTS_ERROR: str | None = None
except ImportError:
    REQUESTS_ERROR = traceback.format_exc()
    if not t.TYPE_CHECKING:
        # base classes of what is defined below; nothing of it is used without requests
        HTTPAdapter = HTTPConnection = HTTPConnectionPool = object

#: Whether this Python finds what the distribution's packages install.
FROM_DISTRIBUTION = sys.prefix == "/usr"

#: What the URLs of a session to a Unix socket begin with.
SOCKET_ROOT = "http+unix://localhost"


class Errors(t.NamedTuple):
    """Classes of what C(requests) raises."""

    tls: type[BaseException]
    timeout: type[BaseException]
    connect_timeouts: tuple[type[BaseException], ...]


def errors() -> Errors:
    """The classes; without C(requests) those of the standard library."""
    if REQUESTS_ERROR is not None:
        return Errors(ssl.SSLError, TimeoutError, (ConnectionRefusedError,))
    kinds = requests.exceptions
    return Errors(kinds.SSLError, kinds.Timeout, (ConnectTimeoutError, kinds.ConnectTimeout))


def proxies_for(url: str) -> t.Any:
    """What the environment's proxy variables say about a URL."""
    return get_environ_proxies(url, no_proxy=None)


def new_session(
    ca_cert: str = "", client_cert: str = "", client_key: str = "", socket_path: str = ""
) -> requests.Session:
    """A session that keeps its connections; C(socket_path) leads all its URLs to that Unix socket."""
    session = requests.Session()
    # neither proxies nor .netrc nor a bundle from the environment: they are not meant for a cluster's inside
    session.trust_env = False
    session.headers.update({"Accept": "application/json", "Accept-Encoding": "identity"})
    session.verify = ca_cert or True
    if client_cert:
        session.cert = (client_cert, client_key)
    if socket_path:
        session.mount("http+unix://", UnixAdapter(socket_path))
    return session


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
