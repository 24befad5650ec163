# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Broken: nothing stops OnPartition=stop units when the machine's lease may have ended."""

from __future__ import annotations

import asyncio


def apply() -> None:
    from flotilla_fleet import agent

    async def guard(self: agent.Agent) -> None:
        await asyncio.Event().wait()

    agent.Agent.guard = guard
