# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Broken: one worker for all units, in order of names, which begins again at the first error, as upstream's did."""

from __future__ import annotations

import asyncio


def apply() -> None:
    from flotilla_fleet import agent
    from flotilla_fleet.etcd import EtcdError
    from flotilla_fleet.systemd import SystemdError

    async def work_on_all(self: agent.Agent) -> None:
        while True:
            await self._systemd_up.wait()
            for name in sorted(set(self.local) | set(self.desired)):
                try:
                    await self._converge(name)
                except (SystemdError, OSError, EtcdError) as exc:
                    self._complain(name, exc)
                    break
                except agent.Overtaken:
                    continue
            await asyncio.sleep(0.1)

    def kick(self: agent.Agent, name: str) -> None:
        if not hasattr(self, "_only_worker"):
            self._only_worker = asyncio.create_task(work_on_all(self))

    agent.Agent._kick = kick
