# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Broken: an agent that cannot read its assignments takes them for none."""

from __future__ import annotations

import asyncio


def apply() -> None:
    from flotilla_fleet import agent
    from flotilla_fleet.etcd import EtcdError, RangeResult

    async def run(self: agent.Agent) -> None:
        while True:
            try:
                listing = await self.etcd.prefix(self.keys.assign(self.machine_id))
            except EtcdError:
                listing = RangeResult(0, ())
            self._take_listing(listing)
            await asyncio.sleep(1.0)

    agent.Agent.run = run
