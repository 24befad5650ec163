# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""For tests that pause fleetd and want to see what it does when it goes on: systemd does not watch it."""

from __future__ import annotations


def apply() -> None:
    from flotilla_fleet import daemon

    tell = daemon.notify

    def notify(message: str) -> None:
        if not message.startswith("WATCHDOG"):
            tell(message)

    daemon.notify = notify
