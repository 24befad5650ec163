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

import http.client
import importlib
import json
import math
import os
import queue
import re
import socket
import ssl
import threading
import time
import typing as t
from dataclasses import dataclass
from urllib.parse import urlsplit

from ansible_collections.flotilla.cluster.plugins.module_utils import _http_session

if t.TYPE_CHECKING:
    import requests
    from ansible.module_utils.basic import AnsibleModule

REQUESTS_ERROR: str | None = _http_session.REQUESTS_ERROR
REQUESTS_PACKAGE = "python3-requests"
MISSING_REQUESTS_HINT = f"on Debian and Ubuntu: apt-get install {REQUESTS_PACKAGE}"

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
    """Has C(requests) there, or ends the module with one sentence.

    Where it is missing it is installed, as ansible-core's module for apt does with the library that it needs.
    """
    if REQUESTS_ERROR is None:
        return
    # late, as plugins that use this file have no AnsibleModule
    from ansible.module_utils.basic import missing_required_lib

    problem = _install_requests(module)
    if problem is None:
        module.warn(f"{REQUESTS_PACKAGE} was missing on this host and has been installed, as this module needs it")
        return
    reason = f"to speak HTTP ({MISSING_REQUESTS_HINT}){problem}"
    module.fail_json(msg=missing_required_lib("requests", reason=reason), exception=REQUESTS_ERROR)


def _install_requests(module: AnsibleModule) -> str | None:
    """Installs the distribution's package and loads it.

    Returns None when that went well, else what apt had against it, to stand behind a sentence.
    """
    global REQUESTS_ERROR
    apt = module.get_bin_path("apt-get")
    # a Python of somebody's own does not see what the distribution installs
    if apt is None or module.check_mode or os.geteuid() != 0 or not _http_session.FROM_DISTRIBUTION:
        return ""
    options = ["-q", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"]
    environment = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    status, said = 1, ""
    # lists can be missing, or name versions that the archive has replaced
    for commands in ([], ["update"]):
        for command in [*commands, f"install {REQUESTS_PACKAGE}"]:
            status, _output, said = module.run_command(
                [apt, *options, *command.split()], environ_update=environment, handle_exceptions=False
            )
        if status == 0:
            break
    importlib.invalidate_caches()
    importlib.reload(_http_session)
    REQUESTS_ERROR = _http_session.REQUESTS_ERROR
    if REQUESTS_ERROR is None:
        return None
    return f"; apt-get could not install it: {printable(said)}" if status else ""


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


@dataclass(frozen=True)
class Tls:
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
                    f"ca_cert {self.ca_cert} holds no PEM certificate ({_ssl_reason(error)});"
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
                f" and its unencrypted key ({_ssl_reason(error)}); name a pair that belongs together"
            ) from error


def _ssl_reason(error: BaseException) -> str:
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


@dataclass(frozen=True)
class Reply:
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
            return _bounded(seconds, ask)
        except HttpError:
            raise
        except _Overdue:
            # the thread that waits still owns the session
            self._session = None
            raise _slow(asked, seconds, sent=True) from None
        except Exception as error:  # requests lets some of urllib3's and ssl's errors through
            raise explain(asked, error, seconds, self.base) from error

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

    def rows(
        self,
        path: str,
        payload: dict[str, t.Any],
        *,
        headers: t.Mapping[str, str] | None = None,
        silence: float | None = None,
    ) -> Reply | t.Iterator[bytes]:
        """Posts, and hands out the lines of the answer as they come; whole answers may be larger than memory.

        :param silence: seconds that may pass without a byte, the time-out of a request if not given
        :returns: the whole reply when its status is not 200
        :raises HttpError: here or from the iterator, when no answer or not all of it came
        """
        asked = f"POST {self.base}{path}"
        session = self._new_session()
        left = self._deadline.left() if self._deadline is not None else self._timeout
        seconds = min(self._timeout, left)
        if seconds <= 0:
            raise _slow(asked, 0, sent=False)
        quiet = min(seconds if silence is None else silence, left)
        try:
            response = self._send(session, "POST", path, payload, headers, seconds, read_timeout=quiet)
            if response.status_code != 200:
                with response:
                    content_type = response.headers.get("Content-Type", "")
                    return Reply(asked, response.status_code, content_type, self._body(asked, response))
        except HttpError:
            raise
        except Exception as error:  # as in request()
            raise explain(asked, error, quiet, self.base) from error
        return self._split(asked, response, quiet)

    def _split(self, asked: str, response: requests.Response, quiet: float) -> t.Iterator[bytes]:
        rest = b""
        with response:
            try:
                for part in response.iter_content(None):
                    *lines, rest = (rest + part).split(b"\n")
                    yield from (line for line in lines if line.strip())
                    if self._deadline is not None and self._deadline.passed:
                        raise _slow(asked, self._deadline.seconds, sent=True)
            except (HttpError, GeneratorExit):
                raise
            except Exception as error:  # as in request()
                raise explain(asked, error, quiet, self.base) from error
        if rest.strip():
            yield rest

    def lines(self, path: str) -> LineStream | None:
        """Opens an endless answer of lines, on a connection of its own; None when the server has no such thing."""
        asked = f"GET {self.base}{path}"
        session = self._new_session()

        def ask() -> requests.Response | None:
            response = self._send(session, "GET", path, None, None, self._timeout, read_timeout=None)
            if response.status_code == 200:
                return response
            response.close()
            return None

        try:
            response = _bounded(self._timeout, ask)
        except (_Overdue, Exception):
            return None
        return None if response is None else LineStream(asked, response)

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
            raise _closed(asked, "the connection was closed before a whole answer had come")
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


class LineStream:
    """Lines of an endless answer, read beside the caller so that waiting for one can be bounded.

    The reader ends with the stream or with the process: a blocked read cannot be called off cleanly.
    """

    _LONGEST = 1_000_000

    def __init__(self, asked: str, response: requests.Response) -> None:
        self.asked = asked
        self._lines: queue.Queue[bytes | None] = queue.Queue(maxsize=1000)
        self._ended = False
        threading.Thread(target=self._read, args=(response,), daemon=True).start()

    def _read(self, response: requests.Response) -> None:
        try:
            while True:
                line = response.raw.readline(self._LONGEST)
                if not line:
                    break
                # an empty one only shows that the stream lives
                if line.strip():
                    self._lines.put(line)
        except Exception:
            # whatever ended the stream, its end is all that the other side needs
            pass
        finally:
            response.close()
            self._lines.put(None)

    @property
    def ended(self) -> bool:
        """Whether the server has closed the stream and all its lines were taken."""
        return self._ended

    def wait(self, seconds: float) -> bool:
        """Waits for one line at most so long, and takes all that have come by then; False when none came."""
        if self._ended:
            return False
        try:
            line = self._lines.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return False
        while line is not None:
            try:
                line = self._lines.get_nowait()
            except queue.Empty:
                return True
        self._ended = True
        return True


class _Overdue(Exception):
    """The work did not end in time."""


_T = t.TypeVar("_T")


def _bounded(seconds: float, work: t.Callable[[], _T]) -> _T:
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
        raise _Overdue
    return results[0]


def _seconds(deadline: Deadline | None) -> str:
    return "seconds" if deadline is None else f"{deadline.seconds:g} s"


def _slow(asked: str, seconds: float, *, sent: bool) -> HttpError:
    what = "no whole answer" if sent else "no connection"
    fix = (
        "check that it is healthy, or raise request_timeout"
        if sent
        else "check the address, and that no firewall is in between"
    )
    return HttpError(asked, f"{what} within {seconds:.3g} s", fix, kind="timeout", sent=sent)


def _closed(asked: str, cause: str) -> HttpError:
    fix = "check the log of the service there"
    if " http://" in asked:
        fix += ", and write https:// if it speaks TLS"
    elif " https://" in asked:
        # the alert that says so is lost when we are still writing
        fix += ", and that it accepts client_cert"
    return HttpError(asked, cause, fix, kind="closed", sent=True)


def _chain(error: BaseException) -> list[BaseException]:
    """The error and all that it wraps, in whichever way: requests, urllib3 and ssl each have their own."""
    found: list[BaseException] = []
    todo: list[t.Any] = [error]
    while todo:
        item = todo.pop()
        if isinstance(item, BaseException) and all(item is not other for other in found):
            found.append(item)
            todo += [item.__cause__, item.__context__, getattr(item, "reason", None), *item.args]
    return found


def explain(asked: str, error: BaseException, seconds: float, base: str) -> HttpError:
    """The sentence for what requests or the standard library raised."""
    chain = _chain(error)

    def first(*kinds: type[BaseException]) -> t.Any:
        return next((item for item in chain if isinstance(item, kinds)), None)

    kinds = _http_session.errors()
    tls = _explain_tls(asked, first(ssl.SSLCertVerificationError), first(ssl.SSLError), first(kinds.tls))
    if tls is not None:
        return tls
    if first(kinds.timeout, TimeoutError, socket.timeout) is not None:
        return _slow(asked, seconds, sent=first(*kinds.connect_timeouts) is None)
    local = first(FileNotFoundError, PermissionError)
    if local is not None and base.startswith("unix://"):
        missing = isinstance(local, FileNotFoundError)
        cause = "there is no such socket" if missing else "permission denied on the socket"
        fix = (
            "start the service that listens on it"
            if missing
            else "run the task with become, or as a member of the socket's group"
        )
        return HttpError(asked, cause, fix, kind="local", sent=False)
    if first(ConnectionRefusedError) is not None:
        return HttpError(
            asked,
            "connection refused",
            "check that the service runs there and listens on this address",
            kind="refused",
            sent=False,
        )
    if first(socket.gaierror) is not None:
        return HttpError(
            asked, "the host name cannot be resolved", "correct the name, or give an address", kind="dns", sent=False
        )
    if first(http.client.HTTPException, ConnectionResetError, BrokenPipeError, ConnectionAbortedError) is not None:
        return _closed(asked, "the connection was closed before a whole answer had come")
    system = next((item for item in chain if isinstance(item, OSError) and item.errno and item.strerror), None)
    if system is not None:
        cause = str(system.strerror).lower()
        return HttpError(asked, cause, "check the address and the route to it", kind="unreachable", sent=False)
    cause = f"no usable answer ({printable(str(error))})"
    return HttpError(asked, cause, "check that this address belongs to the service", kind="answer", sent=True)


def _explain_tls(asked: str, unverified: t.Any, low: t.Any, high: t.Any) -> HttpError | None:
    """The sentence for a failed TLS handshake, None when it was not that."""
    if unverified is None and low is None and high is None:
        return None
    if unverified is not None:
        cause = f"its certificate does not verify ({printable(str(unverified.verify_message))})"
        fix = "ca_cert must hold the authority that signed it, and it must name the host that the URL names"
        return HttpError(asked, cause, fix, kind="tls", sent=False)
    reason = str(getattr(low, "reason", None) or "")
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
        return HttpError(
            asked, "what listens there does not speak TLS", "correct the port, or use http://", kind="tls", sent=False
        )
    if "ALERT" in reason:
        cause = f"it refused the TLS connection ({_ssl_reason(low)})"
        fix = "client_cert and client_key must hold a valid certificate signed by an authority that it trusts"
        return HttpError(asked, cause, fix, kind="tls", sent=False)
    if "EOF" in reason or isinstance(low, ssl.SSLEOFError):
        return _closed(asked, "the TLS connection was closed before a whole answer had come")
    cause = f"the TLS connection failed ({_ssl_reason(low) if low is not None else printable(str(high))})"
    return HttpError(asked, cause, "check ca_cert, client_cert and client_key", kind="tls", sent=False)
