# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Columns aligned with tabs, byte for byte as Go's text/tabwriter does for upstream's fleetctl."""

from __future__ import annotations

from collections.abc import Sequence

_TAB = 8


def _clean(cell: str) -> str:
    """Without control characters: what comes from a unit file must not move the cursor."""
    return "".join(char if char.isprintable() else "?" for char in cell)


def render(rows: Sequence[Sequence[str]]) -> str:
    """All rows have the same number of cells; the last one is not padded."""
    clean = [[_clean(cell) for cell in row] for row in rows]
    columns = list(zip(*clean, strict=True))[:-1]
    stops = [(max(map(len, column)) + 1 + _TAB - 1) // _TAB * _TAB for column in columns]
    lines = []
    for row in clean:
        padded = [cell + "\t" * ((stop - len(cell) + _TAB - 1) // _TAB) for cell, stop in zip(row, stops, strict=False)]
        lines.append("".join(padded) + row[-1] + "\n")
    return "".join(lines)
