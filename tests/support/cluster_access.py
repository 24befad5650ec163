# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests of a whole cluster share: its hosts, and a TLS client with or without a certificate."""

from __future__ import annotations

import http.client
import json
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import testinfra
from testinfra.host import Host

PKI = "/etc/flotilla/pki"
SECONDS = 10


@dataclass(frozen=True)
class Machine:
    """A host of the inventory: its name, its address, and the way to it."""

    name: str
    address: str
    host: Host


@dataclass(frozen=True)
class Files:
    """A client's certificate, its key and the authorities it trusts: paths of PEM files on the controller."""

    authority: Path
    certificate: Path | None = None
    key: Path | None = None


def machines_of(group: str) -> list[Machine]:
    """The hosts of a group of the scenario's inventory, in its order."""
    inventory = os.path.join(os.environ["MOLECULE_SCENARIO_DIRECTORY"], "inventory")
    machines = []
    for host in testinfra.get_hosts([f"ansible://{group}"], ansible_inventory=inventory):
        variables = host.ansible.get_variables()
        machines.append(Machine(variables["inventory_hostname"], variables["ansible_host"], host))
    return machines


def fetch(machine: Machine, names: list[str], folder: Path) -> list[Path]:
    """Copies files of a host's PKI folder to the controller."""
    for name in names:
        (folder / name).write_bytes(machine.host.file(f"{PKI}/{name}").content)
    return [folder / name for name in names]


def ask(address: str, port: int, path: str, files: Files, body: object = None, token: str = "") -> Any:
    """Sends one request over TLS and returns the JSON answer; the server's certificate is checked.

    :arg body: what to post as JSON, None for GET.
    :arg token: what etcd gave the user for its password, "" for nobody.

    Raises OSError, of which ssl.SSLError is one, when the server ends the connection, and AssertionError for a status
    other than 200.
    """
    status, text = try_to_ask(address, port, path, files, body, token)
    assert status == 200, text
    return json.loads(text)


def try_to_ask(address: str, port: int, path: str, files: Files, body: object, token: str) -> tuple[int, str]:
    """The same for whatever answer: its status and its text."""
    context = ssl.create_default_context(cafile=str(files.authority))
    if files.certificate:
        context.load_cert_chain(files.certificate, files.key)
    connection = http.client.HTTPSConnection(address, port, timeout=SECONDS, context=context)
    headers = {"Authorization": token} if token else {}
    try:
        if body is None:
            connection.request("GET", path, headers=headers)
        else:
            connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def log_in(address: str, port: int, files: Files, name: str, password: str) -> str:
    """The token that etcd gives a user."""
    return str(ask(address, port, "/v3/auth/authenticate", files, {"name": name, "password": password})["token"])
