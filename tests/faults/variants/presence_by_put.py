# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Broken: the machine shows that it lives by writing its presence again under a new lease each time."""

from __future__ import annotations


def apply() -> None:
    from flotilla_fleet import etcd as e
    from flotilla_fleet import presence

    keep = presence.Presence._hold

    async def hold(self: presence.Presence, lease: presence.Lease) -> None:
        async def renew() -> None:
            sent = presence.now()
            fresh = await self.etcd.lease_grant(self.ttl)
            key = self.keys.presence(self.machine.id)
            found = await self.etcd.get(key)
            if found is None:
                raise presence.LeaseLost(f"lease {lease.id:x} is gone")
            record = found.value.decode()
            await self.etcd.txn([], [e.op_put(key, record, fresh)])
            lease.id, lease.deadline = fresh, sent + self.ttl

        lease.renew = renew
        await keep(self, lease)

    presence.Presence._hold = hold
