# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import socket
import ssl
import threading
import time

import pytest

pytest.importorskip("requests")

import requests
from ansible_collections.flotilla.cluster.plugins.module_utils import _http, _http_install, _http_session, _http_unix
from ansible_collections.flotilla.cluster.plugins.module_utils._http import (
    Deadline,
    HttpClient,
    HttpError,
    OptionError,
    Reply,
    Tls,
    base_url,
    printable,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http_stream import StreamClient
from ansible_collections.flotilla.cluster.tests.unit.plugins.scripted_http import Exchange


@pytest.mark.parametrize(
    ("value", "sockets", "result"),
    [
        ("https://192.0.2.1:2379/", False, "https://192.0.2.1:2379"),
        ("http://[2001:db8::1]:2379", False, "http://[2001:db8::1]:2379"),
        ("https://example.org/discovery", False, "https://example.org/discovery"),
        ("unix:///run/fleet.sock", True, "unix:///run/fleet.sock"),
    ],
)
def test_base_urls(value, sockets, result):
    assert base_url("o", value, sockets=sockets) == result


@pytest.mark.parametrize(
    "value",
    [
        "",
        "host:2379",
        "https://",
        "https://:2379",
        "https://h:0",
        "https://h:http",
        "https://h:1?x=1",
        "https://h:1#x",
        "https://h h:1",
        "https://h\n:1",
        "https://[::1:1",
        "file:///etc/passwd",
        "unix:///run/fleet.sock",
    ],
)
def test_what_is_no_base_url(value):
    with pytest.raises(OptionError, match=r"^option .*; give https://host:port or http://host:port$"):
        base_url("option", value)


def test_a_password_in_a_url_is_refused_and_not_repeated():
    with pytest.raises(OptionError) as caught:
        base_url("url", "https://ann:pass1234@h:1")
    assert "pass1234" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "limit", "result"),
    [("a\n b\tc", 20, "a b c"), ("\x1b[2Jx", 20, "?[2Jx"), ("x" * 30, 10, "x" * 7 + "..."), ("\ud800", 5, "?")],
)
def test_text_of_unknown_origin_becomes_one_printable_line(text, limit, result):
    assert printable(text, limit) == result


def test_a_unix_socket_keeps_its_connection(serve, tmp_path):
    server = serve(*(Exchange("GET", f"/{number}", answer=b"x") for number in range(3)), socket=tmp_path / "s")
    client = HttpClient(server.url)
    for number in range(3):
        assert client.request("GET", f"/{number}").body == b"x"
    assert server.connections == 1


def test_environment_and_netrc_do_not_reach_into_the_cluster(serve, tmp_path, monkeypatch):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login ann password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    server = serve(Exchange("GET", "/", wanted_headers={"Authorization": None}))
    assert HttpClient(server.url).request("GET", "/").status == 200


def test_a_proxy_is_used_where_it_is_asked_for(serve, monkeypatch):
    proxy = serve(Exchange("GET", "http://discovery.invalid/new", answer=b"through the proxy"))
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)
    reply = HttpClient("http://discovery.invalid", proxies=True).request("GET", "/new")
    assert reply.body == b"through the proxy"


def raises(client: HttpClient, **more: str) -> HttpError:
    with pytest.raises(HttpError) as caught:
        client.request("GET", "/x", **more)
    return caught.value


def test_a_redirect_is_not_followed(serve):
    server = serve(Exchange("GET", "/", status=302, headers={"Location": "http://127.0.0.1:1/"}))
    assert HttpClient(server.url).request("GET", "/").status == 302


def test_an_answer_that_is_too_large_is_given_up(serve):
    server = serve(Exchange("GET", "/x", answer=b"x" * 200_000))
    error = raises(HttpClient(server.url, max_body=100_000))
    assert error.cause == "the answer is larger than 0.1 MB"


class Dripper:
    """Sends one byte of an endless header every few milliseconds: no single read of it ever times out."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._drip, daemon=True)
        self._thread.start()

    def _drip(self) -> None:
        connection, _peer = self._socket.accept()
        with connection:
            while not self._end.wait(0.02):
                connection.sendall(b"H")

    def close(self) -> None:
        self._end.set()
        self._thread.join()
        self._socket.close()


def test_a_server_that_drips_is_left_when_the_time_is_over():
    server = Dripper()
    begun = time.monotonic()
    error = raises(HttpClient(server.url, timeout=0.3))
    assert (error.kind, error.sent) == ("timeout", True)
    assert time.monotonic() - begun < 2
    server.close()
    # the thread that was left behind closes its connection
    time.sleep(0.1)


def test_nothing_is_sent_when_the_deadline_has_passed(serve):
    deadline = Deadline(0.01)
    time.sleep(0.02)
    error = raises(HttpClient(serve().url, deadline=deadline))
    assert (error.kind, error.sent) == ("timeout", False)
    assert "not sent, as the 0.01 s for all requests have passed" in str(error)


def test_a_path_that_holds_a_secret_is_shown_otherwise():
    error = raises(HttpClient("http://127.0.0.1:1"), shown="/<token>")
    assert str(error).startswith("GET http://127.0.0.1:1/<token>: connection refused; ")


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] {reason.lower()}")
    error.reason = reason
    return error


def unverified(message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = message
    return error


@pytest.mark.parametrize(
    ("low", "kind", "sent", "words"),
    [
        (tls_error("WRONG_VERSION_NUMBER"), "tls", False, "does not speak TLS; correct the port, or use http://"),
        (tls_error("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "tls", False, "it refused the TLS connection (tlsv13 alert"),
        (tls_error("UNEXPECTED_EOF_WHILE_READING"), "closed", True, "closed before a whole answer had come"),
        (
            ssl.SSLEOFError(8, "EOF occurred in violation of protocol"),
            "closed",
            True,
            "and that it accepts client_cert",
        ),
        (tls_error("SOMETHING_NEW"), "tls", False, "the TLS connection failed (something new)"),
        (
            unverified("certificate has expired"),
            "tls",
            False,
            "does not verify (certificate has expired); ca_cert must",
        ),
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "refused", False, "connection refused"),
        (ConnectionResetError(errno.ECONNRESET, "x"), "closed", True, "closed before a whole answer"),
        (socket.gaierror(-2, "x"), "dns", False, "the host name cannot be resolved"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "unreachable", False, "no route to host; check the address"),
        (ValueError("odd\nthing"), "answer", True, "no usable answer (odd thing)"),
    ],
)
@pytest.mark.parametrize("wrapped", ["cause", "argument"])
def test_errors_are_told_apart_however_they_are_wrapped(low, kind, sent, words, wrapped, monkeypatch):
    def send(*_args, **_more):
        if wrapped == "cause":
            raise requests.exceptions.ConnectionError(low if kind == "answer" else "outer") from low
        raise requests.exceptions.ConnectionError(Exception("middle", low) if kind != "answer" else low)

    monkeypatch.setattr(HttpClient, "_send", send)
    error = raises(HttpClient("https://h:1", tls=Tls()))
    assert (error.kind, error.sent) == (kind, sent)
    assert words in str(error)


def test_tls_files_are_looked_at_before_anything_is_asked(tmp_path):
    secret = tmp_path / "key.pem"
    secret.write_text("no key")
    with pytest.raises(OptionError, match="are not a PEM certificate and its unencrypted key"):
        HttpClient("https://127.0.0.1:1", tls=Tls("", str(secret), str(secret))).request("GET", "/")


def test_lines_come_one_by_one_and_blank_ones_do_not_wake(serve):
    first, second = threading.Event(), threading.Event()
    first.set()
    server = serve(Exchange("GET", "/e", stream=[(first, b"\n"), (second, b'{"a":1}\n')]))
    stream = StreamClient(server.url).lines("/e")
    assert stream is not None
    assert stream.wait(0.1) is False
    second.set()
    assert stream.wait(2) is True
    assert stream.ended is False
    server.close()
    assert stream.wait(2) is True
    assert stream.ended is True
    assert stream.wait(0) is False


def test_no_stream_where_there_is_none(serve):
    server = serve(Exchange("GET", "/e", status=404), Exchange("GET", "/e", hang_up=True))
    assert StreamClient(server.url).lines("/e") is None
    assert StreamClient(server.url).lines("/e") is None
    assert StreamClient("http://127.0.0.1:1").lines("/e") is None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"value": "c2VjcmV0', "an answer that is not JSON (19 bytes)"),
        (b"", "an answer that is not JSON (an empty body)"),
        (b"<p>\xff" + b"x" * 100, "an answer that is not JSON ('<p>\ufffd" + "x" * 38 + "...')"),
        (b'["secret"]', "JSON array where an object belongs (10 bytes)"),
        (b"null", "JSON null where an object belongs ('null')"),
        (b'{"a": "\\ud800"}', "an answer that is not JSON (15 bytes)"),
        (b"[" * 100_000, "an answer that is not JSON (100000 bytes)"),
    ],
)
def test_what_is_no_json_object_is_told_without_its_values(body, words):
    with pytest.raises(HttpError) as caught:
        Reply("GET u", 200, "", body).json_object()
    assert str(caught.value).startswith(f"GET u: got status 200 with {words}; ")


def test_surrogate_pairs_are_text():
    assert Reply("GET u", 200, "", b'{"a": "\\ud83d\\ude00"}').json_object() == {"a": "\U0001f600"}


def test_the_module_works_without_requests_until_it_is_needed():
    # what stands in for requests' classes must not be called
    assert _http_session.REQUESTS_ERROR is None
    assert issubclass(_http_unix.UnixAdapter, requests.adapters.HTTPAdapter)


class Host:
    """A module on a host without requests: what it ran, warned of and failed with."""

    check_mode = False

    def __init__(self, *statuses):
        self.statuses = list(statuses)
        self.ran, self.warnings = [], []

    def get_bin_path(self, name):
        return f"/usr/bin/{name}"

    def run_command(self, argv, **_options):
        self.ran.append(" ".join(word for word in argv[4:] if not word.startswith(("-", "DPkg"))))
        status = self.statuses.pop(0)
        return status, "", "E: Unable to locate package\n" if status else ""

    def warn(self, text):
        self.warnings.append(text)

    def fail_json(self, msg, **_more):
        raise SystemExit(msg)


@pytest.fixture
def without_requests(monkeypatch):
    """The state of a host's own Python before the package is installed; loading again finds it if that went well."""
    monkeypatch.setattr(_http_session, "REQUESTS_ERROR", "Traceback: no requests")
    monkeypatch.setattr(_http_session, "FROM_DISTRIBUTION", True)
    monkeypatch.setattr(_http_install.os, "geteuid", lambda: 0)

    def load(host):
        found = None if not host.statuses else "Traceback: no requests"
        monkeypatch.setattr(
            _http_install.importlib, "reload", lambda module: monkeypatch.setattr(module, "REQUESTS_ERROR", found)
        )
        return host

    return load


def test_a_missing_library_is_installed_and_told(without_requests):
    host = without_requests(Host())
    host.statuses = [0]
    _http.require_requests(host)
    assert host.ran == ["install python3-requests"]
    assert host.warnings == [
        "python3-requests was missing on this host and has been installed, as this module needs it"
    ]


def test_old_package_lists_are_fetched_anew(without_requests):
    host = without_requests(Host())
    host.statuses = [100, 0, 0]
    _http.require_requests(host)
    assert host.ran == ["install python3-requests", "update", "install python3-requests"]


def test_what_apt_says_is_passed_on(without_requests):
    host = without_requests(Host(100, 100, 100))
    with pytest.raises(SystemExit, match=r"apt-get could not install it: E: Unable to locate package"):
        _http.require_requests(host)


@pytest.mark.parametrize("reason", ["check mode", "no root", "a Python of its own", "no apt"])
def test_where_nothing_may_be_installed_the_package_is_named(without_requests, monkeypatch, reason):
    host = without_requests(Host())
    if reason == "check mode":
        host.check_mode = True
    elif reason == "no root":
        monkeypatch.setattr(_http_install.os, "geteuid", lambda: 1000)
    elif reason == "no apt":
        monkeypatch.setattr(host, "get_bin_path", lambda _name: None)
    else:
        monkeypatch.setattr(_http_session, "FROM_DISTRIBUTION", False)
    with pytest.raises(SystemExit, match="apt-get install python3-requests"):
        _http.require_requests(host)
    assert host.ran == []


def test_loading_again_keeps_the_library_usable(monkeypatch):
    monkeypatch.setattr(_http_session, "REQUESTS_ERROR", "Traceback: no requests")
    _http_install.importlib.reload(_http_session)
    assert _http_session.REQUESTS_ERROR is None
    assert issubclass(_http_session.errors().timeout, OSError)
