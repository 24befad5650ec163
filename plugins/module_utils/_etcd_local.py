# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
# Do not use this code from other collections or standalone plugins and modules!

"""What a host keeps of an etcd member beside its data."""

from __future__ import annotations

import os
import re

VARIABLE = "FLOTILLA_ETCD_BOOTSTRAP="


def parse_bootstrap(text: str) -> str:
    """The start options in the file that exists until a member has joined; "" when there are none."""
    lines = [line.strip() for line in text.splitlines()]
    values = [line[len(VARIABLE) :] for line in lines if line.startswith(VARIABLE)]
    return values[-1].strip('"') if values else ""


def newest_snapshot(folder: str) -> int:
    """The log entry up to which a member's newest raft snapshot goes, 0 when there is none."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return 0
    found = [re.fullmatch(r"[0-9a-f]{16}-([0-9a-f]{16})\.snap", name) for name in names]
    return max((int(match[1], 16) for match in found if match), default=0)
