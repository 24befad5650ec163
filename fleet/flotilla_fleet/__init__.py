# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Flotilla's fleet: systemd units over many machines, on etcd v3."""

from __future__ import annotations

import sys
from types import ModuleType

# aiohttp 3.8 would load tables of all encodings to guess those of answers; etcd's are UTF-8, and fleetd is to be small.
sys.modules.setdefault("cchardet", ModuleType("cchardet"))

__version__ = "1.1.0"
