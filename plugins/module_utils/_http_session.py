# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""All that needs C(requests), for C(_http) alone, which loads this file again when it has installed it."""

from __future__ import annotations

import ssl
import sys
import traceback
import typing as t

try:
    import requests
    from requests.utils import get_environ_proxies
    from urllib3.exceptions import ConnectTimeoutError

    REQUESTS_ERROR: str | None = None
except ImportError:
    REQUESTS_ERROR = traceback.format_exc()

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
        # late, as most sessions are to other machines
        from ansible_collections.flotilla.cluster.plugins.module_utils._http_unix import UnixAdapter

        session.mount("http+unix://", UnixAdapter(socket_path))
    return session
