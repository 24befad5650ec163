# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts of the cluster, and certificates that are and are not good enough for its etcd."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from support.cluster_access import Files, Machine, fetch, log_in, machines_of


@pytest.fixture(scope="session")
def machines() -> list[Machine]:
    """All machines."""
    return machines_of("machines")


@pytest.fixture(scope="session")
def members() -> list[Machine]:
    """The members of etcd."""
    return machines_of("etcd")


@pytest.fixture(scope="session")
def client_files(members: list[Machine], tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The client certificate of the first member, as fleetd and etcdctl use it there."""
    names = ["etcd-client-ca.crt", "etcd-client.crt", "etcd-client.key"]
    return Files(*fetch(members[0], names, tmp_path_factory.mktemp("client")))


@pytest.fixture(scope="session")
def passwords() -> dict[str, str]:
    """The passwords of etcd's users that the controller keeps, by user."""
    folder = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "pki/etcd-users")
    return {path.name: path.read_text().strip() for path in folder.iterdir()}


@pytest.fixture(scope="session")
def root(members: list[Machine], client_files: Files, passwords: dict[str, str]) -> str:
    """The token of etcd's user root."""
    return log_in(members[0].address, 2379, client_files, "root", passwords["root"])


@pytest.fixture(scope="session")
def version(members: list[Machine]) -> str:
    """The version of etcd, from a package or a release."""
    return str(members[0].host.check_output("etcd --version | sed -n 's/^etcd Version: //p'")).strip()


@pytest.fixture(scope="session")
def replayed(passwords: dict[str, str]) -> str:
    """What site.yml says on the finished cluster when it tells all that it can tell."""
    scenario = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
    command = [
        "ansible-playbook",
        "--check",
        "--diff",
        "-vvv",
        f"--inventory={scenario / 'inventory'}",
        "--limit=machines",
    ]
    done = subprocess.run(
        [*command, str(scenario.parents[1] / "playbooks/site.yml")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return " ".join((done.stdout + done.stderr).split())


@pytest.fixture(scope="session")
def peer_files(members: list[Machine], tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The certificate that the first member shows to other members: of an authority that is not for clients."""
    names = ["etcd-peer-ca.crt", "etcd-peer.crt", "etcd-peer.key"]
    return Files(*fetch(members[0], names, tmp_path_factory.mktemp("peer")))


@pytest.fixture(scope="session")
def stranger_files(client_files: Files, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A valid certificate for the names of the real one, signed by an authority of the same name but another key."""
    folder = tmp_path_factory.mktemp("stranger")
    assert client_files.certificate is not None
    real = x509.load_pem_x509_certificate(client_files.certificate.read_bytes())
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(real.subject)
        .issuer_name(real.issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(real.not_valid_before_utc)
        .not_valid_after(real.not_valid_after_utc)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    certificate_path, key_path = folder / "crt", folder / "key"
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return Files(client_files.authority, certificate_path, key_path)
