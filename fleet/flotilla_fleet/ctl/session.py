# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the commands share: the client, the machines, and where output goes."""

from __future__ import annotations

import os
import sys
from typing import Any

from ..unitname import append_suffix
from .client import Client, Endpoint
from .errors import CtlError
from .flags import Options

Json = dict[str, Any]

CANDIDATES = 20  # names in the error about a name that is not the beginning of one only
MACHINE_ID_FILE = "/etc/machine-id"


def out(text: str) -> None:
    sys.stdout.write(text + "\n")


def tell(text: str) -> None:
    """At once, for what goes on for long and whose reader is a journal."""
    out(text)
    sys.stdout.flush()


def err(text: str) -> None:
    sys.stdout.flush()  # in the order in which things happened, also in a pipe
    sys.stderr.write(text + "\n")


def mangle(argument: str) -> str:
    """The unit name that an argument (a name or a path) means."""
    return append_suffix(os.path.basename(argument))


def local_machine_id() -> str:
    """The id of the machine that this runs on; "" when it has none."""
    try:
        with open(MACHINE_ID_FILE, encoding="ascii") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""


class Session:
    """One run of a command: its options, and what it has learned from the server."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.asks = True
        """Whether fleetd can ask machines for status, journal and restart, as far as is known."""
        self._client: Client | None = None
        self._machines: dict[str, Json] | None = None
        self._tunnel: Any = None

    @property
    def client(self) -> Client:
        if self._client is None:
            self._client = self._open()
        return self._client

    def _open(self) -> Client:
        text = self.options.text
        files = (text("ca-file"), text("cert-file"), text("key-file"))
        endpoint = Endpoint(text("endpoint"), *files)
        if text("tunnel"):
            from .remote import Ssh, Tunnel

            self._tunnel = Tunnel(Ssh.from_options(self.options), text("tunnel"), endpoint)
            endpoint = Endpoint(text("endpoint"), *files, self._tunnel.path)
        return Client(endpoint, self.options.seconds("request-timeout"), self.options.on("debug"))

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        if self._tunnel is not None:
            self._tunnel.close()

    # machines

    def machines(self) -> dict[str, Json]:
        """Machines by id, read once."""
        if self._machines is None:
            self._machines = {machine["id"]: machine for machine in self.client.machines()}
        return self._machines

    def forget(self) -> None:
        """Read again what has been read once."""
        self._machines = None

    def machine_legend(self, machine_id: str, full: bool = False) -> str:
        """``f1000000.../10.78.0.11``; "-" for no machine."""
        if not machine_id:
            return "-"
        known = self.machines().get(machine_id, {})
        shown = machine_id if full else short_id(machine_id)
        return f"{shown}/{known['primaryIP']}" if known.get("primaryIP") else shown

    def find_machine(self, text: str) -> Json | None:
        """The machine with this address or with an id that begins so; more than one is an error."""
        if text in self.machines():
            return self.machines()[text]
        found = [m for m in self.machines().values() if m["id"].startswith(text) or m.get("primaryIP") == text]
        if len(found) > 1:
            ids = ", ".join(sorted(m["id"] for m in found))
            raise CtlError(f"More than one machine has an id that begins with {text}: {ids}")
        return found[0] if found else None

    def machine(self, text: str) -> Json:
        """As :meth:`find_machine`, where none is an error too."""
        found = self.find_machine(text)
        if found is None:
            raise CtlError(f"There is no machine {text}: see fleetctl list-machines")
        return found

    # units

    def find_unit(self, argument: str) -> Json | None:
        """The unit that an argument names, or the only one whose name begins so; more than one is an error."""
        unit = self.client.unit(mangle(argument))
        start = os.path.basename(argument)
        if unit is not None or not start:
            return unit
        # Servers that do not know the query give all units.
        found = [unit for unit in self.client.units(namePrefix=start) if unit["name"].startswith(start)]
        if len(found) > 1:
            names = [unit["name"] for unit in found]
            shown = ", ".join(names[:CANDIDATES]) + (f" and {len(names) - CANDIDATES} more" * (len(names) > CANDIDATES))
            raise CtlError(f"More than one unit has a name that begins with {start}: {shown}")
        return found[0] if found else None

    def units_by_name(self, names: list[str]) -> dict[str, Json]:
        """Those of the units that exist."""
        from .wait import MANY

        if len(names) > MANY:
            wanted = set(names)
            return {unit["name"]: unit for unit in self.client.units() if unit["name"] in wanted}
        found = [self.client.unit(name) for name in dict.fromkeys(names)]
        return {unit["name"]: unit for unit in found if unit is not None}


def short_id(machine_id: str) -> str:
    return f"{machine_id[:8]}..." if len(machine_id) > 8 else machine_id
