# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""list-machines, list-units, list-unit-files, cat."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .errors import CtlError, UsageError
from .session import Session, err, mangle, short_id
from .table import render

if TYPE_CHECKING:
    from ..unitfile import UnitOption

Json = dict[str, Any]
Columns = dict[str, Callable[[Json, bool], str]]


def options_of(unit: Json) -> list[UnitOption]:
    """The options of a unit of the API."""
    from ..unitfile import UnitOption  # here and below: not every command needs it, and it takes long to load

    return [
        UnitOption(item.get("section", ""), item.get("name", ""), item.get("value", ""))
        for item in unit.get("options", ())
    ]


def is_global(unit: Json) -> bool:
    from ..unitfile import requirements

    return requirements(unit["name"], options_of(unit)).is_global


def _print_table(session: Session, columns: Columns, records: list[Json]) -> int:
    options = session.options
    fields = [field.strip() for field in options.text("fields").split(",")]
    for field in fields:
        if field not in columns:
            raise UsageError(f'Invalid key in output format: "{field}" (there are {", ".join(columns)})')
    rows = [[columns[field](record, options.on("full")) for field in fields] for record in records]
    if not options.on("no-legend"):
        rows.insert(0, [field.upper() for field in fields])
    if rows:
        sys.stdout.write(render(rows))
    return 0


def list_machines(session: Session, _arguments: list[str]) -> int:
    columns: Columns = {
        "machine": lambda m, full: m["id"] if full else short_id(m["id"]),
        "ip": lambda m, _full: m.get("primaryIP") or "-",
        "metadata": lambda m, _full: ",".join(f"{k}={v}" for k, v in sorted(m.get("metadata", {}).items())) or "-",
    }
    return _print_table(session, columns, session.client.machines())


def list_units(session: Session, _arguments: list[str]) -> int:
    columns: Columns = {
        "unit": lambda s, _full: s["name"],
        "machine": lambda s, full: session.machine_legend(s.get("machineID", ""), full),
        "load": lambda s, _full: s.get("systemdLoadState") or "-",
        "active": lambda s, _full: s.get("systemdActiveState") or "-",
        "sub": lambda s, _full: s.get("systemdSubState") or "-",
        "hash": lambda s, full: (s.get("hash") if full else s.get("hash", "")[:7]) or "-",
    }
    return _print_table(session, columns, session.client.states())


def _hash(unit: Json, full: bool) -> str:
    from ..unitfile import unit_hash

    digest = unit_hash(options_of(unit))
    return digest if full else digest[:7]


def _description(unit: Json, _full: bool) -> str:
    found = [o.value for o in options_of(unit) if (o.section, o.name) == ("Unit", "Description")]
    return found[-1] if found and found[-1] else "-"


def list_unit_files(session: Session, _arguments: list[str]) -> int:
    def target(unit: Json, full: bool) -> str:
        return "global" if is_global(unit) else session.machine_legend(unit.get("machineID", ""), full)

    columns: Columns = {
        "unit": lambda u, _full: u["name"],
        "hash": _hash,
        "dstate": lambda u, _full: u.get("desiredState") or "-",
        "state": lambda u, _full: "-" if is_global(u) else u.get("currentState") or "-",
        "target": target,
        "tmachine": target,
        "global": lambda u, _full: "true" if is_global(u) else "false",
        "desc": _description,
        "reason": lambda u, _full: u.get("reason") or "-",
    }
    result = _print_table(session, columns, session.client.units())
    if "tmachine" in session.options.text("fields").split(","):
        err('WARNING: The "tmachine" field is deprecated. Use "target" instead')
    return result


def cat(session: Session, arguments: list[str]) -> int:
    from ..unitfile import serialize

    if len(arguments) != 1:
        raise UsageError("One unit file must be provided")
    name = mangle(arguments[0])
    unit = session.client.unit(name)
    if unit is None:
        raise CtlError(f"Unit {name} not found")
    sys.stdout.write(serialize(options_of(unit)))
    return 0
