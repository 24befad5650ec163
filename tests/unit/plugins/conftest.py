# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fixtures that run whole modules against a server that answers by a script."""

from __future__ import annotations

import importlib
import json
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.flotilla.cluster.tests.unit.plugins.scripted_http import Exchange, ScriptedServer

MODULES = "ansible_collections.flotilla.cluster.plugins.modules"


class Result(dict[str, t.Any]):
    """What a module printed. Asked for what is not there, it tells why: most often the module failed."""

    def __missing__(self, key: str) -> t.NoReturn:
        raise KeyError(f"{key}: not in what the module printed, {dict(self)}")


@pytest.fixture
def run_module(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> t.Callable[..., dict[str, t.Any]]:
    """Runs a module of this collection in this process; returns what it prints."""
    # Tests of the controller's plugins, if they ran before in this process, have made it a controller, whose modules
    # print warnings instead of returning them.
    monkeypatch.setattr("ansible.module_utils._internal.is_controller", False)

    def run(name: str, /, **arguments: t.Any) -> dict[str, t.Any]:
        module = importlib.import_module(f"{MODULES}.{name}")
        with patch_module_args(arguments), pytest.raises(SystemExit):
            module.main()
        return Result(json.loads(capsys.readouterr().out))

    return run


@pytest.fixture
def serve() -> Iterator[t.Callable[..., ScriptedServer]]:
    """Starts servers that expect exchanges in their order; afterwards checks that each has had all of them."""
    servers: list[ScriptedServer] = []

    def start(*exchanges: Exchange, socket: Path | None = None) -> ScriptedServer:
        server = ScriptedServer(exchanges, socket)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()
    for server in servers:
        server.verify()
