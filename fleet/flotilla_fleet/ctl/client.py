# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP API from the client's side: one kept connection, errors in one sentence."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import socket
import sys
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from .errors import CtlError, UsageError
from .wire import Connection, Response, WireError

Json = dict[str, Any]

PREFIX = "/fleet/v1"
ASK_TIMEOUT = 20.0  # seconds for a machine to answer through fleetd, which itself gives it 10
KEEPALIVE = 30  # seconds of silence on TCP after which the other end is asked for a sign of life
STREAM_TIMEOUT = 45.0  # seconds of silence after which an event stream is lost; it beats every 15


def _part(text: str) -> str:
    """A name as one part of a path. What is no UTF-8 in it came so from the command line."""
    return quote(text, safe="", errors="surrogateescape")


def _query(fields: dict[str, str]) -> str:
    return urlencode(fields, errors="surrogateescape")


def _message(body: Any) -> str:
    """The words of an answer that is an error, or ""."""
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("message", "")) if isinstance(error, dict) else ""


def unix_socket(path: str, timeout: float | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def place_of(announcement: Json) -> str:
    """Where a copy of a service answers, as address and port."""
    address, port = str(announcement["address"]), announcement["port"]
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class Endpoint:
    """Where the API is: ``unix:///path``, ``http://host:port`` or ``https://host:port``.

    ``ca_file`` replaces the system's authorities, ``cert_file`` and ``key_file`` are shown to the
    server. ``via`` is a local socket that leads to the endpoint (a tunnel).
    """

    def __init__(self, url: str, ca_file: str = "", cert_file: str = "", key_file: str = "", via: str = "") -> None:
        self.url = url.split(",")[0].strip()  # as upstream: the first of a list
        parts = urlsplit(self.url)
        self.scheme = parts.scheme
        self.path = parts.path
        self.via = via
        self.files = {"--ca-file": ca_file, "--cert-file": cert_file, "--key-file": key_file}
        try:
            self.host, self.port = parts.hostname or "", parts.port
        except ValueError:
            self.host, self.port = "", None
        local = self.scheme == "unix" and self.path and not parts.netloc
        remote = self.scheme in ("http", "https") and self.host and parts.path in ("", "/")
        if not (local or remote):
            raise UsageError(f"--endpoint is {url!r}, not unix:///PATH, http://HOST:PORT or https://HOST:PORT")
        if bool(cert_file) != bool(key_file):
            raise UsageError("--cert-file and --key-file must be given together")

    def connection(self, timeout: float | None) -> Connection:
        """A connection that is opened by its first request; without ``timeout`` (seconds) it waits for ever."""
        return Connection(lambda: self._socket(timeout), self.host or "localhost")

    def _socket(self, timeout: float | None) -> socket.socket:
        if self.scheme == "unix":
            return unix_socket(self.via or self.path, timeout)
        port = self.port or (443 if self.scheme == "https" else 80)
        raw = unix_socket(self.via, timeout) if self.via else self._tcp_socket(port, timeout)
        return raw if self.scheme == "http" else self._encrypted(raw)

    def _tcp_socket(self, port: int, timeout: float | None) -> socket.socket:
        raw = socket.create_connection((self.host, port), timeout)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
            raw.setsockopt(socket.IPPROTO_TCP, option, KEEPALIVE)
        return raw

    def _encrypted(self, raw: socket.socket) -> socket.socket:
        import ssl  # only here: it takes long to load

        try:
            for flag, name in self.files.items():
                if name and not os.path.isfile(name):
                    raise CtlError(f"{flag} names {name}, which is not a file")
            try:
                context = ssl.create_default_context(cafile=self.files["--ca-file"] or None)
                if self.files["--cert-file"]:
                    context.load_cert_chain(self.files["--cert-file"], self.files["--key-file"])
            except OSError as exc:  # ssl.SSLError is one
                names = ", ".join(name for name in self.files.values() if name)
                raise CtlError(f"cannot use the certificates in {names}: {exc.strerror or exc}") from None
            return context.wrap_socket(raw, server_hostname=self.host)
        except BaseException:
            raw.close()
            raise

    def explain(self, exc: Exception, timeout: float | None) -> CtlError:
        """Why no answer came, in one sentence."""
        where = self.path if self.scheme == "unix" else self.url
        if isinstance(exc, PermissionError):
            text = (
                f"no permission to use {where}: run as root, or as a member of the group fleet "
                "(usermod -aG fleet USER, then log in again)"
            )
        elif isinstance(exc, FileNotFoundError):
            text = (
                f"no fleetd here, as there is no socket {where}: start it "
                "(systemctl start fleet.socket), or name another machine's with --endpoint"
            )
        elif isinstance(exc, ConnectionRefusedError):
            text = f"nothing listens on {where}: is fleetd running (systemctl status fleet)?"
        elif isinstance(exc, TimeoutError):
            text = f"fleetd at {where} did not answer within {timeout or 0:g} s (--request-timeout)"
        elif isinstance(exc, socket.gaierror):
            text = f"cannot find the host {self.host} of --endpoint {where}: {exc.strerror}"
        elif type(exc).__name__ == "SSLCertVerificationError":
            reason = getattr(exc, "verify_message", "") or exc
            text = f"the certificate of {where} is not trusted ({reason}): check --ca-file"
        elif isinstance(exc, WireError):
            text = f"what answers at {where} is not fleetd: {exc}"
        else:
            text = f"cannot talk to fleetd at {where}: {str(exc) or type(exc).__name__}"
            if self.scheme == "https" and not self.files["--cert-file"]:
                text += " (it may want a certificate: --cert-file and --key-file)"
        return CtlError(text)


class Stream:
    """Lines that the server sends as things happen. One thread reads, another one may stop it."""

    def __init__(self, connection: Connection, response: Response) -> None:
        self._connection = connection
        self._response = response

    def lines(self) -> Iterator[bytes]:
        """Until the stream is stopped, lost or silent for too long."""
        with contextlib.suppress(OSError, WireError):
            yield from self._response.lines()

    def stop(self) -> None:
        self._connection.interrupt()

    def close(self) -> None:
        """When nobody reads any more."""
        self._connection.close()


class Answer(NamedTuple):
    """What a machine says of a unit; ``code`` is the exit status of what it ran there."""

    text: str
    code: int


class Client:
    """Requests to one endpoint. Every method raises :class:`CtlError` when it cannot be done."""

    def __init__(self, endpoint: Endpoint, timeout: float, debug: bool = False) -> None:
        self.endpoint = endpoint
        self.timeout = timeout
        self._debug = debug
        self._connection = endpoint.connection(timeout)

    def close(self) -> None:
        self._connection.close()

    # resources

    def machines(self) -> list[Json]:
        return list(self._pages("/machines", "machines"))

    def units(self, **query: str) -> list[Json]:
        """``query`` may be what only our server knows (any other gives all units): ``namePrefix``, and ``withReason=1``
        for the wanted units that have no machine or a reason to tell."""
        return list(self._pages("/units", "units", query))

    def unit(self, name: str) -> Json | None:
        status, body = self._request("GET", f"/units/{_part(name)}", missing=True)
        return None if status == 404 else body

    def states(self, unit: str = "", machine: str = "") -> list[Json]:
        query = {"unitName": unit, "machineID": machine}
        return list(self._pages("/state", "states", {key: value for key, value in query.items() if value}))

    def put_unit(self, name: str, body: Json) -> None:
        self._request("PUT", f"/units/{_part(name)}", body)

    def delete_unit(self, name: str) -> bool:
        """False when there is no such unit."""
        status, _body = self._request("DELETE", f"/units/{_part(name)}", missing=True)
        return status != 404

    def patch_metadata(self, machine: str, changes: dict[str, str]) -> None:
        """Set metadata of a machine; "" takes a key away."""
        operations = []
        for key, value in changes.items():
            operation = {"op": "add", "value": value} if value else {"op": "remove"}
            operations.append({**operation, "path": f"/{machine}/metadata/{key}"})
        self._request("PATCH", "/machines", operations)

    def set_drain(self, machine: str, draining: bool) -> None:
        method = "POST" if draining else "DELETE"
        status, body = self._request(method, f"/machines/{_part(machine)}/drain", missing=True)
        if status == 404:
            raise self._missing(body, "drain machines")

    def rebalance(self, most: int, apply: bool) -> list[Json]:
        """Moves as ``name``, ``source`` and ``target``; with ``apply`` they are asked for."""
        status, body = self._request("POST" if apply else "GET", f"/rebalance?most={most}", missing=True)
        if status == 404:
            raise self._missing(body, "rebalance")
        return list(body.get("moves", ()))

    @staticmethod
    def _missing(body: Json, what: str) -> CtlError:
        """The error of an answer 404, which upstream's fleetd gives without words."""
        return CtlError(_message(body) or f"this fleetd cannot {what}: it has no such resource")

    # what machines say of units

    def ask(self, what: str, unit: str, machine: str, timeout: float | None, **query: str) -> Answer | None:
        """The machine's ``status``, ``journal`` or ``restart`` of a unit; None when the server cannot ask."""
        connection, response = self._ask(what, unit, machine, timeout, query)
        text = self._whole(connection, response, timeout)
        if self._cannot_ask(response.status, text):
            return None
        if response.status != 200:
            self._answer(response.status, text, missing=False)
        code = response.headers.get("x-exit-status", "0")
        return Answer(text.decode("utf-8", "replace"), int(code) if code.isdecimal() else 1)

    def follow(self, unit: str, machine: str, **query: str) -> Generator[str, None, None] | None:
        """The journal of a unit as it grows, until the server ends it; None when the server cannot ask."""
        connection, response = self._ask("journal", unit, machine, self.timeout, {**query, "follow": "1"})
        if response.status == 200:
            connection.wait_for_ever()
            return self._followed(connection, response)
        text = self._whole(connection, response, self.timeout)
        if not self._cannot_ask(response.status, text):
            self._answer(response.status, text, missing=False)
        return None

    def _ask(
        self, what: str, unit: str, machine: str, timeout: float | None, query: dict[str, str]
    ) -> tuple[Connection, Response]:
        method = "POST" if what == "restart" else "GET"
        path = f"{PREFIX}/units/{_part(unit)}/{what}?{_query({'machineID': machine, **query})}"
        self._debug_line(f"{method} {self.endpoint.url} {path}")
        return self._open(method, path, timeout)

    def _open(self, method: str, path: str, timeout: float | None) -> tuple[Connection, Response]:
        """A request on a connection of its own, and the answer whose body is still to be read."""
        connection = self.endpoint.connection(timeout)
        try:
            return connection, connection.request(method, path, None, {})
        except (OSError, WireError) as exc:
            connection.close()
            raise self.endpoint.explain(exc, timeout) from None

    def _whole(self, connection: Connection, response: Response, timeout: float | None) -> bytes:
        """The body of an answer, with which its connection ends."""
        try:
            return response.read()
        except (OSError, WireError) as exc:
            raise self.endpoint.explain(exc, timeout) from None
        finally:
            connection.close()

    @staticmethod
    def _followed(connection: Connection, response: Response) -> Generator[str, None, None]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        try:
            with contextlib.suppress(OSError, WireError):
                for piece in response.pieces():
                    yield decoder.decode(piece)
        finally:
            connection.close()

    @staticmethod
    def _cannot_ask(status: int, text: bytes) -> bool:
        """Upstream's fleetd says nothing but 404 of paths that it does not know."""
        try:
            return status == 404 and not _message(json.loads(text))
        except ValueError:
            return False

    def events(self) -> Stream | None:
        """A stream of changes on a connection of its own; None when the server has none."""
        connection = self.endpoint.connection(STREAM_TIMEOUT)
        try:
            response = connection.request("GET", f"{PREFIX}/events", None, {})
        except (OSError, WireError):
            connection.close()
            return None
        if response.status == 200 and "ndjson" in response.headers.get("content-type", ""):
            return Stream(connection, response)
        connection.close()
        return None

    # announcements

    def announcements(self) -> list[Json]:
        """What is announced, as ``service``, ``unit``, ``machine``, ``address`` and ``port``."""
        status, body = self._request("GET", "/announcements", missing=True)
        if status == 404:
            raise self._missing(body, "tell where services are")
        return list(body.get("announcements", ()))

    def follow_announcements(self, services: Sequence[str]) -> Stream:
        """A line with all that is announced of these services, now and after each change; empty ones between them."""
        return self._lines("GET", urlencode([("watch", "1"), *(("service", service) for service in services)]))

    def announce(self, **query: str) -> Stream:
        """Announce ``unit`` of ``service`` at ``port`` for as long as the stream is open."""
        return self._lines("POST", _query(query))

    def _lines(self, method: str, query: str) -> Stream:
        connection, response = self._open(method, f"{PREFIX}/announcements?{query}", STREAM_TIMEOUT)
        if response.status == 200:
            return Stream(connection, response)
        _status, body = self._answer(response.status, self._whole(connection, response, STREAM_TIMEOUT), missing=True)
        raise self._missing(body, "tell where services are")

    # transport

    def _pages(self, path: str, field: str, query: dict[str, str] | None = None) -> Iterator[Json]:
        wanted = dict(query or {})
        while True:
            suffix = f"?{_query(wanted)}" if wanted else ""
            _status, body = self._request("GET", path + suffix)
            yield from body.get(field, ())
            token = body.get("nextPageToken", "")
            if not token:
                return
            wanted["nextPageToken"] = token

    def _send(self, method: str, path: str, raw: bytes | None) -> tuple[int, bytes]:
        headers = {"Accept": "application/json"}
        if raw is not None:
            headers["Content-Type"] = "application/json"
        reused = self._connection.is_open
        try:
            response = self._connection.request(method, PREFIX + path, raw, headers)
            text = response.read()
        except (ConnectionError, WireError):
            self._connection.close()
            if not reused:
                raise
            # The server closed a connection that lay idle: every request here may be sent twice.
            return self._send(method, path, raw)
        if not response.keeps:
            self._connection.close()
        return response.status, text

    def _debug_line(self, text: str) -> None:
        if self._debug:
            print(f"DEBUG {text}", file=sys.stderr)

    def _request(self, method: str, path: str, body: Any = None, missing: bool = False) -> tuple[int, Json]:
        raw = None if body is None else json.dumps(body).encode()
        self._debug_line(f"{method} {self.endpoint.url} {PREFIX}{path}")
        try:
            status, text = self._send(method, path, raw)
        except (OSError, WireError) as exc:
            self.close()
            raise self.endpoint.explain(exc, self.timeout) from None
        self._debug_line(f"{status} {len(text)} bytes")
        return self._answer(status, text, missing)

    def _answer(self, status: int, text: bytes, missing: bool) -> tuple[int, Json]:
        try:
            body = json.loads(text) if text.strip() else {}
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise CtlError(f"what answers at {self.endpoint.url} is not fleetd (status {status}, no JSON)")
        if status < 300 or (missing and status == 404):
            return status, body
        message = _message(body)
        if status == 503:
            raise CtlError(f"fleetd cannot do this now: {message or 'it gave no reason'}")
        raise CtlError(message or f"fleetd answered {status} without a reason; its log may tell")
