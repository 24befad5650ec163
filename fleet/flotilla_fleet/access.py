# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may do what with the API: three roles, and the certificates that have them.

The Unix socket is for admins: its file mode decides who gets that far. Over TCP the client's certificate decides, by
its organization (O): ``fleet:viewer``, ``fleet:operator`` or ``fleet:admin``. A certificate without one of these may do
nothing, so that an authority which signs other things too gives nobody power over units by accident.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any

ORGANIZATION = "fleet:"


class Role(enum.IntEnum):
    """Each role may do what the ones before it may."""

    NOBODY = 0
    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


_READS = ("GET", "HEAD", "OPTIONS")
_OPERATORS_RESOURCES = ("unit", "restart")
"""What operators may change: units. Machines (metadata, drain) and moves between them are for admins."""


def role_of(certificate: dict[str, Any] | None) -> Role:
    """The highest role that a certificate, as ``ssl.SSLSocket.getpeercert`` gives it, has."""
    found = Role.NOBODY
    for organization in _organizations((certificate or {}).get("subject", ())):
        name = organization.removeprefix(ORGANIZATION).upper()
        if organization.startswith(ORGANIZATION) and name in ("VIEWER", "OPERATOR", "ADMIN"):
            found = max(found, Role[name])
    return found


def _organizations(subject: Iterable[Iterable[tuple[str, str]]]) -> list[str]:
    return [value for part in subject for key, value in part if key == "organizationName"]


def needed(method: str, resource: str) -> Role:
    """The role that a request needs."""
    if method in _READS:
        return Role.VIEWER
    return Role.OPERATOR if resource in _OPERATORS_RESOURCES else Role.ADMIN
