# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""fleetctl: the command line client of the fleet API.

Standard library only, and each command imports what it needs when it runs: the program shall answer
before one notices that it is Python. That is also why the flags have a parser of their own, beside
that upstream's grammar (``--flag=value`` anywhere, Go's booleans, command prefixes) is not argparse's.
"""

from __future__ import annotations
