# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts a changed fleetd on a test host: load.py VARIANT... -- ARGUMENTS OF FLEETD

A variant is a module in this folder with a function ``apply``, which replaces parts of the installed package. The
product knows nothing of it: only tests write the unit's drop-in that runs this instead of /usr/local/bin/fleetd.
"""

from __future__ import annotations

import importlib
import os
import sys

sys.path.insert(0, os.path.realpath("/usr/lib/flotilla/fleet/current"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


def main() -> int:
    """Apply what is named before ``--``, and run fleetd with the rest."""
    index = sys.argv.index("--")
    for name in sys.argv[1:index]:
        importlib.import_module(name).apply()
    from flotilla_fleet.daemon import main as fleetd

    return fleetd(sys.argv[index + 1 :])


if __name__ == "__main__":
    sys.exit(main())
