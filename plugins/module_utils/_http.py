# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""HTTP for the modules: one kept session to one base URL, with bounds on time and size.

Everything that can go wrong on the way becomes an C(HttpError) whose text is one sentence: what was
asked of whom, what came instead, and what to do about it. C(requests) does the protocol; it is used
because it keeps connections, speaks mutual TLS and lets a Unix socket stand in for a TCP one.
"""

from __future__ import annotations

import json
import math
import os
import re
import ssl
import threading
import time
import typing as t
from urllib.parse import urlsplit

from ansible_collections.flotilla.cluster.plugins.module_utils import _http_session

if t.TYPE_CHECKING:
    import requests
    from ansible.module_utils.basic import AnsibleModule

_MEGABYTE = 1_000_000
# 45 bytes of answer are enough to tell a proxy's page from a truncated reply
_SNIPPET = 45

Kind = t.Literal["refused", "unreachable", "dns", "timeout", "tls", "closed", "local", "answer"]


class ClusterError(Exception):
    """What went wrong, as the one sentence that a module shows."""


class HttpError(ClusterError):
    """A request that got no usable answer.

    :ivar kind: class of the failure
    :ivar sent: whether the other side may have acted on the request
    :ivar asked: what was asked of whom, the beginning of the sentence
    :ivar cause: what came instead
    :ivar fix: what to do about it
    """

    def __init__(self, asked: str, cause: str, fix: str, *, kind: Kind, sent: bool) -> None:
        super().__init__(f"{asked}: {cause}; {fix}")
        self.kind: Kind = kind
        self.sent = sent
        self.asked = asked
        self.cause = cause
        self.fix = fix


class OptionError(ClusterError):
    """An option's value that cannot be used; nothing was asked of anyone."""


def require_requests(module: AnsibleModule) -> None:
    """Has C(requests) there, or ends the module with one sentence."""
    if _http_session.REQUESTS_ERROR is not None:
        # late, as it is rarely needed; and plugins that use this file have no AnsibleModule
        from ansible_collections.flotilla.cluster.plugins.module_utils._http_install import install_or_end

        install_or_end(module)


def answer(module: AnsibleModule, work: t.Callable[[], dict[str, t.Any]]) -> t.NoReturn:
    """Ends a module with the result of its work, or with the one sentence that says why there is none."""
    require_requests(module)
    try:
        result = work()
    except ClusterError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


def printable(text: str, limit: int = 200) -> str:
    """Text of unknown origin for a message: one line, no control characters, at most C(limit) long."""
    clean = re.sub(r"\s+", " ", text.encode("utf-8", "replace").decode("utf-8")).strip()
    clean = "".join(char if char.isprintable() else "?" for char in clean)
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."


class Deadline:
    """Seconds that several requests may take together, counted from now."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left, 0 when it has passed."""
        return max(0.0, self._end - time.monotonic())

    @property
    def passed(self) -> bool:
        return self.left() <= 0


class Tls(t.NamedTuple):
    """PEM files for an C(https) URL. An empty string: the host's authorities, or no certificate."""

    ca_cert: str = ""
    client_cert: str = ""
    client_key: str = ""

    @classmethod
    def of(cls, params: t.Mapping[str, t.Any]) -> Tls:
        """The files that a module's parameters name."""
        return cls(params["ca_cert"] or "", params["client_cert"] or "", params["client_key"] or "")

    def check(self) -> None:
        """Raises C(OptionError) for a file that is missing, unreadable or not what it should be.

        requests would find out on the first connection, and say so less clearly.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca_cert:
            _readable("ca_cert", self.ca_cert)
            try:
                context.load_verify_locations(self.ca_cert)
            except (ssl.SSLError, OSError) as error:
                raise OptionError(
                    f"ca_cert {self.ca_cert} holds no PEM certificate ({ssl_reason(error)});"
                    " name the file with the authority's certificate"
                ) from error
        if not self.client_cert:
            return
        if not self.client_key:
            raise OptionError(f"client_cert {self.client_cert} is given without client_key; give the file with its key")
        _readable("client_cert", self.client_cert)
        _readable("client_key", self.client_key)
        try:
            # the password is asked for on the terminal when none is given
            context.load_cert_chain(self.client_cert, self.client_key, password=b"")
        except (ssl.SSLError, OSError, ValueError) as error:
            raise OptionError(
                f"client_cert {self.client_cert} and client_key {self.client_key} are not a PEM certificate"
                f" and its unencrypted key ({ssl_reason(error)}); name a pair that belongs together"
            ) from error


def ssl_reason(error: BaseException) -> str:
    """What OpenSSL has to say, in small letters."""
    reason = getattr(error, "reason", None)
    return str(reason).lower().replace("_", " ") if reason else printable(str(error))


def _readable(option: str, path: str) -> None:
    hint = (
        f"give {option}, make it readable, or set it to an empty string to do without"
        if option != "client_key"
        else "give client_key, or make it readable"
    )
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise OptionError(f"{option} {path} cannot be read: {os.strerror(error.errno or 0).lower()}; {hint}") from error


def check_seconds(option: str, seconds: float) -> None:
    """:raises OptionError: unless a time is one that can be waited for"""
    if not math.isfinite(seconds) or seconds <= 0:
        raise OptionError(f"{option} is {seconds:g}; give seconds greater than 0")


def base_url(option: str, value: str, *, sockets: bool = False) -> str:
    """A checked base URL without the slash at its end.

    :param option: name of the option, for the message
    :param sockets: whether C(unix:///path) is allowed, too
    :raises OptionError: when the value is no such URL
    """
    forms = "https://host:port or http://host:port"
    if sockets:
        forms = f"unix:///path, {forms}"
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise OptionError(f"{option} {printable(value)!r} is not a URL; give {forms}") from None
    if sockets and parts.scheme == "unix":
        if parts.netloc or not parts.path.startswith("/") or parts.query or parts.fragment:
            raise OptionError(f"{option} {printable(value)!r} names no absolute path; give unix:///path/to/socket")
        return f"unix://{parts.path}"
    if parts.username is not None or parts.password is not None:
        # the value is not repeated: it holds a password
        raise OptionError(f"{option} has a user or password in the URL, which ends up in logs; give {forms}")
    sound = parts.scheme in ("http", "https") and parts.hostname and not re.search(r"[\s\x00-\x1f]", value)
    if not sound or parts.query or parts.fragment or port == 0:
        raise OptionError(f"{option} {printable(value)!r} is not a URL of a server; give {forms}")
    return value.rstrip("/")


class Reply(t.NamedTuple):
    """An answer: status, body, and what was asked, for messages."""

    asked: str
    status: int
    content_type: str
    body: bytes

    def json_object(self) -> dict[str, t.Any]:
        """The body as a JSON object.

        :raises HttpError: of kind C(answer) when it is anything else
        """
        try:
            data = json.loads(self.body)
            if b"\\ud" in self.body.lower():
                # half of a surrogate pair is JSON, but no text that anything could print
                json.dumps(data, ensure_ascii=False).encode("utf-8")
        except (ValueError, RecursionError):
            raise self.unusable("answer that is not JSON") from None
        if not isinstance(data, dict):
            raise self.unusable(f"JSON {_json_type(data)} where an object belongs")
        return data

    def unusable(self, what: str, fix: str = "") -> HttpError:
        """The error for an answer that is not what was asked for."""
        cause = f"got status {self.status} with {_article(what)}{self._snippet()}"
        fix = fix or "check that this address and port belong to the service, not to a proxy or another program"
        return HttpError(self.asked, cause, fix, kind="answer", sent=True)

    def _snippet(self) -> str:
        """The beginning of a page; never of JSON, whose values may be secrets."""
        text = self.body[:200].decode("utf-8", "replace").lstrip()
        if not text:
            return " (an empty body)"
        if text[0] in '{["':
            return f" ({len(self.body)} bytes)"
        return f" ({printable(text, _SNIPPET)!r})"


def _article(what: str) -> str:
    return what if what.startswith("JSON") else ("an " if what[0] in "aeiou" else "a ") + what


def _json_type(data: t.Any) -> str:
    if data is None:
        return "null"
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(data), "value")


class HttpClient:
    """One kept session to one base URL.

    :param base: as C(base_url) returns it
    :param tls: files for C(https); checked when the first request is made
    :param timeout: seconds for one request, from name look-up to the last byte
    :param deadline: bound for all requests together
    :param max_body: bytes that an answer may have
    :param proxies: whether the environment's proxy variables count
    """

    def __init__(
        self,
        base: str,
        *,
        tls: Tls | None = None,
        timeout: float = 10.0,
        deadline: Deadline | None = None,
        max_body: int = 64 * _MEGABYTE,
        proxies: bool = False,
    ) -> None:
        self.base = base
        self._tls = tls or Tls()
        self._timeout = timeout
        self._deadline = deadline
        self._max_body = max_body
        self._use_proxies = proxies
        self._session: requests.Session | None = None

    def request(
        self,
        method: str,
        path: str,
        payload: dict[str, t.Any] | None = None,
        *,
        headers: t.Mapping[str, str] | None = None,
        shown: str | None = None,
    ) -> Reply:
        """Asks and waits for the whole answer, whatever its status.

        :param path: path and query, beginning with a slash
        :param payload: sent as JSON
        :param shown: what messages have in place of a path that holds a secret
        :raises HttpError: when no whole answer came
        :raises OptionError: when the TLS files cannot be used
        """
        asked = f"{method} {self.base}{path if shown is None else shown}"
        seconds = self._left(asked)
        session = self._open()

        def ask() -> Reply:
            response = self._send(session, method, path, payload, headers, seconds)
            with response:
                return Reply(
                    asked, response.status_code, response.headers.get("Content-Type", ""), self._body(asked, response)
                )

        try:
            return bounded(seconds, ask)
        except HttpError:
            raise
        except Overdue:
            # the thread that waits still owns the session
            self._session = None
            raise _failure().slow(asked, seconds, sent=True) from None
        except Exception as error:  # requests lets some of urllib3's and ssl's errors through
            raise _failure().explain(asked, error, seconds, self.base) from error

    def _left(self, asked: str) -> float:
        """Seconds that a request may take now."""
        seconds = self._timeout if self._deadline is None else min(self._timeout, self._deadline.left())
        if seconds <= 0:
            raise HttpError(
                asked,
                f"not sent, as the {_seconds(self._deadline)} for all requests have passed",
                "raise timeout, or find out what was slow",
                kind="timeout",
                sent=False,
            )
        return seconds

    def close(self) -> None:
        """Closes the kept connection."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _send(
        self,
        session: requests.Session,
        method: str,
        path: str,
        payload: dict[str, t.Any] | None,
        headers: t.Mapping[str, str] | None,
        seconds: float,
        *,
        read_timeout: float | None = -1,
    ) -> requests.Response:
        body = None if payload is None else json.dumps(payload, separators=(",", ":")).encode()
        sent_headers = {} if body is None else {"Content-Type": "application/json"}
        sent_headers.update(headers or {})
        root = _http_session.SOCKET_ROOT if self.base.startswith("unix://") else self.base
        url = root + path
        return session.request(
            method,
            url,
            data=body,
            headers=sent_headers,
            timeout=(seconds, seconds if read_timeout == -1 else read_timeout),
            allow_redirects=False,
            stream=True,
            proxies=_http_session.proxies_for(url) if self._use_proxies else None,
        )

    def _body(self, asked: str, response: requests.Response) -> bytes:
        parts = []
        size = 0
        for part in response.iter_content(65536):
            parts.append(part)
            size += len(part)
            if size > self._max_body:
                raise self._too_large(asked)
        body = b"".join(parts)
        expected = response.headers.get("Content-Length", "")
        # requests with urllib3 before 2.0 is silent about an answer that ends early
        if expected.isdigit() and size < int(expected) and not response.headers.get("Content-Encoding"):
            raise _failure().closed(asked, "the connection was closed before a whole answer had come")
        return body

    def _too_large(self, asked: str) -> HttpError:
        cause = f"the answer is larger than {self._max_body / _MEGABYTE:g} MB"
        fix = "ask for less, or check that this address belongs to the service"
        return HttpError(asked, cause, fix, kind="answer", sent=True)

    def _open(self) -> requests.Session:
        if self._session is None:
            self._session = self._new_session()
        return self._session

    def _new_session(self) -> requests.Session:
        if self.base.startswith("unix://"):
            return _http_session.new_session(socket_path=self.base[len("unix://") :])
        if not self.base.startswith("https://"):
            return _http_session.new_session()
        self._tls.check()
        return _http_session.new_session(self._tls.ca_cert, self._tls.client_cert, self._tls.client_key)


class Overdue(Exception):
    """The work did not end in time."""


_T = t.TypeVar("_T")


def bounded(seconds: float, work: t.Callable[[], _T]) -> _T:
    """Does the work in a thread and waits for it only so long.

    A socket's time-out bounds each read, not all of them, and nothing bounds a name look-up. The thread of
    a work that is overdue is left behind; as a daemon it keeps no process alive.
    """
    results: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # handed to the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    # the socket's own time-out ends the usual case, and tells more
    thread.join(seconds + 0.2)
    if errors:
        raise errors[0]
    if not results:
        raise Overdue
    return results[0]


def _failure() -> t.Any:
    """What explains failures. Loaded late: there is one seldom, and Python compiles it for each module anew."""
    from ansible_collections.flotilla.cluster.plugins.module_utils import _http_failure

    return _http_failure


def _seconds(deadline: Deadline | None) -> str:
    return "seconds" if deadline is None else f"{deadline.seconds:g} s"
