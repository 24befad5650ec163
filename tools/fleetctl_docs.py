# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes commands and flags, from fleetctl itself, between two markers of docs/fleetctl.md."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "fleetctl.md"
BEGIN = "<!-- commands: written by `python tools/fleetctl_docs.py` -->\n"
END = "<!-- end of commands -->\n"


def insert(page: str, commands: str) -> str:
    """The page with these commands; ValueError when it has not both markers."""
    head, begin, rest = page.partition(BEGIN)
    _old, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE} has not both of the lines {BEGIN.strip()} and {END.strip()}")
    return f"{head}{BEGIN}\n{commands}\n{END}{tail}"


def main() -> int:
    sys.path.insert(0, str(ROOT / "fleet"))
    from flotilla_fleet.ctl.help import reference

    PAGE.write_text(insert(PAGE.read_text(encoding="utf-8"), reference()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
