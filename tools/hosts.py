# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make, break and remove local test machines: ``python3 tools/hosts.py --help``."""

from __future__ import annotations

import sys

from localhosts.cli import main

if __name__ == "__main__":
    sys.exit(main())
