# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""For tests on loopback: etcd clusters with mutual TLS, and the discovery service of Debian's etcd-discovery."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from .etcd import binary, free_port, unpack_package

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Pair:
    """A PEM certificate and its key."""

    cert: Path
    key: Path


class Authority:
    """A certificate authority made with openssl, for tests only."""

    def __init__(self, directory: Path, name: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.name = name
        self.cert = directory / f"{name}.crt"
        self.key = directory / f"{name}.key"
        _openssl(
            *("req", "-x509", *_CURVE, "-days", "2", "-subj", f"/CN={name}"),
            # Python 3.13 refuses an authority that does not say what its key is for
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
            *("-keyout", self.key, "-out", self.cert),
        )

    def issue(self, name: str, usages: str = "serverAuth,clientAuth", subject: str = "") -> Pair:
        """A certificate for 127.0.0.1 and localhost. Its subject is the name as common name, if none is given."""
        pair = Pair(self.directory / f"{name}.crt", self.directory / f"{name}.key")
        request, extensions = self.directory / f"{name}.csr", self.directory / f"{name}.ext"
        extensions.write_text(
            f"subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage={usages}\n"
            "keyUsage=critical,digitalSignature\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        )
        _openssl("req", "-new", *_CURVE, "-subj", subject or f"/CN={name}", "-keyout", pair.key, "-out", request)
        _openssl(
            *("x509", "-req", "-days", "2", "-in", request, "-out", pair.cert),
            *("-CA", self.cert, "-CAkey", self.key, "-CAcreateserial", "-extfile", extensions),
        )
        return pair


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)


@dataclass
class Member:
    """One etcd process of a cluster."""

    name: str
    url: str
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)

    def kill(self) -> None:
        """As power loss; the data directory stays."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


class SecureCluster:
    """etcd members that take clients and each other only with a certificate of one authority."""

    def __init__(
        self,
        program: Path,
        directory: Path,
        size: int,
        *,
        server_usages: str = "serverAuth,clientAuth",
        flags: tuple[str, ...] = (),
    ) -> None:
        """:param flags: further options of all members"""
        self.flags = flags
        self.authority = Authority(directory / "pki", "authority")
        self.client = self.authority.issue("client", "clientAuth")
        self.authority.issue("peer")
        self.server = self.authority.issue("server", server_usages)
        peers = {f"m{number}": f"https://127.0.0.1:{free_port()}" for number in range(1, size + 1)}
        self.members = [self._member(program, directory / name, name, peers) for name in peers]

    def join(
        self,
        program: Path,
        directory: Path,
        name: str,
        peer: str,
        *,
        data: Path | None = None,
        others: bool = True,
    ) -> Member:
        """A further member, not started: one that was added to the cluster, or one alone on restored data."""
        peers = {name: peer}
        if others:
            listed = self.post("/v3/cluster/member/list", {})["members"]
            peers = {item.get("name") or name: item["peerURLs"][0] for item in listed}
        member = self._member(program, directory, name, peers)
        member.command += ["--initial-cluster-state", "existing" if others else "new"]
        if data is not None:
            member.command[member.command.index("--data-dir") + 1] = str(data)
        return member

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The answer of the first member that gives one."""
        certificate = (str(self.client.cert), str(self.client.key))
        for url in self.urls:
            with contextlib.suppress(requests.ConnectionError):
                answer = requests.post(
                    url + path, json=body, cert=certificate, verify=str(self.authority.cert), timeout=10
                )
                answer.raise_for_status()
                return answer.json()
        raise RuntimeError("no member answers")

    def _member(self, program: Path, directory: Path, name: str, peers: dict[str, str]) -> Member:
        directory.mkdir(parents=True)
        url = f"https://127.0.0.1:{free_port()}"
        trust, pki = str(self.authority.cert), self.authority.directory
        command = [
            str(program),
            *("--name", name, "--data-dir", str(directory / "data"), "--logger", "zap", "--log-level", "warn"),
            *("--bcrypt-cost", "4"),
            *("--listen-client-urls", url, "--advertise-client-urls", url),
            *("--listen-peer-urls", peers[name], "--initial-advertise-peer-urls", peers[name]),
            *("--initial-cluster", ",".join(f"{peer}={peers[peer]}" for peer in peers)),
            *("--client-cert-auth", "--trusted-ca-file", trust),
            *("--cert-file", str(self.server.cert), "--key-file", str(self.server.key)),
            *("--peer-client-cert-auth", "--peer-trusted-ca-file", trust),
            *("--peer-cert-file", str(pki / "peer.crt"), "--peer-key-file", str(pki / "peer.key")),
            *self.flags,
        ]
        return Member(name, url, command, directory / "log")

    @property
    def urls(self) -> list[str]:
        return [member.url for member in self.members]

    def access(self, **more: Any) -> dict[str, Any]:
        """Parameters by which a module reaches the cluster."""
        return {
            "endpoints": self.urls,
            "ca_cert": str(self.authority.cert),
            "client_cert": str(self.client.cert),
            "client_key": str(self.client.key),
            **more,
        }

    def start(self) -> None:
        for member in self.members:
            member.start()
        for member in self.members:
            self.wait(member)

    def wait(self, member: Member, seconds: float = 30.0) -> None:
        """Waits until a member is healthy."""
        end = time.monotonic() + seconds
        certificate = (str(self.client.cert), str(self.client.key))
        while time.monotonic() < end and member.process is not None and member.process.poll() is None:
            with contextlib.suppress(requests.RequestException):
                answer = requests.get(
                    f"{member.url}/health", cert=certificate, verify=str(self.authority.cert), timeout=2
                )
                if '"true"' in answer.text:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"{member.name} did not become healthy: {member.log.read_text()[-2000:]}")

    def stop(self) -> None:
        for member in self.members:
            member.kill()


def secure_cluster_or_skip(
    directory: Path, size: int, *, server_usages: str = "serverAuth,clientAuth"
) -> Iterator[SecureCluster]:
    """A running cluster for a fixture; skips where there is no etcd to be had."""
    program = binary("etcd", "etcd-server")
    if program is None:
        pytest.skip("no etcd in PATH and none from the distribution's packages")
    cluster = SecureCluster(program, directory, size, server_usages=server_usages)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


# The service does not start without a file below /etc, which only its package has. It gets it in a mount namespace
# of its own, so that this machine's /etc stays as it is.
_WITH_ETC = 'mount -t overlay overlay -o lowerdir="$1":/etc /etc && shift && exec "$@"'


class DiscoveryService:
    """Debian's discovery service in front of an etcd that serves the v2 API. Needs root."""

    def __init__(self, root: Path, directory: Path, etcd: str) -> None:
        """:param root: the package etcd-discovery, unpacked"""
        self.url = f"http://127.0.0.1:{free_port()}"
        self._log = directory / "discovery.log"
        self._command = [
            *("unshare", "--mount", "sh", "-c", _WITH_ETC, "sh", str(root / "etc")),
            str(root / "usr/bin/discovery.etcd.io"),
            *("--addr", self.url.removeprefix("http://"), "--host", self.url, "--etcd", etcd),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        end = time.monotonic() + 20
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"{self.url}/robots.txt", timeout=2).status_code == 200:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"the discovery service did not answer: {self._log.read_text()[-2000:]}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None


def discovery_or_skip(directory: Path, etcd: str) -> Iterator[DiscoveryService]:
    """A running discovery service for a fixture; skips where there is none to be had."""
    root = unpack_package("etcd-discovery")
    if root is None:
        pytest.skip("the distribution's packages have no etcd-discovery")
    if os.geteuid() != 0:
        pytest.skip("the discovery service needs root to be given its configuration")
    service = DiscoveryService(root, directory, etcd)
    try:
        service.start()
        yield service
    finally:
        service.stop()
