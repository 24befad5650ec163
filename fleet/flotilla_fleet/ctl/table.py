# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records as a table for people, or as JSON for programs.

Columns are aligned with tabs, byte for byte as Go's text/tabwriter does for upstream's fleetctl.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .errors import UsageError
from .flags import Options

Json = dict[str, Any]

_TAB = 8


class Column(NamedTuple):
    """One field of a record: ``cell`` gives its text (shortened unless told not to), ``value`` what JSON shows."""

    cell: Callable[[Json, bool], str]
    value: Callable[[Json], object]


Columns = dict[str, Column]


def _clean(cell: str) -> str:
    """Without control characters: what comes from a unit file must not move the cursor."""
    return "".join(char if char.isprintable() else "?" for char in cell)


def render(rows: Sequence[Sequence[str]]) -> str:
    """All rows have the same number of cells; the last one of a row is not padded, nor any cell before empty ones."""
    clean = [[_clean(cell) for cell in row] for row in rows]
    columns = list(zip(*clean, strict=True))[:-1]
    stops = [(max(map(len, column)) + 1 + _TAB - 1) // _TAB * _TAB for column in columns]
    lines = []
    for row in clean:
        while len(row) > 1 and not row[-1]:
            row = row[:-1]
        padded = [
            cell + "\t" * ((stop - len(cell) + _TAB - 1) // _TAB) for cell, stop in zip(row[:-1], stops, strict=False)
        ]
        lines.append("".join(padded) + row[-1] + "\n")
    return "".join(lines)


def fields_of(options: Options, columns: Columns) -> list[str]:
    """The columns of ``--fields``, checked; without it JSON has all and a table its default ones."""
    fields = [field.strip() for field in options.text("fields").split(",")]
    for field in fields:
        if field not in columns:
            raise UsageError(f'Invalid key in output format: "{field}" (there are {", ".join(columns)})')
    return list(columns) if options.text("format") == "json" and "fields" not in options.given else fields


def to_json(records: object, compact: bool = False) -> str:
    """ASCII only, so that it is the same on every terminal."""
    return json.dumps(records, indent=None if compact else 2) + "\n"


def to_text(
    options: Options, columns: Columns, fields: Sequence[str], records: Sequence[Json], compact: bool = False
) -> str:
    """The records as ``--format`` wants them; ``compact`` JSON is one line."""
    if options.text("format") == "json":
        return to_json([{field: columns[field].value(record) for field in fields} for record in records], compact)
    rows = [[columns[field].cell(record, options.on("full")) for field in fields] for record in records]
    if not options.on("no-legend"):
        rows.insert(0, [field.upper() for field in fields])
    return render(rows) if rows else ""
