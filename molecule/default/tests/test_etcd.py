# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""etcd: three healthy members that answer to holders of the right certificate and to nobody else."""

from __future__ import annotations

import base64
import http.client
import socket
from dataclasses import replace

import pytest
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_versions import FLOORS, minor_of, parse
from cryptography import x509
from cryptography.x509.oid import NameOID
from support import etcd_permissions
from support.cluster_access import PKI, SECONDS, Files, Machine, ask, log_in, try_to_ask

CLIENT_PORT, PEER_PORT = 2379, 2380
# what a TLS client is told, depending on the versions of both sides
REFUSED = r"(?i)alert|closed|reset|EOF"


def test_every_member_is_healthy(members: list[Machine], client_files: Files) -> None:
    assert len(members) == 3
    for member in members:
        assert ask(member.address, CLIENT_PORT, "/health", client_files)["health"] == "true", member.name


def test_members_are_the_hosts_of_the_group(members: list[Machine], client_files: Files) -> None:
    listed = ask(members[0].address, CLIENT_PORT, "/v3/cluster/member/list", client_files, {})["members"]
    assert {member["name"]: member["peerURLs"] for member in listed} == {
        member.name: [f"https://{member.address}:{PEER_PORT}"] for member in members
    }


def test_a_key_written_to_one_member_is_read_from_another(
    members: list[Machine], client_files: Files, root: str
) -> None:
    key, value = (base64.b64encode(text).decode() for text in (b"/molecule/key", b"value"))
    ask(members[0].address, CLIENT_PORT, "/v3/kv/put", client_files, {"key": key, "value": value}, root)
    try:
        answer = ask(members[-1].address, CLIENT_PORT, "/v3/kv/range", client_files, {"key": key}, root)
        assert answer["kvs"][0]["value"] == value
    finally:
        ask(members[0].address, CLIENT_PORT, "/v3/kv/deleterange", client_files, {"key": key}, root)


def test_a_certificate_without_a_user_reads_and_writes_nothing(members: list[Machine], client_files: Files) -> None:
    key = {"key": base64.b64encode(b"/_coreos.com/fleet/leader").decode()}
    for member in members:
        for path, body in (("range", key), ("put", {**key, "value": ""}), ("deleterange", key)):
            status, said = try_to_ask(member.address, CLIENT_PORT, f"/v3/kv/{path}", client_files, body, "")
            assert status in (400, 403), member.name
            # which of both depends on etcd's version
            assert "user name is empty" in said or "permission denied" in said


@pytest.mark.parametrize("part", ["machine", "engine", "api"])
def test_each_part_of_a_machine_writes_its_own_keys_only(
    members: list[Machine], client_files: Files, version: str, part: str
) -> None:
    *_, other, own = members
    ids = [member.host.file("/etc/machine-id").content_string.strip() for member in (own, other)]
    lines = own.host.file("/etc/fleet/etcd-credentials").content_string.split()
    name, _, password = dict(line.split("=", 1) for line in lines)[part].partition(":")
    token = log_in(own.address, CLIENT_PORT, client_files, name, password)

    def as_user(path: str, body: object) -> tuple[int, str]:
        return try_to_ask(own.address, CLIENT_PORT, path, client_files, body, token)

    assert etcd_permissions.differences(as_user, part, *ids, nested=is_safe(version)) == []
    assert etcd_permissions.reads_of_all(as_user) == etcd_permissions.DENIED
    status, _said = as_user("/v3/auth/user/list", {})
    assert status == 403, "only root knows the users"


def is_safe(version: str) -> bool:
    """Whether a version has none of the faults that are known."""
    floor = parse(FLOORS.get(minor_of(version), ""))
    return floor is not None and (parse(version) or (0, 0, 0)) >= floor


def test_a_version_with_known_faults_is_warned_of(version: str, replayed: str) -> None:
    warned = f"etcd {version}" in replayed and "lets a user read and write beyond its permissions" in replayed
    assert warned is not is_safe(version)


def test_a_client_without_a_certificate_is_refused(members: list[Machine], client_files: Files) -> None:
    for member in members:
        with pytest.raises(OSError, match=REFUSED):
            ask(member.address, CLIENT_PORT, "/health", replace(client_files, certificate=None, key=None))


def test_a_client_of_another_authority_is_refused(members: list[Machine], stranger_files: Files) -> None:
    for member in members:
        with pytest.raises(OSError, match=REFUSED):
            ask(member.address, CLIENT_PORT, "/health", stranger_files)


def test_a_peers_certificate_does_not_make_a_client(
    members: list[Machine], peer_files: Files, client_files: Files
) -> None:
    for member in members:
        with pytest.raises(OSError, match=REFUSED):
            ask(member.address, CLIENT_PORT, "/health", replace(peer_files, authority=client_files.authority))


PEER_REQUEST = """
import http.client, ssl, sys
folder, pair, address, port = sys.argv[1:]
context = ssl.create_default_context(cafile=folder + "/etcd-peer-ca.crt")
context.load_cert_chain(f"{folder}/{pair}.crt", f"{folder}/{pair}.key")
connection = http.client.HTTPSConnection(address, int(port), timeout=10, context=context)
try:
    connection.request("GET", "/members")
    print(connection.getresponse().status)
except OSError:
    print("refused")
"""


@pytest.mark.parametrize(("pair", "answer"), [("etcd-peer", "200"), ("etcd-client", "refused")])
def test_only_a_peers_certificate_makes_a_peer(members: list[Machine], pair: str, answer: str) -> None:
    """Asked from a member, because a peer's certificate is good only from the addresses in it."""
    for member, other in zip(members, [*members[1:], members[0]], strict=True):
        arguments = (PEER_REQUEST, PKI, pair, other.address, str(PEER_PORT))
        said = member.host.check_output("python3 -c %s %s %s %s %s", *arguments)
        assert said.strip() == answer, f"{member.name} to {other.name}"


def test_a_peers_certificate_is_good_from_its_own_addresses_only(members: list[Machine], peer_files: Files) -> None:
    """Asked from here, which is no address of a member."""
    for member in members:
        with pytest.raises(OSError, match=REFUSED):
            ask(member.address, PEER_PORT, "/members", peer_files)


def test_certificates_are_for_their_host_and_name_no_user(
    members: list[Machine], client_files: Files, root: str
) -> None:
    """etcd takes a client's common name for a user's."""
    users = ask(members[0].address, CLIENT_PORT, "/v3/auth/user/list", client_files, {}, root)["users"]
    assert len(users) == 3 + len(members)
    for member in members:
        for name in ("etcd-server", "etcd-peer", "etcd-client"):
            pem = member.host.check_output(f"cat {PKI}/{name}.crt").encode()
            certificate = x509.load_pem_x509_certificate(pem)
            names = [item.value for item in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
            assert not {*names} & {*users}
            assert names == ([] if name == "etcd-client" else [f"{name}-{member.name}"])
            for_names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            addresses = {str(address) for address in for_names.get_values_for_type(x509.IPAddress)}
            assert addresses == {"127.0.0.1", "::1", member.address}


@pytest.mark.parametrize("port", [CLIENT_PORT, PEER_PORT])
def test_http_without_tls_gets_nothing(members: list[Machine], port: int) -> None:
    for member in members:
        connection = http.client.HTTPConnection(member.address, port, timeout=SECONDS)
        connection.request("GET", "/health")
        try:
            status = connection.getresponse().status
        except (http.client.HTTPException, ConnectionError):
            continue
        finally:
            connection.close()
        assert status == 400, member.name


def test_metrics_are_not_for_the_network(members: list[Machine]) -> None:
    for member in members:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((member.address, 2381), timeout=SECONDS)
