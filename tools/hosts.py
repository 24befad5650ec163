# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make, break and remove local test machines: ``python3 tools/hosts.py --help``."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    if sys.version_info < (3, 11):
        sys.exit(f"hosts.py: Python 3.11 or newer is needed and {sys.executable} is {sys.version.split()[0]}")

    from localhosts.cli import main

    sys.exit(main())
