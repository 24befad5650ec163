# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""C(HttpClient) with the standard library alone, for hosts that do not have C(requests) and need it for nothing else.

It asks and gets whole answers over TCP. Streams and Unix sockets are left to C(requests).
"""

from __future__ import annotations

import http.client
import json
import ssl
import typing as t
from urllib.parse import urlsplit

from ansible_collections.flotilla.cluster.plugins.module_utils._http import HttpClient, Reply
from ansible_collections.flotilla.cluster.plugins.module_utils._http_failure import explain


class PlainClient(HttpClient):
    """One kept connection to one base URL."""

    _kept: http.client.HTTPConnection | None = None

    def request(
        self,
        method: str,
        path: str,
        payload: dict[str, t.Any] | None = None,
        *,
        headers: t.Mapping[str, str] | None = None,
        shown: str | None = None,
    ) -> Reply:
        asked = f"{method} {self.base}{path if shown is None else shown}"
        seconds = self._left(asked)
        if self._kept is None:
            self._kept = self._connection()
        self._kept.timeout = seconds
        if self._kept.sock is not None:
            self._kept.sock.settimeout(seconds)
        body = None if payload is None else json.dumps(payload, separators=(",", ":")).encode()
        sent = {"Accept": "application/json", **({} if body is None else {"Content-Type": "application/json"})}
        try:
            self._kept.request(method, path, body, {**sent, **(headers or {})})
            response = self._kept.getresponse()
            content = response.read(self._max_body + 1)
        except Exception as error:  # ssl and http.client have no class in common
            self.close()
            raise explain(asked, error, seconds, self.base) from error
        if len(content) > self._max_body:
            self.close()
            raise self._too_large(asked)
        return Reply(asked, response.status, response.headers.get("Content-Type", ""), content)

    def close(self) -> None:
        """Closes the kept connection."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _connection(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.base)
        host = parts.hostname or ""
        if parts.scheme != "https":
            return http.client.HTTPConnection(host, parts.port)
        self._tls.check()
        context = ssl.create_default_context(cafile=self._tls.ca_cert or None)
        if self._tls.client_cert:
            context.load_cert_chain(self._tls.client_cert, self._tls.client_key)
        return http.client.HTTPSConnection(host, parts.port, context=context)
