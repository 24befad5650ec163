# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""list-machines, list-units, list-unit-files, list-announced, cat.

Each list is a function that reads the records anew and one that makes them text, so that ``--watch`` can repeat them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .client import place_of
from .errors import CtlError, UsageError
from .session import Session, err, mangle, short_id
from .table import Column, Columns, fields_of, to_text

if TYPE_CHECKING:
    from ..unitfile import UnitOption

Json = dict[str, Any]

UNDECIDED = "no machine has been chosen yet"


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


def _plain(key: str) -> Column:
    """A text of the API as it is; "-" or null when there is none."""
    return Column(lambda record, _full: record.get(key) or "-", lambda record: record.get(key) or None)


def _show(session: Session, columns: Columns, kinds: tuple[str, ...], read: Callable[[list[str]], list[Json]]) -> int:
    """Print what ``read`` gives for the fields, which it may add to; again and again when it is to be watched."""
    options = session.options
    fields = fields_of(options, columns)

    def text() -> str:
        shown = list(fields)
        records = read(shown)
        return to_text(options, columns, shown, records, compact=options.on("watch"))

    if options.on("watch"):
        from .watch import watch

        return watch(session, text, kinds)
    sys.stdout.write(text())
    return 0


# -- machines ------------------------------------------------------------------


def metadata_text(machine: Json) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(machine.get("metadata", {}).items())) or "-"


def _machine_state(machine: Json) -> str:
    return "draining" if machine.get("draining") else "ready"


def list_machines(session: Session, _arguments: list[str]) -> int:
    columns: Columns = {
        "machine": Column(lambda m, full: m["id"] if full else short_id(m["id"]), lambda m: m["id"]),
        "ip": _plain("primaryIP"),
        "metadata": Column(lambda m, _full: metadata_text(m), lambda m: m.get("metadata", {})),
        "state": Column(lambda m, _full: _machine_state(m), _machine_state),
    }
    return _show(session, columns, ("machine",), lambda _fields: session.client.machines())


# -- where services are --------------------------------------------------------


def list_announced(session: Session, _arguments: list[str]) -> int:
    columns: Columns = {
        "service": _plain("service"),
        "unit": _plain("unit"),
        "machine": Column(
            lambda item, full: session.machine_legend(item["machine"], full), lambda item: item["machine"]
        ),
        "address": Column(lambda item, _full: place_of(item), place_of),
    }
    fields = fields_of(session.options, columns)
    sys.stdout.write(to_text(session.options, columns, fields, session.client.announcements()))
    return 0


# -- states of units -----------------------------------------------------------


def states_with_reasons(states: list[Json], units: list[Json]) -> list[Json]:
    """States with the ``reason`` of their unit, and a record more for each wanted unit that no machine tells of.

    ``units`` are those with a reason, or all. What a machine runs although the unit has no target (it is about to stop)
    keeps its row and gets the reason.
    """
    reasons: dict[str, tuple[str, str]] = {}
    for unit in units:
        if unit.get("desiredState", "inactive") == "inactive":
            continue
        reason = unit.get("reason", "")
        if not reason and not unit.get("machineID") and not is_global(unit):
            reason = UNDECIDED
        if reason:
            reasons[unit["name"]] = reason, unit.get("machineID", "")
    told = {state["name"] for state in states}
    rows = [{**state, "reason": reasons[state["name"]][0]} if state["name"] in reasons else state for state in states]
    rows += [
        {"name": name, "machineID": machine, "reason": reason, "missing": True}
        for name, (reason, machine) in reasons.items()
        if name not in told
    ]
    return sorted(rows, key=lambda row: (row["name"], row.get("machineID", "")))


def _unit_rows(session: Session, fields: list[str]) -> list[Json]:
    """Rows of list-units; units that are on no machine only when the reason is shown or no field is asked for.

    The column with the reason is added only when there is such a unit: a table of placed units is upstream's.
    """
    chosen = "fields" in session.options.given
    states = session.client.states()
    if chosen and "reason" not in fields:
        return states
    rows = states_with_reasons(states, session.client.units(withReason="1"))
    if "reason" not in fields and any(row.get("missing") for row in rows):
        fields.append("reason")
    return rows


def list_units(session: Session, _arguments: list[str]) -> int:
    def digest(state: Json, full: bool) -> str:
        return (state.get("hash", "") if full else state.get("hash", "")[:7]) or "-"

    def reason(state: Json, _full: bool) -> str:
        # Empty, not "-": the row of a placed unit then ends as upstream's.
        return str(state.get("reason", ""))

    columns: Columns = {
        "unit": _plain("name"),
        "machine": Column(
            lambda s, full: session.machine_legend(s.get("machineID", ""), full), lambda s: s.get("machineID") or None
        ),
        "active": _plain("systemdActiveState"),
        "sub": _plain("systemdSubState"),
        "load": _plain("systemdLoadState"),
        "hash": Column(digest, lambda s: s.get("hash") or None),
        "reason": Column(reason, lambda s: s.get("reason") or None),
    }
    return _show(session, columns, ("unit", "target", "state", "machine"), lambda fields: _unit_rows(session, fields))


# -- stored units --------------------------------------------------------------


def _hash(unit: Json, full: bool) -> str:
    from ..unitfile import unit_hash

    digest = unit_hash(options_of(unit))
    return digest if full else digest[:7]


def _description(unit: Json) -> str:
    found = [o.value for o in options_of(unit) if (o.section, o.name) == ("Unit", "Description")]
    return found[-1] if found else ""


def _current_state(unit: Json) -> str:
    return "" if is_global(unit) else unit.get("currentState", "")


def list_unit_files(session: Session, _arguments: list[str]) -> int:
    def target(unit: Json, full: bool) -> str:
        return "global" if is_global(unit) else session.machine_legend(unit.get("machineID", ""), full)

    def target_id(unit: Json) -> str | None:
        return "global" if is_global(unit) else unit.get("machineID") or None

    columns: Columns = {
        "unit": _plain("name"),
        "hash": Column(_hash, lambda u: _hash(u, True)),
        "dstate": _plain("desiredState"),
        "state": Column(lambda u, _full: _current_state(u) or "-", lambda u: _current_state(u) or None),
        "target": Column(target, target_id),
        "global": Column(lambda u, _full: "true" if is_global(u) else "false", is_global),
        "desc": Column(lambda u, _full: _description(u) or "-", lambda u: _description(u) or None),
        "reason": _plain("reason"),
    }
    if "tmachine" in session.options.text("fields").split(","):
        columns["tmachine"] = columns["target"]
        err('WARNING: The "tmachine" field is deprecated. Use "target" instead')
    kinds = ("unit", "target", "state", "machine")
    return _show(session, columns, kinds, lambda _fields: session.client.units())


def cat(session: Session, arguments: list[str]) -> int:
    from ..unitfile import serialize

    if len(arguments) != 1:
        raise UsageError("One unit file must be provided")
    unit = session.find_unit(arguments[0])
    if unit is None:
        raise CtlError(f"Unit {mangle(arguments[0])} not found")
    # The file's own bytes, whatever the terminal's character set is.
    sys.stdout.flush()
    sys.stdout.buffer.write(serialize(options_of(unit)).encode("utf-8", "surrogateescape"))
    return 0
