# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
# Do not use this code from other collections or standalone plugins and modules!

"""What a host keeps of an etcd member beside its data."""

from __future__ import annotations

VARIABLE = "FLOTILLA_ETCD_BOOTSTRAP="


def parse_bootstrap(text: str) -> str:
    """The start options in the file that exists until a member has joined; "" when there are none."""
    lines = [line.strip() for line in text.splitlines()]
    values = [line[len(VARIABLE) :] for line in lines if line.startswith(VARIABLE)]
    return values[-1].strip('"') if values else ""
