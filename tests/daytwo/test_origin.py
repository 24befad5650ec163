# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where etcd comes from when nobody says: a release if its archive can be had, else the packages, and it stays so.

Part of make test-etcd, as root: one host, and a mirror on the controller's loopback.
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daytwo.lab import Lab, unchanged, words
from support.etcd import free_port
from support.etcd_builds import build
from support.secure_etcd import Authority

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="local hosts are made by root")

NEWEST = "3.6.14"  # what the collection takes when no version is named


class Mirror:
    """Archives of releases behind TLS, with an authority that SSL_CERT_FILE has the controller trust."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        authority = Authority(folder / "pki", "authority")
        pair = authority.issue("mirror", "serverAuth")
        self.trust = authority.cert
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.cert, pair.key)
        self.asked: list[str] = []
        handler = functools.partial(self._handler(), directory=str(folder / "files"))
        port = free_port()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _handler(self) -> type[http.server.SimpleHTTPRequestHandler]:
        asked = self.asked

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_request(self, *_arguments: Any) -> None:
                asked.append(self.command)

        return Handler

    def offer(self, archive: Path) -> None:
        """The archive stands where upstream's for this machine would."""
        machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
        folder = self.folder / "files" / f"v{NEWEST}"
        folder.mkdir(parents=True)
        shutil.copy(archive, folder / f"etcd-v{NEWEST}-linux-{machine}.tar.gz")

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    made = Mirror(tmp_path_factory.mktemp("mirror"))
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def lab(tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    made = Lab(tmp_path, os.environ.get("ETCD_CLUSTER", "etcdfrom"), "df-", count=1)
    monkeypatch.setenv("SSL_CERT_FILE", str(mirror.trust))
    # variables of every play of this test
    made.release = {"etcd_source": "auto", "etcd_release_cache": str(tmp_path / "cache")}
    try:
        made.up()
        yield made
    finally:
        made.down()


def test_packages_where_no_release_can_be_had(lab: Lab, mirror: Mirror) -> None:
    nowhere = f"https://127.0.0.1:{free_port()}"
    said = lab.play("cluster.yml", etcd_release_mirror=nowhere)
    assert f"etcd comes from packages of the distribution, because {nowhere}/v{NEWEST}/" in words(said)
    assert "etcd-server" in lab.on(lab.hosts[0], "dpkg-query --show etcd-server")
    # a mirror that can be reached one day changes nothing, and is not even asked
    assert unchanged(lab.play("cluster.yml", etcd_release_mirror=mirror.url))
    assert mirror.asked == []


def test_a_release_where_it_can_be_had(lab: Lab, mirror: Mirror) -> None:
    made = build("3.6")
    if isinstance(made, str):
        pytest.skip(made)
    mirror.offer(made.archive)
    lab.release["etcd_release_sha256"] = made.sha256
    said = lab.play("cluster.yml", more=["--check"], etcd_release_mirror=mirror.url)
    assert f"Would install etcd {NEWEST}" in words(said)
    assert mirror.asked == ["HEAD"]
    lab.play("cluster.yml", etcd_release_mirror=mirror.url)
    assert mirror.asked == ["HEAD", "HEAD", "GET"]
    assert lab.versions() == [made.version]
    assert lab.on(lab.hosts[0], "dpkg-query --show etcd-server 2>/dev/null || true") == ""
    # it stays, with no mirror and no archive on the controller
    shutil.rmtree(lab.folder / "cache")
    assert unchanged(lab.play("cluster.yml", etcd_release_mirror=f"https://127.0.0.1:{free_port()}"))
