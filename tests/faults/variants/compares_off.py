# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Broken: the engine writes without comparing anything, as if a lease were a lock."""

from __future__ import annotations

from collections.abc import Sequence


def apply() -> None:
    from flotilla_fleet import engine

    async def commit(self: engine.Engine, batch: Sequence[engine.Write]) -> bool:
        operations = [operation for write in batch for operation in write.operations]
        result = await self.etcd.txn([], operations)
        self.writes += 1
        for write in batch:
            self._enter_own(write.change, result.revision)
        return True

    engine.Engine._commit = commit
