# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""What fleet's users and roles of etcd are called, and where its keys begin."""

from __future__ import annotations

import re

_MACHINE = "fleet-machine-"
_ID = "[0-9a-f]{32}"


def is_machine_id(text: str) -> bool:
    """Whether a text is the id of a machine."""
    return re.fullmatch(_ID, text) is not None


def machine_role(machine: str) -> str:
    """Name of the role, and of the user, of a machine."""
    return f"{_MACHINE}{machine}"


def machine_of(name: str) -> str | None:
    """The id of the machine whose role or user it is, None for any other."""
    found = re.fullmatch(f"{_MACHINE}({_ID})", name)
    return found.group(1) if found else None


def key_prefix(prefix: str) -> str:
    """What fleet's keys begin with, with a slash at both ends."""
    inner = prefix.strip("/")
    return f"/{inner}/" if inner else "/"
