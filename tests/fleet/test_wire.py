# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""fleetctl's HTTP: whatever comes back is an answer or an error told in words."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from api_server import Server
from hypothesis import given
from hypothesis import strategies as st
from memory_store import MemoryStore

from flotilla_fleet.connections import Connections
from flotilla_fleet.ctl.main import main
from flotilla_fleet.ctl.wire import Connection, Response, WireError

FLEET = Path(__file__).resolve().parents[2] / "fleet"


def answer(raw: bytes) -> Response:
    return Response(io.BytesIO(raw))


@pytest.mark.parametrize(
    ("raw", "status", "body", "keeps"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef", 200, b"abc", True),
        (b"HTTP/1.1 204 No Content\r\n\r\nabc", 204, b"", True),
        (b"HTTP/1.1 200 \r\n\r\nabc", 200, b"abc", False),
        (b"HTTP/1.0 200\nConnection: Close\nContent-Length: 0\n\n", 200, b"", False),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", 201, b"", True),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: 1\r\n\n",
            200,
            b"abc0123456789",
            True,
        ),
    ],
)
def test_answers(raw: bytes, status: int, body: bytes, keeps: bool) -> None:
    found = answer(raw)
    assert (found.status, found.read(), found.keeps) == (status, body, keeps)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"HTTP/1.1 20", "the answer broke off"),
        (b"HTTP/1.1 200 OK\r\n", "the answer broke off"),
        (b"SSH-2.0-OpenSSH\r\n", "it begins with b'SSH-2.0-OpenSSH'"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "it begins with b'HTTP/1.1 2000 OK'"),
        (b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", "its headers make no sense"),
        (
            b"HTTP/1.1 200 OK\r\n" + b"".join(b"N%d: v\r\n" % n for n in range(101)),
            "headers",
        ),
        (b"HTTP/1.1 200 " + b"x" * 70000, "the line is too long"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "its Content-Length is '-1'"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", "the answer broke off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "the size of a chunk is b'zz'"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", "the size of a chunk is b'-1'"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", "a chunk is longer than it says"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", "the answer broke off"),
    ],
)
def test_no_answers(raw: bytes, message: str) -> None:
    with pytest.raises(WireError, match=message):
        answer(raw).read()


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: b"HTTP/1.1 200 OK\r\n" + tail))
def test_any_bytes_are_an_answer_or_an_error(raw: bytes) -> None:
    try:
        body = answer(raw).read()
    except (WireError, ConnectionResetError):
        return
    assert len(body) <= len(raw)


def test_lines_come_as_they_are_sent() -> None:
    ours, theirs = socket.socketpair()
    connection = Connection(lambda: ours, "x")

    def serve() -> None:
        theirs.recv(1000)
        theirs.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\na\nbc\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    lines = connection.request("GET", "/", None, {}).lines()
    assert next(lines) == b"a"
    theirs.sendall(b"3\r\nd\n\n\r\n")
    assert [next(lines), next(lines)] == [b"bcd", b""]
    threading.Timer(0.1, connection.interrupt).start()
    with pytest.raises(WireError):
        next(lines)
    thread.join()
    connection.close()
    theirs.close()


def test_a_connection_that_the_server_closed_is_opened_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            body = b'{"machines":[{"id":"m1"}],"nextPageToken":"t"}'
            for text in (body, b'{"machines":[{"id":"m2"}]}'):
                peer, _address = listener.accept()
                peer.recv(10000)
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
                peer.close()  # without a word, as servers do with connections that lie idle

        thread = threading.Thread(target=serve)
        thread.start()
        assert main(["--endpoint", f"unix://{path}", "list-machines", "--no-legend", "--fields=machine"]) == 0
        thread.join()
    assert capfd.readouterr().out == "m1\nm2\n"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "is not fleetd: it begins with b'SSH-2.0-OpenSSH_9.2'"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "is not fleetd (status 200, no JSON)"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\n[]", "is not fleetd (status 502, no JSON)"),
        (
            b"HTTP/1.1 500 Oh\r\nContent-Length: 35\r\n\r\n" + b'{"error":{"code":500,"message":""}}',
            "fleetd answered 500 without a reason; its log may tell",
        ),
    ],
)
def test_servers_that_are_not_fleetd(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], raw: bytes, message: str
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def serve() -> None:
            peer, _address = listener.accept()
            peer.recv(10000)
            peer.sendall(raw)
            peer.close()

        thread = threading.Thread(target=serve)
        thread.start()
        assert main(["--endpoint", f"unix://{tmp_path}/s", "list-machines"]) == 1
        thread.join()
    err = capfd.readouterr().err
    assert message in err
    assert err.count("\n") == 1


# -- TLS -----------------------------------------------------------------------


class Pki:
    """An authority with one certificate for the server and one for a client."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        x509 = pytest.importorskip("cryptography.x509")
        from cryptography.hazmat.primitives.asymmetric import ec

        self._x509 = x509
        self._ca_key = ec.generate_private_key(ec.SECP256R1())
        self._ca_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test-ca")])
        self._issue("ca", self._ca_name, self._ca_key, ca=True)
        for name in ("server", "client"):
            key = ec.generate_private_key(ec.SECP256R1())
            organization = x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "fleet:operator")
            common_name = x509.NameAttribute(x509.NameOID.COMMON_NAME, name)
            self._issue(name, x509.Name([organization, common_name]), key)

    def _issue(self, name: str, subject: object, key: object, ca: bool = False) -> None:
        from cryptography.hazmat.primitives import hashes, serialization

        x509, now = self._x509, datetime.now(UTC)
        builder = (
            x509.CertificateBuilder(self._ca_name, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._ca_key.public_key()), critical=False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if ca:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        certificate = builder.sign(self._ca_key, hashes.SHA256())
        self.path(name, "crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        self.path(name, "key").write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))

    def path(self, name: str, kind: str) -> Path:
        return self.folder / f"{name}.{kind}"

    def server_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.path("ca", "crt")))
        context.load_cert_chain(self.path("server", "crt"), self.path("server", "key"))
        context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def https(pki: Pki, tmp_path: Path) -> Iterator[str]:
    with Server(MemoryStore(), tmp_path / "s") as server:
        yield f"https://127.0.0.1:{server.listen_tls(pki.server_context())}"


def _flags(pki: Pki, client: str = "client") -> list[str]:
    cert, key = pki.path(client, "crt"), pki.path(client, "key")
    return [f"--ca-file={pki.path('ca', 'crt')}", f"--cert-file={cert}", f"--key-file={key}"]


def test_https_with_a_client_certificate(
    https: str, pki: Pki, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level("INFO", "flotilla_fleet.audit")
    unit = tmp_path / "a.service"
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    assert main(["--endpoint", https, *_flags(pki), "submit", str(unit)]) == 0
    assert capfd.readouterr().out == "Unit a.service inactive\n"
    assert 'by subject="organizationName=fleet:operator,commonName=client" address=127.0.0.1: 201' in caplog.text


def test_the_role_of_a_certificate_is_looked_at(https: str, pki: Pki, capfd: pytest.CaptureFixture[str]) -> None:
    """Of an operator: reading and units, but no machines."""
    fleetctl = ["--endpoint", https, *_flags(pki)]
    assert main([*fleetctl, "list-machines", "--full", "--no-legend"]) == 0
    machine = capfd.readouterr().out.split()[0]
    assert main([*fleetctl, "metadata", machine, "a=b"]) == 1
    assert capfd.readouterr().err == (
        "PATCH of machines needs the role admin, the client's certificate has operator: its organization (O) must be "
        "fleet:admin\n"
    )


def test_each_address_has_its_own_limit(pki: Pki, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Whoever is on TCP keeps nobody from the machine's own socket."""
    with Server(MemoryStore(), tmp_path / "s", Connections(most=1)) as server:
        port = server.listen_tls(pki.server_context())
        context = ssl.create_default_context(cafile=pki.path("ca", "crt"))
        context.load_cert_chain(pki.path("client", "crt"), pki.path("client", "key"))
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as held,
        ):
            held.sendall(b"GET /fleet/v1/units HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in held.recv(4096)
            assert main(["--endpoint", f"https://127.0.0.1:{port}", *_flags(pki), "list-units"]) == 1
            assert "fleetd has 1 connections on this address" in capfd.readouterr().err
            assert server.get("units").status == 200


def test_who_never_ends_a_handshake_holds_its_place_for_a_moment_only(
    pki: Pki, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Server(MemoryStore(), tmp_path / "s") as server:
        port = server.listen_tls(pki.server_context(), most=2, seconds=3)
        listing = ["--endpoint", f"https://127.0.0.1:{port}", *_flags(pki), "list-units", "--no-legend"]
        with socket.create_connection(("127.0.0.1", port), timeout=10) as silent:
            begun = time.monotonic()
            assert main(listing) == 0
            assert time.monotonic() - begun < 2.5, "one place was free"
            with socket.create_connection(("127.0.0.1", port), timeout=10) as other:
                assert main(listing) == 0, "waits for one of the two, and is served then"
                assert time.monotonic() - begun > 2.9
                assert silent.recv(1) == other.recv(1) == b""
    assert capfd.readouterr().err == ""


def test_what_is_no_handshake_is_put_out_at_once(pki: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Server(MemoryStore(), tmp_path / "s") as server:
        port = server.listen_tls(pki.server_context(), most=1, seconds=60)
        for _time in range(3):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
                plain.sendall(b"GET /fleet/v1/units HTTP/1.1\r\nHost: x\r\n\r\n")
                with contextlib.suppress(ConnectionResetError):
                    while plain.recv(4096):
                        pass
        assert main(["--endpoint", f"https://127.0.0.1:{port}", *_flags(pki), "list-units"]) == 0
    assert "Traceback" not in caplog.text


def test_https_refuses_a_client_without_certificate(https: str, pki: Pki, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--endpoint", https, _flags(pki)[0], "list-machines"]) == 1
    err = capfd.readouterr().err
    assert err.startswith(f"cannot talk to fleetd at {https}: ")
    assert err.endswith(" (it may want a certificate: --cert-file and --key-file)\n")
    assert err.count("\n") == 1


def test_https_with_an_authority_that_is_not_known(https: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--endpoint", https, "list-machines"]) == 1
    assert capfd.readouterr().err.startswith(f"the certificate of {https} is not trusted (")


def test_https_under_a_name_that_is_not_in_the_certificate(
    https: str, pki: Pki, capfd: pytest.CaptureFixture[str]
) -> None:
    name = https.replace("127.0.0.1", "localhost")
    assert main(["--endpoint", name, *_flags(pki), "list-machines"]) == 1
    assert capfd.readouterr().err.startswith(f"the certificate of {name} is not trusted (")


def test_certificate_files_that_are_not_there(https: str, pki: Pki, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--endpoint", https, *_flags(pki, "nobody"), "list-machines"]) == 1
    assert capfd.readouterr().err == f"--cert-file names {pki.path('nobody', 'crt')}, which is not a file\n"
    assert main(["--endpoint", https, f"--ca-file={pki.path('client', 'key')}", "list-machines"]) == 1
    assert capfd.readouterr().err.startswith("cannot use the certificates in ")


# -- the process ---------------------------------------------------------------


def test_list_commands_load_little(tmp_path: Path) -> None:
    """What makes Python slow to start must not come back by an import."""
    with Server(MemoryStore(), tmp_path / "s"):
        program = (
            "import sys; from flotilla_fleet.ctl.main import main;"
            f"assert main(['--endpoint=unix://{tmp_path}/s', 'list-machines']) == 0;"
            "print([m for m in ('http.client', 'ssl', 'email', 'dataclasses', 'argparse', 'asyncio', 'aiohttp',"
            "'subprocess', 'inspect') if m in sys.modules], file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(FLEET)!r}); {program}"],
            text=True,
            capture_output=True,
            timeout=30,
            check=True,
        )
    assert done.stderr == "[]\n"


def test_output_that_nobody_reads(tmp_path: Path) -> None:
    with Server(MemoryStore(), tmp_path / "s"):
        read, write = os.pipe()
        os.close(read)
        command = [sys.executable, "-m", "flotilla_fleet.ctl.main", f"--endpoint=unix://{tmp_path}/s", "list-machines"]
        done = subprocess.run(command, cwd=FLEET, stdout=write, stderr=subprocess.PIPE, text=True, timeout=30)
        os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_fd_forward_joins_a_socket(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flotilla_fleet.ctl.main", "fd-forward"]
    with Server(MemoryStore(), tmp_path / "s"):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": FLEET}
        with subprocess.Popen([*command, f"{tmp_path}/s"], **pipes) as process:  # type: ignore[call-overload]
            process.stdin.write(b"GET /fleet/v1/state HTTP/1.1\r\nHost: x\r\n\r\n")
            process.stdin.flush()
            assert Response(process.stdout).read() == b"{}"
            process.stdin.close()
            assert process.wait(10) == 0
    done = subprocess.run([*command, f"{tmp_path}/none"], cwd=FLEET, capture_output=True, text=True, timeout=30)
    assert done.stderr == f"cannot connect to {tmp_path}/none: No such file or directory\n"
